"""`gate`: the served candidate answers the suite's questions, and its scorecard is written."""

from collections.abc import Callable, Sequence
from pathlib import Path

from assay.engines.lm_eval_harness import TaskFile
from assay.records.gate import (
    ContaminationRecord,
    GateRecord,
    ParityRecord,
    Scorecard,
    ServiceRecord,
    Weighing,
    WeighingRecord,
)
from assay.records.record import digest_of
from assay.records.stages import DeploymentRecord
from assay.rules.gate import overall, weigh_limits
from assay.spec.gate import SuiteSpec

VERSION = 3


def run(
    suite: SuiteSpec,
    *,
    suite_file: str,
    tasks: Sequence[TaskFile],
    deployment: DeploymentRecord,
    base: WeighingRecord | None,
    weigh: Callable[[DeploymentRecord], WeighingRecord],
    contamination: ContaminationRecord | None = None,
    parity: ParityRecord | None = None,
    service: ServiceRecord | None = None,
) -> GateRecord:
    """Weighs the candidate in its slot and decides every limit."""
    candidate = weigh(deployment)
    limits = weigh_limits(suite, read_weighing(candidate), read_weighing(base) if base else None)
    scorecard = Scorecard(
        suite=suite_file,
        suite_digest=suite_digest(suite, tasks),
        artifact_digest=deployment.artifact_digest,
        base_digest=base.artifact_digest if base else None,
        confidence=suite.confidence,
        outcome=overall(limits),
        limits=limits,
        deployment_slot=deployment.slot,
        deployed_at=deployment.deployed_at,
        replicas=deployment.replicas,
        contamination=contamination,
        parity=parity,
        service=service,
    )
    return GateRecord(scorecard=scorecard, candidate=candidate, base=base)


def read_weighing(record: WeighingRecord) -> Weighing:
    """The answers behind a record."""
    return Weighing.model_validate_json((Path(record.evidence.path) / "weighing.json").read_text())


def suite_digest(suite: SuiteSpec, tasks: Sequence[TaskFile]) -> str:
    """Over the limits, the task files and the data that they read; not over where those files are."""
    said = suite.model_dump(mode="json", exclude={"tasks": {"__all__": {"source"}}})
    return digest_of([said, [[task.name, task.digest] for task in tasks]])
