"""`merge`: the adapter is added to the base model's weights."""

from pathlib import Path

from assay.engines import hf_models, ray_cluster
from assay.records.stages import ModelRecord, TrainingRecord
from assay.stages.work import Work

VERSION = 2


def run(training: TrainingRecord, *, base: ModelRecord, work: Work) -> ModelRecord:
    """A model folder that needs no adapter. A model trained as a whole only gets its tokenizer."""
    work.say("merging")
    folder = work.fresh_folder("merged")
    if training.artifact.kind == "model":
        facts = ray_cluster.call(_complete, Path(training.artifact.path), Path(base.artifact.path), folder)
    else:
        facts = ray_cluster.call(hf_models.merge, Path(base.artifact.path), Path(training.artifact.path), folder)
    return ModelRecord(artifact=work.store.put(folder, "model"), **facts.model_dump())


def _complete(trained: Path, base: Path, target: Path) -> hf_models.ModelFacts:
    import shutil

    shutil.copytree(trained, target, dirs_exist_ok=True)
    hf_models.copy_tokenizer(base, target)
    return hf_models.describe(target)
