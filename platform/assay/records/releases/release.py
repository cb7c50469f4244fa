"""What people decided, and where traffic goes."""

from typing import Literal

from assay.records.record import Record
from assay.records.releases.audit import Actor
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
    """Seconds since the epoch, by the reviewer's clock."""
    recorded_at: float | None = None
    """When the ledger took it, by the ledger's clock; None for a word of an older version."""
    actor: Actor | None = None
    """Whose process gave it; None for a word of an older version."""


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


ReleaseState = Literal["intended", "moving", "done", "rolled_back", "aborted"]
OPEN_STATES: tuple[ReleaseState, ...] = ("intended", "moving")


class ReleaseIntent(Record):
    """What is about to be done, written down before any traffic moves."""

    action: Literal["promote", "rollback"]
    candidate: Champion
    """Who is to have the traffic."""
    former: Champion | None
    """Who has the traffic before; None for nobody."""
    steps: tuple[float, ...]
    """Shares of the traffic, rising to 1."""
    scorecard_digest: str
    deployed_at: float
    """When the candidate's slot was deployed, in seconds since the epoch."""
    by: str


class Release(Record):
    """One move of traffic, as far as it has come."""

    id: int
    intent: ReleaseIntent
    state: ReleaseState
    step: int
    """How many of its steps have been begun."""
    fence: int
    """Number of the writer who changed it last."""
    note: str = ""
    """Why it did not come to its end."""

    @property
    def is_open(self) -> bool:
        """Whether it is under way, or was left by a controller that ended."""
        return self.state in OPEN_STATES
