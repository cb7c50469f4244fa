"""`parity`: the forms that a model took from training to serving, compared on the same probes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.engines.cluster import tasks
from assay.engines.evaluation import parity
from assay.engines.evaluation.client import Endpoint
from assay.errors import UsageError
from assay.records.gate import ModelForm, ParityRecord
from assay.records.inputs import StageInputs, only
from assay.records.record import digest_of
from assay.records.stages import DatasetRecord, DeploymentRecord, ModelRecord, TrainingRecord
from assay.spec.suite.measured import ParitySpec
from assay.stages.context import Work

VERSION = 1

LocalForm = tuple[ModelForm, Path, Path | None]
"""Form, model folder, and the adapter on it."""


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """The forms of one model, from training to serving."""

    data: DatasetRecord
    base: ModelRecord
    training: TrainingRecord
    merged: ModelRecord
    compressed: ModelRecord
    deployment: DeploymentRecord
    parity: ParitySpec = only("num_probes")


Output = ParityRecord


def run(inputs: Inputs, work: Work) -> ParityRecord:
    """Compares each form with the one before, and the last with the first. The probes are texts of
    the selection split. Raises `UsageError` when there are none."""
    data, deployment = inputs.data, inputs.deployment
    if not data.selection.num_examples:
        raise UsageError(
            "parity is measured on the selection split, which is empty; give data.selection a share"
        )
    work.say("comparing the model's forms on the same probes")
    forms = _local_forms(inputs)
    split = Path(data.artifact.path) / data.selection.file
    endpoint = Endpoint(deployment.url, deployment.model_name)
    local = [(folder, adapter) for _, folder, adapter in forms]
    probes, readings = tasks.call(
        parity.read_forms, split, inputs.parity.num_probes, local, endpoint
    )
    names: list[ModelForm] = [*(name for name, _, _ in forms), "served"]
    read = list(zip(names, readings, strict=True))
    return ParityRecord(
        artifact_digest=deployment.artifact_digest,
        probes_digest=digest_of([probe.tokens for probe in probes]),
        pairs=tuple(parity.compare(*read[a], *read[b]) for a, b in _pairs(len(read))),
    )


def _pairs(count: int) -> Sequence[tuple[int, int]]:
    """Neighbours, and the first with the last."""
    neighbours = [(index, index + 1) for index in range(count - 1)]
    if count <= 2:
        return neighbours
    return [*neighbours, (0, count - 1)]


def _local_forms(inputs: Inputs) -> list[LocalForm]:
    """The forms that are files, in the order in which they were made."""
    base, training, merged, compressed = (
        inputs.base,
        inputs.training,
        inputs.merged,
        inputs.compressed,
    )
    forms: list[LocalForm] = []
    if training.method == "lora":
        forms.append(("adapter", Path(base.artifact.path), Path(training.artifact.path)))
    forms.append(("merged", Path(merged.artifact.path), None))
    if compressed.artifact.digest != merged.artifact.digest:
        forms.append(("compressed", Path(compressed.artifact.path), None))
    return forms
