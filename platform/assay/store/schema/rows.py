"""What the ledger tells of runs, stages and records, a row at a time."""

from dataclasses import dataclass
from typing import Literal

StageState = Literal["running", "done", "cached", "failed", "killed"]
"""`killed` is never written: it is what is seen of a stage whose process has gone (see
`flow.line.stages_now`)."""


@dataclass(frozen=True)
class RunRow:
    """A run as the ledger knows it."""

    id: str
    name: str
    spec: str
    """The resolved spec, as JSON."""
    created_at: float


@dataclass(frozen=True)
class StageRow:
    """The newest attempt at a stage of a run."""

    stage: str
    key: str
    state: StageState
    started_at: float
    ended_at: float | None
    error: str | None


@dataclass(frozen=True)
class RecordRow:
    """A finished stage's record, with the run that made it."""

    key: str
    stage: str
    run: str
    record: str
    seconds: float
