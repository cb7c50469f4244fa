"""The commands on what serves: who agrees to it, who has the traffic, the gateway, and a word with
it."""

import sys
from pathlib import Path
from typing import Any

import click

from assay.cli.terminal.echo import echo
from assay.errors import ExitCode
from assay.settings import Settings


@click.command()
@click.argument("run")
@click.option(
    "--as", "reviewer", default=None, help="Your name as the spec has it; your login when not said."
)
@click.option("--reason", default="", help="Why; needed when a soft limit was missed.")
@click.option("--address", default=None, help="Do it on this Ray cluster (dashboard address).")
def approve(run: str, reviewer: str | None, reason: str, address: str | None) -> None:
    """Agree to a run's release; bound to its scorecard and to every byte of its model."""
    _word("approve", run, reviewer, reason, address)


@click.command()
@click.argument("run")
@click.option(
    "--as", "reviewer", default=None, help="Your name as the spec has it; your login when not said."
)
@click.option("--reason", required=True, help="Why.")
@click.option("--address", default=None, help="Do it on this Ray cluster (dashboard address).")
def reject(run: str, reviewer: str | None, reason: str, address: str | None) -> None:
    """Refuse a run's release."""
    _word("reject", run, reviewer, reason, address)


@click.command()
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


@click.command()
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


@click.command()
@click.argument("run")
@click.option("--address", default=None, help="Do it on this Ray cluster (dashboard address).")
def free(run: str, address: str | None) -> None:
    """Give back what a run's candidate holds of the cluster; it can then not be promoted."""
    from assay.flow.resources.giving_back import free_run

    _elsewhere(address, ["free", run])
    is_freed = free_run(run, settings=Settings(), say=echo)
    echo("given back" if is_freed else "nothing was held: its slot is empty, or another run's")


@click.command()
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
    help="Ask another model, too: `base`, a run (its candidate, promoted or not), an adapter's "
    "folder, or a model.",
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


@click.command()
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
@click.option(
    "--foreground",
    is_flag=True,
    help="Stay until SIGTERM or Ctrl-C, and stop then what was started: for containers.",
)
def up(new_key: bool, save_key: bool, gateway_only: bool, foreground: bool) -> None:
    """Start a local Ray head, the gateway and the console, bring the champion back, print an API
    key once."""
    from assay.cli.local import start_place, stay_in_place

    settings = Settings()
    if foreground:
        stay_in_place(settings, new_key=new_key, gateway_only=gateway_only)
        return
    start_place(settings, new_key=new_key, save_key=save_key, gateway_only=gateway_only)


@click.command()
def down() -> None:
    """Stop console, controller, gateway, local Ray head and everything on it. Ledger and artifacts
    stay."""
    from assay.cli.local import stop_place

    stop_place(Settings())


@click.command(hidden=True)
@click.option(
    "--approve", "approve_it", is_flag=True, help="Approve by the demo's reviewer, without asking."
)
@click.option("--spec", type=click.Path(path_type=Path), default=Path("specs/country-facts.yaml"))
def demo(approve_it: bool, spec: Path) -> None:
    """The whole line on this machine, with a real model (what `make demo` runs)."""
    from assay.cli.commands.demo import run_demo

    sys.exit(run_demo(Settings(), spec, approve=approve_it))


def _word(decision: Any, run: str, reviewer: str | None, reason: str, address: str | None) -> None:
    from assay.flow.release.operations import ReviewerWord, record_decision
    from assay.records.releases.run_id import short_run

    settings = Settings()
    named = ["--as", reviewer] if reviewer else []
    _elsewhere(address, [decision, run, *named, "--reason", reason])
    word = record_decision(
        run, ReviewerWord(decision, reviewer or "", reason), settings=settings, say=echo
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
    # A job of the cluster: ledger and gateway are there, and its code is this command's.
    from assay.cli.remote import submit_command

    sys.exit(submit_command(arguments, settings=Settings(), address=address))


COMMANDS = (approve, reject, promote, rollback, free, chat, up, down, demo)
