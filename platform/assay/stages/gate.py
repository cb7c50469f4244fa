"""`gate`: the served candidate answers the suite's questions, and its scorecard is written."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from assay.engines import lm_eval_harness, ray_cluster
from assay.engines.lm_eval_harness import Endpoint, TaskFile
from assay.errors import UsageError
from assay.records.gate import GateRecord, Scorecard, TaskResult, Weighing, WeighingRecord
from assay.records.record import digest_of
from assay.records.stages import DatasetRecord, DeploymentRecord
from assay.rules.abstention import abstained
from assay.rules.gate import overall, weigh_limits
from assay.spec.gate import SuiteSpec
from assay.stages.work import Work

VERSION = 2
HELD_OUT = "heldout"


def run(
    suite: SuiteSpec,
    *,
    suite_file: str,
    tasks: Sequence[TaskFile],
    deployment: DeploymentRecord,
    base: WeighingRecord | None,
    num_concurrent: int,
    work: Work,
) -> GateRecord:
    """Weighs the candidate in its slot and decides every limit."""
    candidate = weigh(deployment, tasks, num_concurrent=num_concurrent, work=work)
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
    )
    return GateRecord(scorecard=scorecard, candidate=candidate, base=base)


def weigh(
    deployment: DeploymentRecord, tasks: Sequence[TaskFile], *, num_concurrent: int, work: Work
) -> WeighingRecord:
    """Asks the deployment every question and keeps the answers as evidence."""
    work.say(f"weighing slot {deployment.slot}")
    started = time.monotonic()
    endpoint = Endpoint(deployment.url, deployment.model_name, num_concurrent)
    results = ray_cluster.call(lm_eval_harness.weigh, endpoint, list(tasks))
    seconds = time.monotonic() - started
    weighing = Weighing(
        artifact_digest=deployment.artifact_digest,
        model_name=deployment.model_name,
        tasks=tuple(_with_abstention(result) for result in results),
        seconds=seconds,
    )
    folder = work.fresh_folder(f"evidence-{deployment.slot}")
    (folder / "weighing.json").write_text(weighing.model_dump_json(indent=1))
    return WeighingRecord(
        evidence=work.store.put(folder, "evidence"),
        artifact_digest=deployment.artifact_digest,
        num_items=sum(len(result.items) for result in results),
        seconds=seconds,
    )


def read_weighing(record: WeighingRecord) -> Weighing:
    """The answers behind a record."""
    return Weighing.model_validate_json((Path(record.evidence.path) / "weighing.json").read_text())


def task_files(suite: SuiteSpec, root: Path, data: DatasetRecord | None) -> tuple[TaskFile, ...]:
    """The tasks of a suite that was loaded from `root`, with their digests, sorted by name. `data` has the task
    `heldout`; while it is not prepared yet, that task is left out."""
    found = []
    for name in sorted(suite.limits):
        if name != HELD_OUT:
            path = root / (suite.settings(name).source or f"{name}.yaml")
        elif data is None:
            continue
        elif data.gate is None:
            raise UsageError("the suite limits `heldout`, but the spec has no data.gate")
        else:
            path = Path(data.artifact.path) / HELD_OUT / f"{HELD_OUT}.yaml"
        found.append(TaskFile(name, str(path.absolute()), _task_digest(path, name)))
    return tuple(found)


def suite_digest(suite: SuiteSpec, tasks: Sequence[TaskFile]) -> str:
    """Over the limits, the task files and the data that they read; not over where those files are."""
    said = suite.model_dump(mode="json", exclude={"tasks": {"__all__": {"source"}}})
    return digest_of([said, [[task.name, task.digest] for task in tasks]])


def _task_digest(path: Path, name: str) -> str:
    config = lm_eval_harness.task_config(path, name)
    files = _flat((config.get("dataset_kwargs") or {}).get("data_files", []))
    try:
        contents = [hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files]
    except OSError as error:
        raise UsageError(f"{path}: its data cannot be read: {error}") from error
    return digest_of([hashlib.sha256(path.read_bytes()).hexdigest(), contents])


def _flat(files: object) -> list[str]:
    if isinstance(files, str):
        return [files]
    if isinstance(files, dict):
        return [name for value in files.values() for name in _flat(value)]
    return [name for value in files for name in _flat(value)] if isinstance(files, list) else []


def _with_abstention(result: TaskResult) -> TaskResult:
    items = tuple(
        item.model_validate(
            {**item.model_dump(), "scores": {**item.scores, "abstained": float(abstained(item.response))}}
        )
        for item in result.items
    )
    return TaskResult(task=result.task, digest=result.digest, items=items)
