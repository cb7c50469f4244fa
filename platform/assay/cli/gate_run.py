"""`assay gate run`: a model that was made elsewhere, weighed and decided."""

from collections.abc import Sequence
from pathlib import Path

import click
import yaml
from pydantic import ValidationError

from assay.cli import display, tables
from assay.cli.local import ensure_place
from assay.cli.report import write_html
from assay.errors import UsageError
from assay.flow import weighing
from assay.flow.report import report
from assay.place import Place
from assay.records.gate import Outcome
from assay.records.weighing import Subject, WeighingRequest
from assay.spec.check import model_fault
from assay.spec.load import load_suites
from assay.spec.model import ModelSpec
from assay.spec.serve import EngineSpec


def weigh(
    candidate: Subject,
    base: Subject | None,
    suites: Sequence[str],
    *,
    place: Place,
    engine: Sequence[str] = (),
    num_concurrent: int,
    api_key: str,
    html_file: Path | None,
    as_json: bool,
) -> Outcome:
    """Weighs, shows the scorecard in the forms that were asked for, and returns the verdict."""
    request = WeighingRequest(candidate=candidate, base=base, suite=tuple(suites), engine=engine_settings(engine))
    weighed = _weighed(request, place, num_concurrent=num_concurrent, api_key=api_key, to_stderr=as_json)
    document = report(weighed.name, place=place)
    if html_file is not None:
        write_html(document, html_file)
    if as_json:
        click.echo(document.model_dump_json())
    else:
        tables.print_scorecard(weighed.name, document.scorecard, document.selftest)
        if not weighed.num_stages_run:
            click.echo(f"{weighed.name}: nothing has changed, so nothing was asked")
        if html_file is not None:
            click.echo(f"wrote {html_file}")
    return document.scorecard.outcome


def weigh_quietly(
    candidate: Subject, base: Subject | None, suites: Sequence[str], place: Place, num_concurrent: int
) -> str:
    """Weighs without showing a scorecard; returns the weighing's name."""
    request = WeighingRequest(candidate=candidate, base=base, suite=tuple(suites), engine={})
    return _weighed(request, place, num_concurrent=num_concurrent, api_key="none", to_stderr=True).name


def _weighed(
    request: WeighingRequest, place: Place, *, num_concurrent: int, api_key: str, to_stderr: bool
) -> weighing.Weighed:
    suite = load_suites(request.suite)
    for named in (request.candidate, request.base):
        check_source(named)
    with display.watching(to_stderr=to_stderr) as watcher:
        return weighing.run(
            request,
            suite,
            root=Path.cwd(),
            place=place,
            watcher=watcher,
            before_work=lambda: ensure_place(place),
            api_key=api_key,
            num_concurrent=num_concurrent,
        )


def check_source(subject: Subject | None) -> None:
    """Raises `UsageError` when the model is not there."""
    if subject is None or subject.url:
        return
    try:
        found = model_fault(ModelSpec(source=subject.source), Path.cwd())
    except ValidationError as error:
        raise UsageError(str(error.errors()[0]["msg"])) from error
    if found:
        raise UsageError(": ".join(text for text in found if text))


def engine_settings(said: Sequence[str]) -> dict[str, str | int | float | bool]:
    """`KEY=VALUE` pairs as the settings of `serve.engine`. Raises `UsageError` for one that it does not take."""
    pairs = [pair.partition("=") for pair in said]
    if wrong := [pair[0] for pair in pairs if not pair[1]]:
        raise UsageError(f"--engine takes KEY=VALUE, not {wrong[0]}")
    wanted = {key.strip(): yaml.safe_load(value) for key, _, value in pairs}
    try:
        return EngineSpec.model_validate(wanted).model_dump(include=set(wanted))
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(f"--engine {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
