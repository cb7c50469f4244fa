"""`data.steps` done in this process, and what came of them."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

from assay.engines.data.cleaning.augment.asked import Ask
from assay.engines.data.cleaning.clean import Cleaning, clean, segments_of
from assay.engines.data.cleaning.cleaned import REASONS, counts_of, files_of, write_cleaned
from assay.records.cleaning import RowProfile, StepCounts
from assay.spec.data import DataSpec
from assay.spec.spec import FORMATS
from assay.spec.steps import step_names

KEY = bytes(range(32))


@dataclass
class Cleaned:
    """What is left, and why."""

    rows: dict[str, list[dict[str, Any]]]
    """By entry."""
    reasons: list[dict[str, Any]]
    steps: dict[str, StepCounts]
    content: dict[str, bytes]
    """Every file that was written."""

    def texts(self) -> list[str]:
        """The last turn of every row that is left, or its text."""
        rows = [row for found in self.rows.values() for row in found]
        return [row.get("text") or row["messages"][-1]["content"] for row in rows]

    def reason(self, at: str) -> dict[str, Any]:
        """The one reason of a place."""
        (found,) = (reason for reason in self.reasons if reason["at"] == at)
        return found


def counted(
    folder: Path, steps: list[object]
) -> tuple[tuple[StepCounts, ...], RowProfile, RowProfile]:
    """The counts of what `cleaned` did in `folder`."""
    spec = DataSpec.model_validate({"train": "train.jsonl", "steps": steps})
    segments = segments_of(spec.steps, folder / "scratch")
    return counts_of(segments, step_names(spec.steps), spec.train)


def write(file: Path, rows: Iterable[dict[str, object]]) -> None:
    """JSON Lines."""
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def cleaned(
    folder: Path,
    steps: list[object],
    *,
    each: Callable[..., Any] = starmap,
    objective: str = "sft",
    scratch: str = "scratch",
    ask: Ask | None = None,
    **data: object,
) -> Cleaned:
    """Cleans `train.jsonl` in `folder`, or what `data` says."""
    spec = DataSpec.model_validate({"train": "train.jsonl", "steps": steps, **data})
    work = Cleaning(spec, folder, {}, folder / scratch, KEY, each, lambda _: None, ask)
    segments = clean(work, FORMATS[objective])
    out = folder / f"{scratch}-out"
    write_cleaned(segments, spec.train, out)
    counts, _, _ = counts_of(segments, step_names(spec.steps), spec.train)
    rows = {
        source: [json.loads(line) for file in files for line in file.read_text().splitlines()]
        for source, files in files_of(out, spec.train).items()
    }
    reasons = [json.loads(line) for line in (out / REASONS).read_text().splitlines()]
    content = {
        str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*") if file.is_file()
    }
    return Cleaned(rows, reasons, {step.name: step for step in counts}, content)
