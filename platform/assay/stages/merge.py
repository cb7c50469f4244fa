"""`merge`: the adapter is added to the base model's weights."""

from dataclasses import dataclass
from pathlib import Path

from assay.engines.cluster import tasks
from assay.engines.models import folders
from assay.records.inputs import StageInputs
from assay.records.stages import ModelRecord, TrainingRecord
from assay.rules.planning.memory import MERGING_BYTES, loaded_bytes
from assay.stages.context import Work

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What the merged model depends on."""

    base: ModelRecord
    training: TrainingRecord
    labels: tuple[str, ...] = ()
    """Names of a classifier's classes, in the order of its head's outputs."""


Output = ModelRecord


def run(inputs: Inputs, work: Work) -> ModelRecord:
    """A model folder that needs no adapter. A model trained as a whole only gets its tokenizer."""
    training, base = inputs.training, inputs.base
    work.say("merging")
    folder = work.fresh_folder("merged")
    if training.artifact.kind == "model":
        facts = tasks.call(
            _complete, Path(training.artifact.path), Path(base.artifact.path), folder
        )
    else:
        room = tasks.Room(loaded_bytes(base.num_parameters, MERGING_BYTES))
        facts = tasks.call_in(
            room, folders.merge, Path(base.artifact.path), Path(training.artifact.path), folder
        )
    if inputs.labels:
        tasks.call(folders.name_labels, folder, inputs.labels)
    return ModelRecord(artifact=work.store.put(folder, "model"), **facts.model_dump())


def _complete(trained: Path, base: Path, target: Path) -> folders.ModelFacts:
    import shutil

    shutil.copytree(trained, target, dirs_exist_ok=True)
    folders.copy_tokenizer(base, target)
    return folders.describe(target)
