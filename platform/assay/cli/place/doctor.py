"""`assay doctor`: whether a place is as it should be, and what to do where it is not."""

import json
import sys
from dataclasses import asdict

import click

from assay.cli.terminal import options
from assay.cli.terminal.echo import echo
from assay.errors import ExitCode
from assay.settings import Settings
from assay.text import printable


@click.command()
@click.option(
    "--quick", is_flag=True, help="Read only artifacts whose files were touched, not all of them."
)
@options.as_json
def doctor(quick: bool, as_json: bool) -> None:
    """Look at ledger, audit, policy, artifacts, receipts, gateway and permissions; change
    nothing."""
    from assay.flow.release.doctor import examine

    found = []
    for check in examine(Settings(), reads_all=not quick):
        found.append(check)
        if as_json:
            continue
        echo(f"{'fault' if check.faults else 'ok':<6} {check.name:<12} {check.said}")
        for fault in check.faults:
            echo(f"       {printable(fault.what)}\n       → {fault.remedy}")
    num_faults = sum(len(check.faults) for check in found)
    if as_json:
        echo(json.dumps([asdict(check) for check in found]))
    elif num_faults:
        echo(f"{num_faults} fault{'s' if num_faults > 1 else ''}")
    sys.exit(ExitCode.FAILED if num_faults else ExitCode.DONE)
