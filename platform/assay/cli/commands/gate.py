"""`assay gate`: evaluating without a run, comparing two evaluations, and testing a suite on
itself."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli.terminal.echo import echo
from assay.errors import ExitCode, UsageError
from assay.settings import Settings

if TYPE_CHECKING:
    from assay.records.gate import Outcome

# Of a self-test on a model's files; with none it is the same model, asked once more.
DEFAULT_NOISES = (0.0, 0.1, 0.3)


@click.group()
def gate() -> None:
    """Evaluate any model by a suite, compare two evaluations, or test a suite on itself."""


@gate.command("run")
@click.option(
    "--suite",
    "suites",
    multiple=True,
    required=True,
    help="Suite file; several are asked together.",
)
@click.option("--artifact", help="The model: a folder, hf:ORG/NAME@REVISION or package:NAME/FILE.")
@click.option(
    "--url", help="The model as it is served: base of an OpenAI-compatible API, ending in /v1."
)
@click.option(
    "--model", default="", help="With --url: its name there; needed when there are several."
)
@click.option(
    "--revision",
    default="",
    help="With --url: what its owner calls this version; it is not asked twice.",
)
@click.option("--api-key-env", help="With --url: the environment variable that holds its API key.")
@click.option(
    "--base", help="The model to compare with, in any form that --artifact or --url takes."
)
@click.option(
    "--engine", "engine", multiple=True, metavar="KEY=VALUE", help="A setting of `serve.engine`."
)
@click.option(
    "--num-concurrent",
    type=click.IntRange(1),
    help="Requests in flight to a replica (128), or to a URL (16).",
)
@click.option(
    "--replicas",
    "num_replicas",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Engines to ask.",
)
@click.option(
    "--html",
    "html_file",
    type=click.Path(path_type=Path),
    help="Write the scorecard as one HTML file.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def run(**typed: Any) -> None:
    """Evaluate a model that was made elsewhere. What was evaluated before is not asked again.

    Of several suites each has a verdict and a record of its own; the exit code is the worst
    one's."""
    from assay.cli.commands.evaluating.gate_run import GateRun, evaluate

    sys.exit(verdict_code(evaluate(GateRun(**typed), Settings())))


@gate.command()
@click.argument("first")
@click.argument("second")
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 0.9999),
    help="Of each interval; the suite's when not said.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def compare(first: str, second: str, confidence: float | None, as_json: bool) -> None:
    """Compare the models of two runs or evaluations, item by item: who is better, and how sure that
    is."""
    from assay.cli.terminal import tables
    from assay.flow.evaluation import compare as comparison

    found = comparison.compare(first, second, settings=Settings(), confidence=confidence)
    if as_json:
        echo(found.model_dump_json())
    else:
        tables.print_comparison(found)


@gate.command()
@click.argument("suite", nargs=-1, required=True)
@click.option(
    "--run",
    "evaluated",
    default="",
    help="Whose answers to draw from; the newest to this suite if not said.",
)
@click.option(
    "--artifact",
    help="Evaluate this model first, and damage its weights: --noise 0 0.1 0.3 if not said.",
)
@click.option("--base", help="With --artifact: the model to compare with.")
@click.option(
    "--draws",
    default=1000,
    show_default=True,
    type=click.IntRange(100),
    help="Draws for each rate.",
)
@click.option(
    "--noise",
    "noises",
    multiple=True,
    type=float,
    help="Noise on the weights, a share of their spread.",
)
@click.option("--num-concurrent", type=click.IntRange(1), help="Requests in flight (128).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def selftest(artifact: str | None, base: str | None, as_json: bool, **typed: Any) -> None:
    """Test a suite on itself: how often it is wrong, how small a regression it sees, and how far
    its judge agrees with people's labels."""
    from assay.cli.commands.evaluating.gate_run import evaluate_quietly
    from assay.cli.commands.evaluating.gate_selftest import test_suite
    from assay.flow.evaluation.selftest import SelftestRequest

    asked, settings = SelftestRequest(**typed), Settings()
    if artifact is not None:
        if asked.evaluated:
            raise UsageError("name the answers by --run or by --artifact")
        name = evaluate_quietly(artifact, base, asked.suite, settings, asked.num_concurrent)
        asked = replace(asked, evaluated=name, noises=asked.noises or DEFAULT_NOISES)
    faults = test_suite(asked, settings=settings, as_json=as_json)
    sys.exit(ExitCode.FAILED if faults else ExitCode.DONE)


def verdict_code(outcome: "Outcome") -> ExitCode:
    """The exit code of a verdict."""
    codes = {
        "PASS": ExitCode.DONE,
        "FAIL": ExitCode.GATE_FAILED,
        "INCONCLUSIVE": ExitCode.GATE_INCONCLUSIVE,
    }
    return codes[outcome]
