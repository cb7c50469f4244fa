"""`baseline`: the base model answers the same questions, through the same engine, in a slot of its
own."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

from assay.engines.deployment import ray_serve
from assay.engines.evaluation.lm_tasks import TaskFile
from assay.records.gate import EvaluationRecord
from assay.records.inputs import StageInputs
from assay.records.stages import DeploymentRecord, Slot
from assay.spec.serve import EngineSpec, ReplicasSpec

VERSION = 3

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What a reference model's answers depend on."""

    artifact_digest: str
    """Of the base model, or of the champion."""
    engine: EngineSpec
    replicas: ReplicasSpec
    tasks: tuple[TaskFile, ...]


Output = EvaluationRecord


def run(
    *,
    deploy: Callable[[], DeploymentRecord],
    evaluate: Callable[[DeploymentRecord], T],
    slot: Callable[[], AbstractContextManager[Slot]],
    api: ray_serve.ServeApi,
) -> T:
    """Evaluates the base model, which `deploy` puts into the slot `reference`, and frees the slot,
    whatever happens. `slot` is entered for that."""
    try:
        return evaluate(deploy())
    finally:
        with slot() as name:
            ray_serve.remove(api, name)
