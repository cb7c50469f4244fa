"""`gate`: the served candidate answers the suite's questions, and its scorecard is written."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from assay.engines.evaluation.judge import judge_digest
from assay.engines.evaluation.lm_tasks import TaskFile
from assay.errors import IntegrityError
from assay.records.artifact import Artifact
from assay.records.evaluations.judge import JudgeAgreement
from assay.records.gate import (
    SCHEMA_VERSION,
    Attempt,
    ContaminationRecord,
    Evaluation,
    EvaluationRecord,
    GateRecord,
    LimitResult,
    ParityRecord,
    Scorecard,
    SelfTest,
    ServiceMeasurement,
    ServiceRecord,
)
from assay.records.inputs import StageInputs, only, without
from assay.records.record import Record, canonical_json, digest_of
from assay.records.stages import DeploymentRecord
from assay.rules.gate.judging import trusted
from assay.rules.gate.measurements import evaluate_contamination, evaluate_parity
from assay.rules.gate.service import evaluate_service
from assay.rules.gate.verdict import evaluate_limits, overall
from assay.spec.gate import SuiteSpec
from assay.stages.context import Work
from assay.store.artifacts import ArtifactStore

VERSION = 8

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What a verdict depends on."""

    deployment: DeploymentRecord
    suite: SuiteSpec = without("tasks.*.source")
    tasks: tuple[TaskFile, ...]
    base: EvaluationRecord | None = None
    champion: EvaluationRecord | None = None
    contamination: ContaminationRecord | None = None
    parity: ParityRecord | None = None
    service: ServiceRecord | None = None
    judge: JudgeAgreement | None = None
    """How far the suite's judge agrees with people, where limits rest on it and it was measured."""
    suite_file: str = only()
    """What the scorecard calls the suite."""


Output = GateRecord


def run(
    inputs: Inputs,
    work: Work,
    *,
    evaluate: Callable[[DeploymentRecord], EvaluationRecord],
    attempt: Attempt | None = None,
    selftest: SelfTest | None = None,
) -> GateRecord:
    """Evaluates the candidate in its slot and decides every limit. All that the decision is made of
    is kept, so that `verify` can make it again."""
    suite, tasks, deployment = inputs.suite, inputs.tasks, inputs.deployment
    base, champion = inputs.base, inputs.champion
    contamination, parity, service = inputs.contamination, inputs.parity, inputs.service
    candidate = evaluate(deployment)
    task_digests = _digest_by_task(tasks)
    kept = _keep_inputs(inputs, task_digests, attempt, work)
    evidence = _evidence(candidate, base, champion, service, kept)
    record = GateRecord(
        scorecard=Scorecard(
            schema_version=SCHEMA_VERSION,
            suite=inputs.suite_file,
            suite_digest=suite_digest(suite, tasks),
            task_digests=task_digests,
            artifact_digest=deployment.artifact_digest,
            base_digest=base.artifact_digest if base else None,
            champion_digest=champion.artifact_digest if champion else None,
            confidence=suite.confidence,
            outcome="INCONCLUSIVE",
            limits=(),
            deployment_slot=deployment.slot,
            deployed_at=deployment.deployed_at,
            replicas=deployment.replicas,
            attempt=attempt,
            evidence=_digests(evidence),
            contamination=contamination,
            parity=parity,
            service=service,
            selftest=selftest,
        ),
        candidate=candidate,
        base=base,
        champion=champion,
        inputs=kept,
    )
    limits = _decide(record)
    scorecard = record.scorecard.model_copy(update={"limits": limits, "outcome": overall(limits)})
    return GateRecord.model_validate({**record.model_dump(), "scorecard": scorecard.model_dump()})


def verify(record: GateRecord, store: ArtifactStore) -> None:
    """Raises `IntegrityError` unless the evidence is byte for byte what the scorecard names, and
    the decision made of it once more is the one that the scorecard tells."""
    scorecard = record.scorecard
    if record.inputs is None or scorecard.schema_version != SCHEMA_VERSION:
        raise IntegrityError(
            "this scorecard was written by another version, and cannot be checked; run its spec "
            "again"
        )
    evidence = _evidence(
        record.candidate, record.base, record.champion, scorecard.service, record.inputs
    )
    if scorecard.evidence != _digests(evidence):
        raise IntegrityError(
            "the scorecard names other evidence than its record; run its spec again to evaluate it "
            "anew"
        )
    for name, artifact in evidence.items():
        if Path(artifact.path).resolve() != (store.folder / artifact.digest).resolve():
            raise IntegrityError(
                f"the {name} evidence is said to be in {artifact.path}, which is not the store"
            )
        store.verify(artifact)
    faults = _faults(record)
    if faults:
        raise IntegrityError(
            f"the scorecard does not say what its evidence says: {'; '.join(faults)}"
        )


def read_evaluation(record: EvaluationRecord) -> Evaluation:
    """The answers behind a record."""
    folder = Path(record.evidence.path)
    file = folder / "evaluation.json"
    if not file.exists():
        file = folder / "weighing.json"  # as older versions called it
    return Evaluation.model_validate_json(file.read_text())


def read_service(record: ServiceRecord) -> ServiceMeasurement:
    """The measurement behind a record."""
    return ServiceMeasurement.model_validate_json(
        (Path(record.evidence.path) / "service.json").read_text()
    )


def suite_digest(suite: SuiteSpec, tasks: Sequence[TaskFile]) -> str:
    """Over the limits, the task files and the data that they read; not over where those files
    are."""
    return _suite_digest(suite, _digest_by_task(tasks))


def _digest_by_task(tasks: Sequence[TaskFile]) -> dict[str, str]:
    return {task.name: task.digest for task in tasks}


def _digests(evidence: Mapping[str, Artifact]) -> dict[str, str]:
    return {name: artifact.digest for name, artifact in evidence.items()}


def _suite_digest(suite: SuiteSpec, task_digests: Mapping[str, str]) -> str:
    said = suite.model_dump(mode="json", exclude={"tasks": {"__all__": {"source"}}})
    return digest_of([said, [[name, task_digests[name]] for name in sorted(task_digests)]])


def _keep_inputs(
    inputs: Inputs, task_digests: Mapping[str, str], attempt: Attempt | None, work: Work
) -> Artifact:
    """All that a decision is made of besides the answers, as evidence."""
    folder = work.fresh_folder("inputs")
    (folder / "tasks.json").write_text(canonical_json(task_digests))
    parts = {
        "suite": inputs.suite,
        "attempt": attempt,
        "contamination": inputs.contamination,
        "parity": inputs.parity,
        "service": inputs.service,
        "judge": inputs.judge,
    }
    for name, part in parts.items():
        if part is not None:
            (folder / f"{name}.json").write_text(part.model_dump_json(indent=1))
    return work.store.put(folder, "evidence")


def _evidence(
    candidate: EvaluationRecord,
    base: EvaluationRecord | None,
    champion: EvaluationRecord | None,
    service: ServiceRecord | None,
    inputs: Artifact,
) -> dict[str, Artifact]:
    """Every artifact that a decision rests on, by what it is."""
    records = {"candidate": candidate, "base": base, "champion": champion, "service": service}
    evidence = {name: record.evidence for name, record in records.items() if record is not None}
    return evidence | {"inputs": inputs}


def _decide(record: GateRecord) -> tuple[LimitResult, ...]:
    """Every limit, decided on what the record's evidence holds."""
    assert record.inputs is not None
    folder = Path(record.inputs.path)
    suite = SuiteSpec.model_validate_json((folder / "suite.json").read_text())
    attempt = _read(folder / "attempt.json", Attempt)
    contamination = _read(folder / "contamination.json", ContaminationRecord)
    parity = _read(folder / "parity.json", ParityRecord)
    service = _read(folder / "service.json", ServiceRecord)
    candidate = read_evaluation(record.candidate)
    confidence = attempt.confidence if attempt else suite.confidence
    limits = evaluate_limits(
        suite,
        candidate,
        read_evaluation(record.base) if record.base else None,
        read_evaluation(record.champion) if record.champion else None,
        confidence=confidence,
    )
    if suite.judged_tasks:
        assert suite.judge is not None  # the suite sees to it
        judge = _read(folder / "judge.json", JudgeAgreement)
        limits = trusted(limits, suite.judge, judge_digest(suite.judge), judge)
    if suite.service is not None:
        if service and service.artifact_digest == candidate.artifact_digest:
            own = service
        else:
            own = None
        limits += evaluate_service(suite.service, read_service(own) if own else None, confidence)
    limits += evaluate_contamination(suite.contamination, contamination, _task_digests(folder))
    if suite.parity is not None:
        limits += evaluate_parity(suite.parity, parity, candidate.artifact_digest, confidence)
    return limits


def _task_digests(folder: Path) -> dict[str, str]:
    found: dict[str, str] = json.loads((folder / "tasks.json").read_text())
    return found


def _read(path: Path, kind: type[R]) -> R | None:
    if path.exists():
        return kind.model_validate_json(path.read_text())
    return None


def _faults(record: GateRecord) -> list[str]:
    """Where a scorecard and a decision made anew differ."""
    assert record.inputs is not None
    told, folder = record.scorecard, Path(record.inputs.path)
    suite = SuiteSpec.model_validate_json((folder / "suite.json").read_text())
    candidate = read_evaluation(record.candidate)
    found = _decide(record)
    facts = {
        "suite": (told.suite_digest, _suite_digest(suite, _task_digests(folder))),
        "tasks": (told.task_digests, _task_digests(folder)),
        "model": (told.artifact_digest, candidate.artifact_digest),
        "base model": (told.base_digest, record.base.artifact_digest if record.base else None),
        "champion": (
            told.champion_digest,
            record.champion.artifact_digest if record.champion else None,
        ),
        "confidence": (told.confidence, suite.confidence),
        "attempt": (told.attempt, _read(folder / "attempt.json", Attempt)),
        "contamination": (
            told.contamination,
            _read(folder / "contamination.json", ContaminationRecord),
        ),
        "parity": (told.parity, _read(folder / "parity.json", ParityRecord)),
        "service": (told.service, _read(folder / "service.json", ServiceRecord)),
        "verdict": (told.outcome, overall(found)),
        "number of limits": (len(told.limits), len(found)),
    }
    faults = []
    for name, (said, is_so) in facts.items():
        if said != is_so:
            faults.append(f"another {name}")
    for said_limit, limit in zip(told.limits, found, strict=False):
        if not _same(said_limit, limit):
            faults.append(f"{limit.task} {limit.metric} is {limit.outcome}: {limit.reason}")
    return faults


def _same(one: LimitResult, other: LimitResult) -> bool:
    """Whether two results are one, but for the last digits that another processor may give. What is
    said in words follows from the rest."""
    ours, theirs = (result.model_dump(exclude={"reason", "slices"}) for result in (one, other))
    return all(_same_value(value, theirs[name]) for name, value in ours.items())


def _same_value(one: Any, other: Any) -> bool:
    # Decided once more on another machine, a bound may differ in its last digits.
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-6)
    return bool(one == other)
