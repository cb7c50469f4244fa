"""How far a stage is that runs now, from the file that it writes as it goes."""

import json
from pathlib import Path

from assay.records.progress import Progress


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
