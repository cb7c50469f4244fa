"""The commands on runs: how far they are, what they said, and what they came to."""

import json
from pathlib import Path

import click

from assay.cli.terminal import options
from assay.cli.terminal.echo import echo
from assay.errors import UsageError
from assay.settings import Settings


@click.command()
@options.run
@click.option("-f", "--follow", is_flag=True, help="Go on until the run ends.")
def logs(run: str, follow: bool) -> None:
    """Print a run's own log: what each stage did when, and all of an error; the newest run's when
    none is named."""
    from assay.flow.pipeline.log import FILE, lines
    from assay.flow.place.run_lock import LOCK
    from assay.store.ledger import Ledger
    from assay.store.lock import is_held

    settings = Settings()
    folder = settings.run_folder(Ledger(settings.ledger_url).find_run(run).id)
    if not (folder / FILE).is_file():
        raise UsageError(
            f"{folder} has no log; a version before this one made it, or another machine did"
        )
    for line in lines(folder / FILE, goes_on=lambda: follow and is_held(folder / LOCK) is True):
        echo(line.rstrip("\n"))


@click.command()
@options.run
@options.as_json
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


@click.command()
@options.run
@options.as_json
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


COMMANDS = (logs, status, report)
