"""What people decided, and where traffic goes."""

from typing import Literal

from assay.records.record import Record
from assay.records.stages import Slot


class Approval(Record):
    """One reviewer's word on one scorecard."""

    run: str
    decision: Literal["approve", "reject"]
    reviewer: str
    reason: str
    artifact_digest: str
    scorecard_digest: str
    given_at: float
    """Seconds since the epoch."""


class Champion(Record):
    """Who has the traffic."""

    run: str
    slot: Slot
    model_name: str
    artifact_digest: str
    since: float
    """Seconds since the epoch."""


class Traffic(Record):
    """One change of traffic."""

    action: Literal["promote", "rollback"]
    champion: Champion | None
    """Who has the traffic afterwards; None for nobody."""
    former: Champion | None
    """Who had it before, for a way back."""
    by: str
    reason: str = ""
