"""What the gate saw, and what it decided."""

from typing import Literal

from assay.records.artifact import Artifact
from assay.records.record import Record

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]


class Item(Record):
    """One question, and what the model made of it."""

    id: str
    """Digest of the question and its target; the same item has the same id for every model."""
    prompt: str
    target: str
    response: str
    scores: dict[str, float]
    """Per-item metrics, such as `exact_match` (0 or 1) and `abstained` (0 or 1)."""


class TaskResult(Record):
    """One task, weighed on one model."""

    task: str
    digest: str
    """SHA-256 over the task's configuration and its data files."""
    items: tuple[Item, ...]


class Weighing(Record):
    """All tasks of a suite, weighed on one model through its endpoint."""

    artifact_digest: str
    """The model's."""
    model_name: str
    tasks: tuple[TaskResult, ...]
    seconds: float


class LimitResult(Record):
    """One limit, decided."""

    task: str
    metric: str
    requirement: str
    """In words, such as `>= 85.0%` or `>= base - 10.0%`."""
    level: Literal["hard", "soft"]
    outcome: Outcome
    num_items: int
    observed: float | None
    """Share, or difference to the base model."""
    bound: float | None
    """The one-sided confidence bound that was compared with the limit."""
    limit: float
    base_observed: float | None
    """The base model's share on the same items."""
    reason: str
    """One sentence for people."""


class Scorecard(Record):
    """The gate's decision on one artifact, and what it rests on."""

    suite: str
    suite_digest: str
    """Over the suite file, its task files and their data."""
    artifact_digest: str
    base_digest: str | None
    confidence: float
    outcome: Outcome
    limits: tuple[LimitResult, ...]
    deployment_slot: str
    deployed_at: float
    replicas: tuple[str, ...]
    """Which replicas answered; the same ones are promoted."""

    @property
    def missed_soft_limits(self) -> tuple[LimitResult, ...]:
        """Soft limits that were not met: the approver must give a reason."""
        return tuple(r for r in self.limits if r.level == "soft" and r.outcome != "PASS")


class WeighingRecord(Record):
    """A weighing, kept as evidence in the artifact store under `weighing.json`."""

    evidence: Artifact
    artifact_digest: str
    """The weighed model's."""
    num_items: int
    seconds: float


class GateRecord(Record):
    """The gate's decision, and the candidate's answers that it rests on."""

    scorecard: Scorecard
    candidate: WeighingRecord
    base: WeighingRecord | None
