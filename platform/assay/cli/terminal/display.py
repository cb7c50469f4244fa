"""How a run's progress looks: a live line in a terminal, plain lines elsewhere."""

import json
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
from assay.cli.terminal.curves import trial_words
from assay.flow.pipeline.executor import Watcher
from assay.records.gate import ContaminationRecord, EvaluationRecord, GateRecord
from assay.records.losses import parted, with_end
from assay.records.progress import Progress
from assay.records.record import Record
from assay.records.stages import (
    DatasetRecord,
    DeploymentRecord,
    ModelRecord,
    SweepRecord,
    TrainingRecord,
)
from assay.reporting.words import items_asked, reasoning

POLL_S = 0.25
PLAIN_EVERY_S = 10.0
# Selection losses on the way.
MOST_SHOWN = 5
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
            lines, now = _current(progress_file), time.monotonic()
            for name, progress in lines.items():
                if progress.warning and name not in warned:
                    warned.add(name)
                    self._console.print(
                        f"  [yellow]{stage}: {progress.warning}; {LESS}[/yellow]", highlight=False
                    )
            if self._live is not None:
                seen = {
                    name: _first_seen(seen.get(name), progress, now)
                    for name, progress in lines.items()
                }
                self._live.update(_live_table(stage, lines, seen, now - started))
                continue
            words = "; ".join(_words(name, progress) for name, progress in lines.items())
            if words and words != said and now - said_at >= PLAIN_EVERY_S:
                self._console.print(f"  {stage}: {words}", highlight=False)
                said_at, said = now, words


def summary(record: Record) -> str:
    """One line on what a stage came to."""
    if isinstance(record, ModelRecord):
        scheme = "" if record.scheme == "none" else f" {record.scheme},"
        return (
            f"{record.num_parameters / 1e6:.0f}M parameters,{scheme} "
            f"{record.artifact.size / 1e6:.0f} MB{_divergence_words(record)}"
        )
    if isinstance(record, DatasetRecord):
        dropped = record.num_dropped_too_long + record.num_dropped_duplicates
        tail = f", {dropped} left out" if dropped else ""
        return f"{record.train.num_examples} examples, {record.train.num_tokens} tokens{tail}"
    if isinstance(record, SweepRecord):
        words = []
        for trial in record.trials:
            loss_of = trial.training.selection_loss if trial.training else None
            came_to = trial.outcome if loss_of is None else f"{loss_of:.3f}"
            words.append(f"{trial_words(trial)}: {came_to}")
        shown = ", ".join(words)
        chosen = trial_words(record.trials[record.chosen])
        return f"learning rate {chosen} chosen by selection loss ({shown})"
    if isinstance(record, TrainingRecord):
        if record.selection_loss is not None:
            loss = f", selection loss {record.selection_loss:.3f}"
        else:
            loss = ""
        seen = []
        for point in record.history:
            if point.selection_loss is not None:
                seen.append(point.selection_loss)
        if seen and loss:
            newest = ", ".join(f"{one:.3f}" for one in seen[-MOST_SHOWN:])
            loss += f" (on the way {newest})"
        # The best weights were kept.
        warning = "" if record.best_step is not None else parted(with_end(record))
        warned = f"\n  [yellow]{warning}; {LESS}[/yellow]" if warning else ""
        if record.num_restarts:
            again = f", {record.num_restarts} restarts"
        else:
            again = ""
        fast = f" with {', '.join(record.kernels)}" if record.kernels else ""
        return (
            f"{record.num_steps} steps, {record.tokens_per_s:.0f} "
            f"tokens/s{fast}{loss}{again}{warned}"
        )
    if isinstance(record, DeploymentRecord):
        return f"slot {record.slot} answers"
    if isinstance(record, EvaluationRecord):
        thought = reasoning(record)
        return f"{items_asked(record)} items in {record.seconds:.0f} s" + (
            f", {thought}" if thought else ""
        )
    if isinstance(record, ContaminationRecord):
        found = f"{len(record.exact)} copied, {len(record.near)} alike"
        return (
            f"{record.num_items} items, {found if record.exact or record.near else 'none'} in the "
            "training data"
        )
    if isinstance(record, GateRecord):
        return f"{record.scorecard.outcome}, {summary(record.candidate)}"
    return ""


def _divergence_words(record: ModelRecord) -> str:
    """How far a compressed model is from the merged one."""
    found = record.divergence
    if found is None:
        return ""
    return (
        f", {found.kl:.2g} nats from the merged model ({found.top1_agreement:.0%} same top token)"
    )


def _current(progress_file: Path) -> dict[str, Progress]:
    """The newest progress of each of the stage's running trials, by name; of the stage itself where
    it has none."""
    trials = sorted(progress_file.parent.glob("trials/*.jsonl"))
    found = {}
    for file in trials or [progress_file]:
        found[file.stem.rpartition("-")[0] if trials else ""] = _newest(file)
    return {
        name: newest for name, newest in found.items() if newest is not None and not newest.is_over
    }


def _newest(file: Path) -> Progress | None:
    try:
        with file.open("rb") as opened:
            opened.seek(0, 2)
            opened.seek(max(0, opened.tell() - 4096))
            lines = opened.read().decode(errors="replace").split("\n")
    except OSError:
        return None
    for line in reversed(lines):
        try:
            return Progress.model_validate(json.loads(line))
        except ValueError:
            continue
    return None


def _words(name: str, progress: Progress) -> str:
    start = f"{name} " if name else ""
    if not progress.num_steps:
        return f"{start}{progress.text}"
    parts = [f"step {progress.step}/{progress.num_steps}"]
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.selection_loss is not None:
        parts.append(f"selection loss {progress.selection_loss:.3f}")
    if progress.learning_rate is not None:
        parts.append(f"lr {progress.learning_rate:.2g}")
    if progress.grad_norm is not None:
        parts.append(f"gradient {progress.grad_norm:.2g}")
    if progress.tokens_per_s:
        parts.append(f"{progress.tokens_per_s:.0f} tokens/s")
    if progress.memory_bytes:
        parts.append(f"{progress.memory_bytes / 1e9:.1f} GB")
    return start + ", ".join(parts)


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
            Spinner("dots"), stage, f"{seconds:4.0f} s", bar, _words(name, progress) + left
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
