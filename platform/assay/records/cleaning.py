"""What `data.steps` did."""

from typing import Literal

from pydantic import Field

from assay.records.artifact import Artifact
from assay.records.record import Record


class Reason(Record):
    """Why a row is as it is, or not there. It holds nothing of the row's text."""

    row: str
    """The row's id: the same for the same example of this place, wherever it stands."""
    at: str
    """`FILE:LINE`."""
    step: str
    action: Literal["changed", "dropped", "made"]
    counts: dict[str, int]
    """What was done, by kind, or by which rule the row goes."""
    why: str = ""
    kept: str = ""
    """The row that stays in its stead."""
    kept_at: str = ""
    similarity: float | None = None
    """Of the two."""
    parent: str = ""
    """The row that it was made of."""


class StepCounts(Record):
    """What one step did."""

    name: str
    num_changed: int = 0
    num_dropped: int = 0
    changed: dict[str, int] = Field({})
    """By kind, such as `email` or `unicode`: how often."""
    dropped: dict[str, int] = Field({})
    """By rule: how many rows."""
    made: dict[str, int] = Field({})
    """By way, such as `noise`: how many rows came to those that were there."""
    note: str = ""
    """What could not be done."""


class RowProfile(Record):
    """What rows are like."""

    sources: dict[str, int] = Field({})
    """Rows by their entry of `data.train`."""
    languages: dict[str, int] = Field({})
    """By ISO 639 code; `?` where it cannot be said."""
    lengths: dict[int, int] = Field({})
    """By words, under the power of two that a row does not exceed."""

    @property
    def num_rows(self) -> int:
        """All of them."""
        return sum(self.sources.values())


class CleaningRecord(Record):
    """The training data after all steps, and a reason for every row that is not as it was."""

    artifact: Artifact
    """`data/ENTRY-NUMBER.jsonl` and `reasons.jsonl`."""
    steps: tuple[StepCounts, ...]
    before: RowProfile
    after: RowProfile


class RowStory(Record):
    """What became of one row of the data in one run."""

    run: str
    stage: str
    """`clean`, or `clean-2` for the second training run's data."""
    artifact: str
    """Digest of the cleaned data."""
    row: str
    at: str
    reasons: tuple[Reason, ...]
    """In the order of the steps; none for a row that stays as it was read."""
    example: str | None
    """The row as it is trained on, as JSON; None where it was left out."""


class RowModel(Record):
    """An artifact that came of a row, among others."""

    run: str
    stage: str
    artifact: str
