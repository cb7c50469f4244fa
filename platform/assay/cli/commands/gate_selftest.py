"""`assay gate selftest`: how often a suite is wrong, and what it can see."""

from collections.abc import Sequence
from pathlib import Path

import click

from assay.cli.local import ensure_place
from assay.cli.terminal import display, tables
from assay.errors import UsageError
from assay.flow.evaluation import selftest
from assay.loader.load import load_suites
from assay.records.selftest import SelftestRecord
from assay.settings import Settings


def test_suite(
    suites: Sequence[str],
    evaluated: str,
    *,
    settings: Settings,
    draws: int,
    noises: Sequence[float],
    num_concurrent: int | None,
    as_json: bool,
) -> SelftestRecord:
    """Runs the self-test on stored answers, prints what it found and returns it."""
    if wrong := [noise for noise in noises if not 0 <= noise <= 10]:
        raise UsageError(f"--noise is a share of the weights' own spread, such as 0.1, not {wrong[0]:g}")
    with display.watching(to_stderr=as_json) as watcher:
        record = selftest.run(
            load_suites(suites),
            suites,
            evaluated=evaluated,
            draws=draws,
            noises=noises,
            num_concurrent=num_concurrent,
            root=Path.cwd(),
            settings=settings,
            watcher=watcher,
            before_work=lambda: ensure_place(settings),
        )
    if as_json:
        click.echo(record.model_dump_json())
    else:
        tables.print_selftest(record)
    return record
