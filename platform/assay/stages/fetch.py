"""`fetch`: the base model, as a safetensors folder in the artifact store."""

from assay.engines.cluster import tasks
from assay.engines.models import folders
from assay.records.stages import ModelRecord
from assay.spec.model import ModelSpec
from assay.stages.context import Work

VERSION = 1


def run(model: ModelSpec, *, work: Work) -> ModelRecord:
    """Fetches or converts the model once; later runs find it in the store."""
    work.say(f"fetching {model.source}")
    folder = work.fresh_folder("model")
    facts = tasks.call(folders.fetch, model, folder, work.root)
    return ModelRecord(artifact=work.store.put(folder, "model"), **facts.model_dump())
