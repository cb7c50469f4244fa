"""`assay diff`: what two specs or runs say differently, and which stages that makes run again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from assay.cli.terminal.echo import echo
from assay.errors import InvalidInput, UsageError
from assay.loader.annotations import annotation_at
from assay.loader.compose import Override
from assay.loader.diff import Change, differences
from assay.loader.load import resolve_spec
from assay.loader.yaml.writer import written
from assay.settings import Settings
from assay.spec.spec import Spec
from assay.text import padded
from assay.text import width as columns_of


@dataclass(frozen=True)
class Comparison:
    """From one spec or run to another."""

    changes: list[Change]
    runs_again: list[str] | None
    """Stages; None when that cannot be told here."""
    why_unknown: str = ""


def compare(old: str, new: str, overrides: Sequence[Override], settings: Settings) -> Comparison:
    """Each of the two is a spec file, or the start of a run's id; the overrides lie on the second.
    Raises InvalidInput and UsageError."""
    before, after = _spec(old, (), settings), _spec(new, overrides, settings)
    changes = differences(before, after)
    if not changes:
        return Comparison([], [])
    from assay.flow.pipeline.diff import stages_again

    try:
        return Comparison(changes, stages_again(before, after, Path.cwd(), settings))
    except InvalidInput as error:
        return Comparison(changes, None, str(error))


def print_comparison(comparison: Comparison) -> None:
    """A line for each changed path, and what that makes run again."""
    width = max((columns_of(change.path) for change in comparison.changes), default=0)
    for change in comparison.changes:
        annotation = annotation_at(Spec, tuple(change.path.split(".")))
        old, new = written(change.old, annotation), written(change.new, annotation)
        echo(
            f"{padded(change.path, width)}  {click.style(old, fg='red')} -> "
            f"{click.style(new, fg='green')}"
        )
    if not comparison.changes:
        echo("the same")
    elif comparison.runs_again is None:
        echo(f"what runs again cannot be told here: {comparison.why_unknown}")
    else:
        echo(f"runs again: {', '.join(comparison.runs_again) or 'nothing'}")


def _spec(name: str, overrides: Sequence[Override], settings: Settings) -> Spec:
    """The spec in a file, or the one of a run."""
    if Path(name).exists() or name.endswith((".yaml", ".yml")):
        return resolve_spec(Path(name), overrides)[0]
    if overrides:
        raise UsageError("--set and --set-file change a spec file; a run stays what it was")
    from pydantic import ValidationError

    from assay.store.ledger import Ledger

    run = Ledger(settings.ledger_url).find_run(name)
    try:
        return Spec.model_validate_json(run.spec)
    except ValidationError as error:
        raise UsageError(
            f"the spec of run {run.id} is of a form that this version does not read"
        ) from error
