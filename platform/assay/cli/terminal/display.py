"""How a run's progress looks: a live line in a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from assay.cli.terminal.console import SafeConsole
from assay.flow.pipeline.executor import Watcher
from assay.records.progress import Progress
from assay.records.record import Record
from assay.reporting.progress import current, progress_words
from assay.reporting.summary import came_to, warning

POLL_S = 0.25
PLAIN_EVERY_S = 10.0
LESS = "`early_stopping: {}` keeps the best weights; fewer epochs, more data or dropout help"
NAME_WIDTH = len("contamination")
"""Of a column of stages."""


@contextmanager
def watching(*, to_stderr: bool = False) -> Iterator[Watcher]:
    """A watcher that fits where the output goes."""
    console = SafeConsole(soft_wrap=True, stderr=to_stderr)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            display = _Display(console, live)
            try:
                yield display
            finally:
                display.close()
    else:
        display = _Display(console, None)
        try:
            yield display
        finally:
            display.close()


class _Display:
    """Prints a line for each stage, and follows the progress file of the one that is running."""

    def __init__(self, console: Console, live: Live | None) -> None:
        self._console = console
        self._live = live
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def began(self, stage: str, progress_file: Path) -> None:
        self.close()
        self._stop.clear()
        if self._live is None:
            self._console.print(f"{stage:<{NAME_WIDTH}} …", highlight=False)
        self._thread = threading.Thread(
            target=self._follow, args=(stage, progress_file), daemon=True
        )
        self._thread.start()

    def ended(self, stage: str, record: Record, *, seconds: float, cached: bool) -> None:
        self.close()
        took = "cached" if cached else f"{seconds:.0f} s"
        mark = "[dim]=[/dim]" if cached else "[green]✓[/green]"
        self._console.print(
            f"{mark} {stage:<{NAME_WIDTH}} [dim]{took:>7}[/dim]  {summary(record)}", highlight=False
        )

    def close(self) -> None:
        """Stops following."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._live is not None:
            self._live.update("")

    def _follow(self, stage: str, progress_file: Path) -> None:
        started = time.monotonic()
        said_at, said, warned = started, "", set[str]()
        seen: dict[str, _Seen] = {}
        while not self._stop.wait(POLL_S):
            lines, now = current(progress_file), time.monotonic()
            for name, progress in lines.items():
                if progress.warning and name not in warned:
                    warned.add(name)
                    self._console.print(
                        f"  [yellow]{stage}: {progress.warning}; {LESS}[/yellow]", highlight=False
                    )
            if self._live is not None:
                first: dict[str, _Seen] = {}
                for name, progress in lines.items():
                    first[name] = _first_seen(seen.get(name), progress, now)
                seen = first
                self._live.update(_live_table(stage, lines, seen, now - started))
                continue
            words = "; ".join(progress_words(name, progress) for name, progress in lines.items())
            if words and words != said and now - said_at >= PLAIN_EVERY_S:
                self._console.print(f"  {stage}: {words}", highlight=False)
                said_at, said = now, words


def summary(record: Record) -> str:
    """One line on what a stage came to, as markup, and below it what is to be warned of."""
    words = came_to(record)
    warned = warning(record)
    if warned:
        return f"{words}\n  [yellow]{warned}; {LESS}[/yellow]"
    return words


@dataclass(frozen=True)
class _Seen:
    """When something was first seen to make steps, and at which."""

    at_s: float
    step: int


def _first_seen(before: _Seen | None, progress: Progress, now: float) -> _Seen:
    """The same as before, unless it has gone back, or has made no step until now."""
    if before and 0 < before.step <= progress.step:
        return before
    return _Seen(now, progress.step)


def _live_table(
    stage: str, lines: Mapping[str, Progress], seen: Mapping[str, _Seen], seconds: float
) -> Any:
    from rich.progress_bar import ProgressBar
    from rich.spinner import Spinner

    table = Table.grid(padding=(0, 1))
    for name, progress in (lines or {"": Progress(step=0, num_steps=0, text="…")}).items():
        bar: ProgressBar | str = ""
        if progress.num_steps:
            bar = ProgressBar(total=progress.num_steps, completed=progress.step, width=24)
        left = _time_left(progress, seen[name]) if name in seen else ""
        table.add_row(
            Spinner("dots"), stage, f"{seconds:4.0f} s", bar, progress_words(name, progress) + left
        )
    return table


def _time_left(progress: Progress, first: _Seen) -> str:
    """At the pace of the steps that were seen."""
    done, seconds = progress.step - first.step, time.monotonic() - first.at_s
    if done > 0:
        return f", about {seconds / done * (progress.num_steps - progress.step):.0f} s left"
    return ""


def is_terminal() -> bool:
    """Whether a person can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()
