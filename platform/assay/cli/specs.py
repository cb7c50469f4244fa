"""The commands on a spec: write one, check it, look at its data, plan and run it."""

import functools
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from assay.cli.commands.datasets import register, versions
from assay.cli.commands.gate import verdict_code
from assay.cli.commands.rows import card, models, why
from assay.cli.terminal import options
from assay.cli.terminal.echo import echo
from assay.errors import ExitCode, InvalidInput, UsageError
from assay.settings import Settings

if TYPE_CHECKING:
    from assay.spec.gate import SuiteSpec
    from assay.spec.spec import Spec

Overrides = tuple[tuple[str, str], ...]
"""`--set` and `--set-file` with what follows them; a `--set` has the later word."""

Command = TypeVar("Command", bound=Callable[..., None])


def _overridable(command: Command) -> Command:
    """Gives a command the options `--set` and `--set-file`, and itself their values in
    `overrides`."""

    @click.option(
        "--set",
        "values",
        multiple=True,
        metavar="PATH=VALUE",
        help="Say a value, such as train.seed=7.",
    )
    @click.option(
        "--set-file", "files", multiple=True, metavar="PATH=FILE", help="Take a value from a file."
    )
    @functools.wraps(command)
    def overridden(*, values: tuple[str, ...], files: tuple[str, ...], **others: Any) -> None:
        # The files first: a `--set` beside one has the later word.
        overrides = [("--set-file", text) for text in files]
        overrides += [("--set", text) for text in values]
        command(**others, overrides=tuple(overrides))

    return overridden  # type: ignore[return-value]


@click.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("spec.yaml"))
@click.option(
    "--template",
    type=click.Choice(["lora", "qlora", "full", "dpo", "classify"]),
    help="What to learn, and how.",
)
@click.option("--model", default=None, help="Base model; hf:Qwen/Qwen3-0.6B when not said.")
@click.option("--data", default=None, help="Training data, JSON Lines; train.jsonl when not said.")
@click.option(
    "--name", default=None, help="Name of what is built; the folder's name when not said."
)
@click.option("--reviewer", default=None, help="Who may approve; you when not said.")
@click.option(
    "--from",
    "source",
    default=None,
    metavar="FILE[#NAME]",
    help="Take the data of LLaMA-Factory's dataset_info.json, or of Axolotl's `datasets:`.",
)
def init(path: Path, source: str | None, **typed: Any) -> None:
    """Write a first spec, and a suite for its gate. In a terminal, what the options leave open is
    asked."""
    if source is not None:
        from assay.cli.commands.datasets import import_data

        if typed["data"] is not None:
            raise UsageError("--from says where the data are; leave --data out")
        typed["data"] = str(import_data(source))
    from assay.cli.commands.init import Typed, first_spec
    from assay.engines.cluster.nodes import num_local_gpus

    settings, said = Settings(), Typed(**typed)
    # What a named cluster has is not known here; it is taken to have GPUs.
    has_gpu = settings.ray_address != "" or num_local_gpus() > 0
    in_terminal = sys.stdin.isatty() and sys.stdout.isatty()
    interactive = in_terminal and not said.is_enough
    first_spec(path, said, user=settings.user, has_gpu=has_gpu, interactive=interactive)


@click.command()
@options.spec
@options.as_json
@_overridable
def validate(spec: Path, as_json: bool, overrides: Overrides) -> None:
    """Check a spec, its suite and its data; say everything that is wrong at once."""
    try:
        loaded, _ = _checked(spec, overrides)
    except InvalidInput as error:
        if as_json:
            problems = [problem.as_dict() for problem in error.problems]
            echo(json.dumps({"valid": False, "problems": problems}))
            sys.exit(ExitCode.USAGE)
        raise
    if as_json:
        echo(json.dumps({"valid": True, "problems": [], "spec": loaded.model_dump(mode="json")}))
    else:
        echo(f"{spec} is valid")


@click.command()
@options.spec
@click.option(
    "--cluster",
    "cluster_file",
    type=click.Path(path_type=Path),
    help="Plan for the cluster in this file.",
)
@click.option(
    "--against",
    default=None,
    help="Show what is different from this run (its id or the start of it).",
)
@options.as_json
@_overridable
def plan(
    spec: Path, cluster_file: Path | None, against: str | None, as_json: bool, overrides: Overrides
) -> None:
    """Say what a run would do, reuse, need and be able to show. Nothing is started."""
    from assay.cli.commands.plan import show_plan

    loaded, suite = _checked(spec, overrides, reads_data=False)
    show_plan(
        loaded,
        suite,
        settings=Settings(),
        cluster_file=cluster_file,
        against=against,
        as_json=as_json,
    )


@click.group()
def data() -> None:
    """Look at data as the model will see them, and at what became of every row."""


for command in (why, models, card, register, versions):
    data.add_command(command)


@data.command()
@options.spec
@click.option(
    "--num", default=5, show_default=True, type=click.IntRange(0), help="How many examples to show."
)
@click.option(
    "--step",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Which training step's data.",
)
@options.as_json
@_overridable
def show(spec: Path, num: int, step: int, as_json: bool, overrides: Overrides) -> None:
    """Show examples with what is learned marked, lengths, and what is left out and why. No cluster
    is needed."""
    from assay.cli.commands.data import show_data

    loaded, _ = _checked(spec, overrides, reads_data=False)
    in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    show_data(loaded, step=step, num=num, settings=Settings(), as_json=as_json, in_colour=in_colour)


@click.command()
@options.spec
@click.option(
    "--keep", is_flag=True, help="Leave the candidate's engine running whatever the verdict is."
)
@_overridable
def run(spec: Path, keep: bool, overrides: Overrides) -> None:
    """Run a spec as far as the gate's verdict, on this machine or on ASSAY_RAY_ADDRESS."""
    from assay.cli.local import ensure_place
    from assay.cli.terminal import display, tables
    from assay.flow.pipeline import run as flow
    from assay.store.ledger import Ledger

    loaded, suite = _checked(spec, overrides, is_run_here=True)
    settings = Settings()
    with display.watching() as watcher:
        outcome = flow.run(
            flow.RunRequest(loaded, suite, Path.cwd(), keep),
            settings=settings,
            watcher=watcher,
            before_work=lambda: ensure_place(settings),
        )
    tables.print_scorecard(outcome.run, outcome.gate.scorecard)
    if not outcome.num_stages_run:
        echo(f"{outcome.run}: nothing has changed, so nothing was run")
    champion = Ledger(settings.ledger_url).champion()
    if champion is not None and champion.run == outcome.run:
        echo(f"it has the traffic (slot {champion.slot})")
    elif outcome.gate.scorecard.outcome == "PASS":
        echo(tables.next_steps(outcome.run, loaded, outcome.gate.scorecard))
    sys.exit(verdict_code(outcome.gate.scorecard.outcome))


@click.command()
@options.spec
@click.option(
    "--address", default=None, help="Ray's dashboard or job API, such as http://127.0.0.1:8265."
)
@click.option("--no-follow", is_flag=True, help="Hand the run over and return.")
@_overridable
def submit(spec: Path, address: str | None, no_follow: bool, overrides: Overrides) -> None:
    """Run a spec as a job on a Ray cluster, follow its output, and exit with the run's own code."""
    from assay.cli.remote import submit_spec

    loaded, suite = _checked(spec, overrides)
    follow = not no_follow
    sys.exit(submit_spec(spec, loaded, suite, settings=Settings(), address=address, follow=follow))


@click.command()
@options.spec
@options.as_json
@_overridable
def render(spec: Path, as_json: bool, overrides: Overrides) -> None:
    """Print the whole spec, defaults included, and where each value is from."""
    from assay.cli.commands.render import rendered, rendered_data

    if as_json:
        echo(json.dumps(rendered_data(spec, overrides)))
    else:
        echo(rendered(spec, overrides))


@click.command()
@click.argument("path", default="")
def explain(path: str) -> None:
    """Say what a key means, such as train.learning_rate; without a key, list the blocks."""
    from assay.cli.commands.explain import explain as explained

    echo(explained(path))


@click.command()
@click.argument("old")
@click.argument("new")
@options.as_json
@_overridable
def diff(old: str, new: str, as_json: bool, overrides: Overrides) -> None:
    """Say what two specs or runs say differently, and what that makes run again."""
    from assay.cli.commands.diff import compare, print_comparison

    comparison = compare(old, new, overrides, Settings())
    if as_json:
        echo(json.dumps(asdict(comparison)))
    else:
        print_comparison(comparison)


def _checked(path: Path, overrides: Overrides, **how: bool) -> "tuple[Spec, SuiteSpec]":
    """The spec and its suite, with nothing wrong that can be known before anything is started."""
    from assay.flow.place.known import known_place
    from assay.flow.preflight.check import check

    return check(path, root=Path(), overrides=overrides, place=known_place(Settings()), **how)


COMMANDS = (init, validate, plan, data, run, submit, render, explain, diff)
