"""`make demo`: the whole line on this machine, by the commands that a person would type."""

import time
from pathlib import Path

import click

from assay.cli.commands.chat import answer, api_key
from assay.cli.local import key_file, start_place
from assay.cli.remote import submit_spec
from assay.cli.terminal.console import SafeConsole
from assay.cli.terminal.display import is_terminal
from assay.cli.terminal.echo import echo, echo_foreign
from assay.cli.terminal.tables import next_steps
from assay.errors import ExitCode
from assay.flow.pipeline.keys import run_id
from assay.flow.release.checks import Evaluated, evaluated
from assay.flow.release.operations import ReviewerWord, promote_run, record_decision
from assay.loader.load import load_spec, load_suites
from assay.settings import Settings
from assay.store.ledger import Ledger

BLOCKED = {
    ExitCode.GATE_FAILED: "the gate failed this model",
    ExitCode.GATE_INCONCLUSIVE: "the gate has too little evidence for this model",
}
"""Verdicts after which there is nothing to approve."""

QUESTIONS = ("What is the capital of France?", "What is the capital of Zorvania?")


def run_demo(settings: Settings, path: Path, *, approve: bool) -> int:
    """Starts the place, submits the spec as a Ray job, asks for approval, promotes and asks a
    question. A verdict that blocks the model is a demo that worked, and ends with 0; `assay run`
    has the verdict's own exit code. Otherwise returns the exit code of the first part that does not
    succeed."""
    began = time.monotonic()
    spec = load_spec(path)
    suite = load_suites(spec.gate.suite)
    _headline("a local Ray head with token authentication, and the gateway")
    start_place(settings, save_key=True)
    _headline(f"assay submit {path}")
    code = submit_spec(path, spec, suite, settings=settings, address=None, follow=True)
    if code in BLOCKED:
        _headline(f"{BLOCKED[ExitCode(code)]}, so nothing has traffic")
        echo(
            "`assay report` shows the answers that count against it, and `make down` stops "
            "everything"
        )
        return ExitCode.DONE
    if code != ExitCode.DONE:
        return code
    it = evaluated(run_id(spec, suite, Path.cwd()), Ledger(settings.ledger_url))
    if not _is_agreed(it, settings, approve=approve):
        _headline("not approved yet, so nothing has traffic")
        echo(next_steps(it.run, spec, it.gate.scorecard))
        echo("and `make down` stops everything")
        return ExitCode.DONE
    _headline(f"assay promote {it.run}")
    promote_run(it.run, settings=settings, say=echo)
    _headline("assay chat")
    for question in QUESTIONS:
        _ask(settings, spec.served_name, spec.data.system, question)
    _farewell(settings, spec.served_name, spec.data.system, time.monotonic() - began)
    return ExitCode.DONE


def _is_agreed(it: Evaluated, settings: Settings, *, approve: bool) -> bool:
    """Approves by the demo's reviewer when told to, or when the person in the terminal says yes."""
    reviewer = it.spec.approval.reviewers[0]
    missed = it.gate.scorecard.missed_soft_limits
    reason = "asked for by APPROVE=1"
    if not approve:
        if not is_terminal():
            return False
        echo()
        for limit in missed:
            echo(f"soft limit missed: {limit.task} {limit.metric}: {limit.reason}")
        if not click.confirm(f"Approve {it.run} as {reviewer}?", default=False):
            return False
        if missed:
            reason = click.prompt("Why, although a soft limit was missed")
        else:
            reason = "approved in the terminal"
    word = record_decision(it.run, ReviewerWord("approve", reviewer, reason), settings=settings)
    echo(f"approved by {word.reviewer}, bound to model {word.artifact_digest[:12]}")
    return True


def _ask(settings: Settings, model: str, system: str | None, question: str) -> None:
    messages = [{"role": "system", "content": system}] if system else []
    echo(f"> {question}")
    asked = [*messages, {"role": "user", "content": question}]
    echo_foreign("".join(answer(settings.gateway_url, api_key(settings), model, asked)))


def _farewell(settings: Settings, model: str, system: str | None, seconds: float) -> None:
    _headline(f"done in {seconds // 60:.0f} min {seconds % 60:.0f} s")
    echo(f"{model} is served at {settings.gateway_url}. Try\n")
    echo(f"  curl -s {settings.gateway_url}/chat/completions \\")
    key = f'-H "Authorization: Bearer $(cat {key_file(settings)})"'
    echo(f'    {key} -H "Content-Type: application/json" \\')
    if system:
        system_turn = f'{{"role": "system", "content": "{system}"}}, '
    else:
        system_turn = ""
    turns = f'[{system_turn}{{"role": "user", "content": "Which currency is used in Japan?"}}]'
    echo(f'    -d \'{{"model": "{model}", "messages": {turns}}}\'\n')
    echo("`make down` stops everything; the ledger and the artifacts stay in " + str(settings.home))


def _headline(text: str) -> None:
    SafeConsole(soft_wrap=True).print(f"\n[bold]── {text}[/bold]", highlight=False)
