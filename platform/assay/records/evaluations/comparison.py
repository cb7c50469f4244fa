"""Two models side by side, item by item."""

from typing import Literal

from assay.records.record import Record

Side = Literal["A", "B"]


class ComparedLimit(Record):
    """One limit's metric on two models that answered the same items."""

    task: str
    metric: str
    num_items: int
    first: float | None
    """A's share or mean; None when the two cannot be compared."""
    second: float | None
    """B's."""
    difference: float | None
    """A minus B."""
    lower: float | None
    upper: float | None
    """Both ends of the two-sided interval of `difference`."""
    method: str
    winner: Side | None
    """Who is better at the comparison's confidence; None when that is open."""
    confidence: float | None
    """The highest two-sided confidence at which the one that looks better is better; None when
    neither does."""
    reason: str
    """Why the two cannot be compared; empty when they can."""


class Comparison(Record):
    """Two evaluations, compared by the limits of one suite. Nothing is decided by it."""

    first: str
    """Name of the run or evaluation that is A."""
    second: str
    first_digest: str
    """A's model."""
    second_digest: str
    suite: str
    confidence: float
    limits: tuple[ComparedLimit, ...]
