"""The `assay` command. Each command imports what it needs when it is called, so that `--help` is
quick."""

import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from assay import __version__
from assay.cli.commands.gate import gate, verdict_code
from assay.cli.commands.rows import card, models, why
from assay.cli.place.policy import policy
from assay.cli.place.proof import audit, keys, verify
from assay.cli.place.users import login, users
from assay.cli.terminal.echo import echo
from assay.errors import EXIT_CODE_MEANINGS, AssayError, ExitCode, InvalidInput
from assay.settings import Settings
from assay.text import printable

if TYPE_CHECKING:
    from assay.spec.gate import SuiteSpec
    from assay.spec.spec import Spec

Overrides = tuple[tuple[str, str], ...]
"""`--set` and `--set-file` with what follows them; a `--set` has the later word."""

Command = TypeVar("Command", bound=Callable[..., None])

INTERRUPTED = 130  # what shells expect after Ctrl-C

_EXIT_CODES = "\b\nExit codes:\n" + "\n".join(
    f"  {code.value:>3}  {text}" for code, text in EXIT_CODE_MEANINGS.items()
)
_EXIT_CODES += f"\n  {INTERRUPTED}  interrupted by Ctrl-C; finished stages are kept"


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
        said = [*(("--set-file", text) for text in files), *(("--set", text) for text in values)]
        command(**others, overrides=tuple(said))

    return overridden  # type: ignore[return-value]


@click.group(
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="assay")
@click.option(
    "-v", "--verbose", is_flag=True, help="Say on standard error what is done, step by step."
)
def assay(verbose: bool) -> None:
    """From a YAML spec to a gated, approved, served language model on Ray."""
    if verbose:
        import logging

        logging.basicConfig(format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        logging.getLogger("assay").setLevel(logging.DEBUG)


assay.add_command(gate)
for command in (keys, verify, audit, users, login, policy):
    assay.add_command(command)


@assay.command()
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
def init(
    path: Path,
    template: Any,
    model: str | None,
    data: str | None,
    name: str | None,
    reviewer: str | None,
) -> None:
    """Write a first spec, and a suite for its gate. In a terminal, what the options leave open is
    asked."""
    from assay.cli.commands.init import first_spec
    from assay.engines.cluster.nodes import num_local_gpus

    first_spec(
        path,
        template=template,
        model=model,
        data=data,
        name=name,
        reviewer=reviewer,
        user=Settings().user,
        has_gpu=Settings().ray_address != "" or num_local_gpus() > 0,
        interactive=sys.stdin.isatty()
        and sys.stdout.isatty()
        and not (template and model and data),
    )


@assay.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@_overridable
def validate(spec: Path, as_json: bool, overrides: Overrides) -> None:
    """Check a spec, its suite and its data; say everything that is wrong at once."""
    try:
        loaded, _ = _checked(spec, overrides)
    except InvalidInput as error:
        if as_json:
            echo(
                json.dumps(
                    {"valid": False, "problems": [problem.as_dict() for problem in error.problems]}
                )
            )
            sys.exit(ExitCode.USAGE)
        raise
    if as_json:
        echo(json.dumps({"valid": True, "problems": [], "spec": loaded.model_dump(mode="json")}))
    else:
        echo(f"{spec} is valid")


@assay.command()
@click.argument("spec", type=click.Path(path_type=Path))
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
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


@assay.group()
def data() -> None:
    """Look at data as the model will see them, and at what became of every row."""


for command in (why, models, card):
    data.add_command(command)


@data.command()
@click.argument("spec", type=click.Path(path_type=Path))
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
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@_overridable
def show(spec: Path, num: int, step: int, as_json: bool, overrides: Overrides) -> None:
    """Show examples with what is learned marked, lengths, and what is left out and why. No cluster
    is needed."""
    from assay.cli.commands.data import show_data

    loaded, _ = _checked(spec, overrides, reads_data=False)
    in_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    show_data(loaded, step=step, num=num, settings=Settings(), as_json=as_json, in_colour=in_colour)


@assay.command()
@click.argument("spec", type=click.Path(path_type=Path))
@_overridable
def run(spec: Path, overrides: Overrides) -> None:
    """Run a spec as far as the gate's verdict, on this machine or on ASSAY_RAY_ADDRESS."""
    from assay.cli.terminal import display, tables
    from assay.flow.pipeline import run as flow

    loaded, suite = _checked(spec, overrides, is_run_here=True)
    settings = Settings()
    with display.watching() as watcher:
        outcome = flow.run(
            loaded,
            suite,
            root=Path.cwd(),
            settings=settings,
            watcher=watcher,
            before_work=lambda: _start_place(settings),
        )
    tables.print_scorecard(outcome.run, outcome.gate.scorecard)
    if not outcome.num_stages_run:
        echo(f"{outcome.run}: nothing has changed, so nothing was run")
    if outcome.gate.scorecard.outcome == "PASS":
        echo(tables.next_steps(outcome.run, loaded, outcome.gate.scorecard))
    sys.exit(verdict_code(outcome.gate.scorecard.outcome))


@assay.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option(
    "--address", default=None, help="Ray's dashboard or job API, such as http://127.0.0.1:8265."
)
@click.option("--no-follow", is_flag=True, help="Hand the run over and return.")
@_overridable
def submit(spec: Path, address: str | None, no_follow: bool, overrides: Overrides) -> None:
    """Run a spec as a job on a Ray cluster, follow its output, and exit with the run's own code."""
    from assay.cli.remote import submit_spec

    loaded, suite = _checked(spec, overrides)
    sys.exit(
        submit_spec(spec, loaded, suite, settings=Settings(), address=address, follow=not no_follow)
    )


@assay.command()
@click.argument("spec", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@_overridable
def render(spec: Path, as_json: bool, overrides: Overrides) -> None:
    """Print the whole spec, defaults included, and where each value is from."""
    from assay.cli.commands.render import rendered, rendered_data

    echo(json.dumps(rendered_data(spec, overrides)) if as_json else rendered(spec, overrides))


@assay.command()
@click.argument("path", default="")
def explain(path: str) -> None:
    """Say what a key means, such as train.learning_rate; without a key, list the blocks."""
    from assay.cli.commands.explain import explain as explained

    echo(explained(path))


@assay.command()
@click.argument("old")
@click.argument("new")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@_overridable
def diff(old: str, new: str, as_json: bool, overrides: Overrides) -> None:
    """Say what two specs or runs say differently, and what that makes run again."""
    from assay.cli.commands.diff import compare, print_comparison

    comparison = compare(old, new, overrides, Settings())
    if as_json:
        echo(json.dumps(asdict(comparison)))
    else:
        print_comparison(comparison)


@assay.command()
@click.argument("run", default="")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
def logs(run: str, follow: bool) -> None:
    """Print a run's own log: what each stage did when, and all of an error; the newest run's when
    none is named."""
    from assay.flow.pipeline.executor import LOCK
    from assay.flow.pipeline.log import FILE, lines
    from assay.store.ledger import Ledger
    from assay.store.lock import is_held

    settings = Settings()
    folder = settings.run_folder(Ledger(settings.ledger_url).find_run(run).id)
    if not (folder / FILE).is_file():
        _fail(
            f"{folder} has no log; a version before this one made it, or another machine did",
            ExitCode.USAGE,
        )
    for line in lines(folder / FILE, goes_on=lambda: follow and is_held(folder / LOCK) is True):
        echo(line.rstrip("\n"))


@assay.command()
@click.argument("run", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def status(run: str, as_json: bool) -> None:
    """Say how far a run is (its id or the start of it), or list the runs."""
    from assay.cli.terminal import tables
    from assay.flow.pipeline.executor import stages_now
    from assay.store.ledger import Ledger

    settings = Settings()
    ledger = Ledger(settings.ledger_url)
    if run:
        row = ledger.find_run(run)
        if as_json:
            approvals = [word.model_dump() for word in ledger.approvals(row.id)]
            stages = [vars(stage) for stage in stages_now(row.id, ledger, settings)]
            echo(json.dumps({"run": row.id, "stages": stages, "approvals": approvals}))
        else:
            tables.print_status(row.id, ledger, settings)
        return
    champion = ledger.champion()
    runs = ledger.runs()
    if as_json:
        release = ledger.releases.under_way()
        said = {
            "runs": [vars(row) for row in runs],
            "champion": champion.model_dump() if champion else None,
            "release": release.model_dump() if release else None,
        }
        echo(json.dumps(said))
    else:
        tables.print_runs(runs, champion, ledger, settings)


@assay.command()
@click.argument("run", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.option(
    "--html",
    "html_file",
    type=click.Path(path_type=Path),
    help="Write the scorecard as one HTML file.",
)
@click.option(
    "--answers",
    default=None,
    type=click.IntRange(0),
    help="How many wrong answers of each limit to show.",
)
def report(run: str, as_json: bool, html_file: Path | None, answers: int | None) -> None:
    """Show a run's sweep, scorecard and worst answers; the newest run when none is named."""
    from assay.cli.commands.report import show_report

    show_report(run, Settings(), as_json=as_json, html_file=html_file, num_examples=answers)


@assay.command()
@click.argument("run")
@click.option(
    "--as", "reviewer", default=None, help="Your name as the spec has it; your login when not said."
)
@click.option("--reason", default="", help="Why; needed when a soft limit was missed.")
@click.option("--address", default=None, help="Do it on this Ray cluster (dashboard address).")
def approve(run: str, reviewer: str | None, reason: str, address: str | None) -> None:
    """Agree to a run's release; bound to its scorecard and to every byte of its model."""
    _word("approve", run, reviewer, reason, address)


@assay.command()
@click.argument("run")
@click.option(
    "--as", "reviewer", default=None, help="Your name as the spec has it; your login when not said."
)
@click.option("--reason", required=True, help="Why.")
@click.option("--address", default=None, help="Do it on this Ray cluster (dashboard address).")
def reject(run: str, reviewer: str | None, reason: str, address: str | None) -> None:
    """Refuse a run's release."""
    _word("reject", run, reviewer, reason, address)


@assay.command()
@click.argument("run")
@click.option("--address", default=None, help="Do it on this Ray cluster (dashboard address).")
def promote(run: str, address: str | None) -> None:
    """Move traffic to an approved run, step by step."""
    from assay.flow.release.operations import promote_run

    _elsewhere(address, ["promote", run])
    settings = Settings()
    traffic = promote_run(run, settings=settings, say=echo)
    if traffic.action == "rollback":
        echo(f"rolled back: {traffic.reason}", err=True)
        sys.exit(ExitCode.ROLLED_BACK)
    assert traffic.champion is not None
    echo(
        f"{traffic.champion.run} has the traffic (slot {traffic.champion.slot}) at "
        f"{settings.gateway_url}"
    )


@assay.command()
@click.option("--reason", default="", help="Why; kept in the ledger.")
@click.option("--address", default=None, help="Do it on this Ray cluster (dashboard address).")
def rollback(reason: str, address: str | None) -> None:
    """Give the traffic back to the former champion."""
    from assay.flow.release.operations import rollback_run

    _elsewhere(address, ["rollback", "--reason", reason])
    traffic = rollback_run(settings=Settings(), reason=reason, say=echo)
    if traffic.champion is None:
        echo("nobody has the traffic: there was no champion before")
    else:
        echo(f"{traffic.champion.run} has the traffic again (slot {traffic.champion.slot})")


@assay.command()
@click.argument("message", nargs=-1)
@click.option("--model", default=None, help="Model name; the champion's when not said.")
@click.option(
    "--system", default=None, help="System prompt; the one of the champion's spec when not said."
)
@click.option(
    "--with",
    "beside",
    default=None,
    metavar="WHAT",
    help="Ask another model, too: `base`, a run (its candidate, promoted or not), an adapter's folder, or a model.",
)
def chat(
    message: tuple[str, ...], model: str | None, system: str | None, beside: str | None
) -> None:
    """Ask the served model, through the gateway. Without a message: a conversation."""
    from assay.cli.commands.chat import compare, converse

    if beside is not None:
        compare(Settings(), " ".join(message), beside, model=model, system=system)
    else:
        converse(Settings(), " ".join(message), model=model, system=system)


@assay.command()
@click.option("--new-key", is_flag=True, help="Make one more API key.")
@click.option(
    "--save-key",
    is_flag=True,
    help="Also keep the key in ASSAY_HOME/api-key (mode 0600) for `assay chat`.",
)
@click.option(
    "--gateway-only",
    is_flag=True,
    help="Start the gateway alone, beside a Ray head that runs already.",
)
def up(new_key: bool, save_key: bool, gateway_only: bool) -> None:
    """Start a local Ray head and the gateway, bring the champion back, print an API key once."""
    from assay.cli.local import start_place

    start_place(Settings(), new_key=new_key, save_key=save_key, gateway_only=gateway_only)


@assay.command()
def down() -> None:
    """Stop controller, gateway, local Ray head and everything on it. Ledger and artifacts stay."""
    from assay.cli.local import stop_place

    stop_place(Settings())


@assay.command(hidden=True)
@click.option(
    "--approve", "approve_it", is_flag=True, help="Approve by the demo's reviewer, without asking."
)
@click.option("--spec", type=click.Path(path_type=Path), default=Path("specs/country-facts.yaml"))
def demo(approve_it: bool, spec: Path) -> None:
    """The whole line on this machine, with a real model (what `make demo` runs)."""
    from assay.cli.commands.demo import run_demo

    sys.exit(run_demo(Settings(), spec, approve=approve_it))


def main() -> None:
    """Runs the command; the one place where errors become exit codes."""
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # not under nohup
        signal.signal(
            signal.SIGHUP, signal.default_int_handler
        )  # a terminal that closes interrupts, as Ctrl-C does
    try:
        assay.main(standalone_mode=False)
    except InvalidInput as error:
        from assay.cli.problems import print_problems

        print_problems(error)
        sys.exit(error.exit_code)
    except AssayError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(ExitCode.USAGE)
    except (click.Abort, KeyboardInterrupt):
        _fail(
            "interrupted; what was finished is kept, and the same command goes on from there",
            INTERRUPTED,
        )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.FAILED)


def _checked(path: Path, overrides: Overrides, **how: bool) -> "tuple[Spec, SuiteSpec]":
    """The spec and its suite, with nothing wrong that can be known before anything is started."""
    from assay.flow.place.identity import known_place
    from assay.flow.preflight.check import check

    return check(path, root=Path(), overrides=overrides, place=known_place(Settings()), **how)


def _start_place(settings: Settings) -> None:
    """Starts the local cluster when no other is named."""
    from assay.cli.local import ensure_place

    ensure_place(settings)


def _word(decision: Any, run: str, reviewer: str | None, reason: str, address: str | None) -> None:
    from assay.flow.release.operations import record_decision
    from assay.records.releases.run_id import short_run

    settings = Settings()
    named = ["--as", reviewer] if reviewer else []
    _elsewhere(address, [decision, run, *named, "--reason", reason])
    word = record_decision(
        run, decision=decision, reviewer=reviewer or "", reason=reason, settings=settings, say=echo
    )
    verb = "approved" if decision == "approve" else "rejected"
    echo(f"{word.run} was {verb} by {word.reviewer}; bound to model {word.artifact_digest[:12]}")
    if decision == "approve":
        echo(f"next: assay promote {short_run(word.run)}")


def _elsewhere(address: str | None, arguments: list[str]) -> None:
    """Runs the same command on the cluster at `address` and exits with its code; returns when there
    is none."""
    if address is None:
        return
    from assay.cli.remote import submit_command

    sys.exit(submit_command(arguments, settings=Settings(), address=address))


def _fail(message: str, code: int) -> NoReturn:
    echo(f"{click.style('error', fg='red', bold=True)}: {printable(message)}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
