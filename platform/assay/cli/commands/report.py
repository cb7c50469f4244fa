"""`assay report`: the scorecard in the terminal, as JSON, or as one HTML file."""

from pathlib import Path

from assay.cli.terminal import tables
from assay.cli.terminal.echo import echo
from assay.errors import UsageError
from assay.records.report import Report
from assay.reporting import document as flow
from assay.settings import Settings
from assay.store.ledger import Ledger

NUM_IN_TERMINAL = 3


def show_report(
    run: str,
    settings: Settings,
    *,
    as_json: bool,
    html_file: Path | None,
    num_examples: int | None = None,
) -> Report:
    """Shows the newest verdict of a run or evaluation in the forms that were asked for, or in the
    terminal."""
    if not as_json and html_file is None:
        default = NUM_IN_TERMINAL
    else:
        default = flow.NUM_EXAMPLES
    report = flow.report(
        run, settings=settings, num_examples=default if num_examples is None else num_examples
    )
    if html_file is not None:
        write_html(report, html_file)
    if as_json:
        echo(report.model_dump_json())
    elif html_file is not None:
        echo(f"{report.scorecard.outcome}  {report.name}: wrote {html_file}")
    else:
        tables.print_report(report, Ledger(settings.ledger_url))
    return report


def write_html(report: Report, file: Path) -> None:
    """Writes the scorecard as one HTML file. Raises `UsageError` when it may not be written."""
    from assay.reporting.html import render

    try:
        file.write_text(render(report), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot write {file}: {error.strerror}") from error
