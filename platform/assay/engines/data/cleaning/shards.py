"""One shard of rows on its way through the steps that look at each row alone, in whatever
process."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.engines.data.cleaning.masking.mask import masker
from assay.engines.data.cleaning.profile import Profile
from assay.engines.data.cleaning.rows import (
    Row,
    is_learnable,
    read_rows,
    row_id,
    write_lines,
    write_rows,
)
from assay.engines.data.cleaning.steps.function import user_function
from assay.engines.data.cleaning.steps.repair import repairer
from assay.engines.data.cleaning.steps.results import RowStep, left_out
from assay.engines.data.cleaning.steps.select import selector
from assay.records.cleaning import Reason
from assay.spec.steps import StepSpec

CHANGED, DROPPED, MADE = "changed", "dropped", "made"
EMPTY = "empty"


@dataclass(frozen=True)
class RowSteps:
    """The steps of one segment, between two that compare all rows."""

    steps: tuple[tuple[str, StepSpec], ...]
    """With their names."""
    key: bytes
    """Of the place."""
    root: Path
    """Folder that relative paths start from."""
    is_first: bool
    """Whether the rows come as they were read, without ids."""
    is_last: bool


@dataclass(frozen=True)
class Shard:
    """The files of one shard of one segment."""

    folder: Path
    number: int

    @property
    def rows(self) -> Path:
        """The rows that are left."""
        return self.folder / f"rows-{self.number:06d}.jsonl"

    @property
    def reasons(self) -> Path:
        """What was done, a line for each step that did anything to a row."""
        return self.folder / f"reasons-{self.number:06d}.jsonl"

    @property
    def counts(self) -> Path:
        """Written last: a shard that has it is finished."""
        return self.folder / f"counts-{self.number:06d}.json"

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return self.counts.exists()


def clean_shard(
    rows: Path | Sequence[Row], dropped: Sequence[int], row_steps: RowSteps, shard: Shard
) -> str:
    """Takes rows, leaves out those whose places (from 0) are in `dropped`, and passes the others
    through the steps. Returns the name of the shard's last file."""
    steps = [(name, _row_step(step, row_steps)) for name, step in row_steps.steps]
    reasons: list[Reason] = []
    before, after = Profile(), Profile()
    left: list[Row] = []
    for row in _taken(rows, frozenset(dropped), row_steps):
        if row_steps.is_first:
            before.add(row)
        passed = _passed(row, steps, reasons)
        if passed is not None:
            left.append(passed)
            if row_steps.is_last:
                after.add(passed)
    write_rows(left, shard.rows)
    write_lines((reason_data(reason) for reason in reasons), shard.reasons)
    counts = {
        "rows": len(left),
        "before": before.as_data(),
        "after": after.as_data(),
        "steps": _counted(reasons),
    }
    # Last: by this file a shard is known to be finished.
    write_lines([counts], shard.counts)
    return shard.counts.name


def read_counts(shard: Shard) -> dict[str, Any]:
    """What `clean_shard` counted."""
    found: dict[str, Any] = json.loads(shard.counts.read_bytes())
    return found


def _taken(
    rows: Path | Sequence[Row], dropped: frozenset[int], row_steps: RowSteps
) -> Iterator[Row]:
    found: Iterable[Row] = read_rows(rows) if isinstance(rows, Path) else rows
    for place, row in enumerate(found):
        if place not in dropped:
            named = row._replace(id=row_id(row.example, row_steps.key))
            yield named if row_steps.is_first else row


def _passed(row: Row, steps: Sequence[tuple[str, RowStep]], reasons: list[Reason]) -> Row | None:
    """The row after all steps; None where one leaves it out."""
    example = row.example
    for name, step in steps:
        result = step(example)
        if result.example is not None and not is_learnable(result.example):
            result = left_out(EMPTY, "nothing that can be learned is left of it")
        if result.example == example:
            continue
        reasons.append(
            Reason(
                row=row.id,
                at=row.at,
                step=name,
                action="dropped" if result.example is None else "changed",
                counts=dict(sorted(result.counts.items())),
                why=result.why,
            )
        )
        if result.example is None:
            return None
        example = result.example
    return row._replace(example=example)


def reason_data(reason: Reason) -> dict[str, Any]:
    """A reason as a JSON line, without what is not said."""
    return reason.model_dump(exclude_defaults=True)


def _counted(reasons: Iterable[Reason]) -> dict[str, dict[str, int]]:
    """By step: rows changed and dropped, and `changed.email` and the like for each kind."""
    found: dict[str, Counter[str]] = {}
    for reason in reasons:
        counts = found.setdefault(reason.step, Counter())
        counts[reason.action] += 1
        for kind, number in reason.counts.items():
            counts[f"{reason.action}.{kind}"] += number
    return {step: dict(sorted(counts.items())) for step, counts in sorted(found.items())}


def _row_step(step: StepSpec, row_steps: RowSteps) -> RowStep:
    if step.repair is not None:
        return repairer(step.repair)
    if step.select is not None:
        return selector(step.select)
    if step.mask is not None:
        return masker(step.mask, row_steps.key)
    assert step.function is not None, f"{step.kind} compares all rows"
    return user_function(step.function, row_steps.root)
