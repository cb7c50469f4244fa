"""How far a stage is that runs now, from the file that it writes as it goes."""

import json
from math import isfinite
from pathlib import Path

from assay.records.progress import Progress
from assay.records.report import Curve, Line

MOST_BYTES = 4_000_000
"""Read of a file, from its end."""
MOST_POINTS = 400
"""Drawn of a line."""


def current(progress_file: Path) -> dict[str, Progress]:
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
    for line in reversed(_lines(file, 4096)):
        try:
            return Progress.model_validate(json.loads(line))
        except ValueError:
            continue
    return None


def _lines(file: Path, most_bytes: int) -> list[str]:
    """The end of a file; nothing of one that is not there."""
    try:
        with file.open("rb") as opened:
            opened.seek(0, 2)
            opened.seek(max(0, opened.tell() - most_bytes))
            return opened.read().decode(errors="replace").split("\n")
    except OSError:
        return []


def losses_so_far(stage: str, progress_file: Path) -> Curve | None:
    """The training losses of a stage that runs, a line for each of its trials; None before there
    are two to join."""
    trials = sorted(progress_file.parent.glob("trials/*.jsonl"))
    lines = []
    for file in trials or [progress_file]:
        name = file.stem.rpartition("-")[0] if trials else "loss"
        points = _losses(file)
        if len(points) > 1:
            lines.append(Line(name=name, points=points))
    if not lines:
        return None
    return Curve(title=stage, x_label="step", y_label="loss", lines=tuple(lines))


def _losses(file: Path) -> tuple[tuple[float, float], ...]:
    """Losses over steps; of a trial that went back, as it went on from there."""
    found: dict[float, float] = {}
    for text in _lines(file, MOST_BYTES):
        try:
            progress = Progress.model_validate_json(text)
        except ValueError:  # half a line, or one of another version
            continue
        if progress.loss is not None and isfinite(progress.loss):
            found[float(progress.step)] = progress.loss
    points = sorted(found.items())
    every = -(-len(points) // MOST_POINTS)
    return tuple(points[:: max(1, every)])


def progress_words(name: str, progress: Progress) -> str:
    """Step, losses and pace of a trial, or of a stage where `name` is empty."""
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
