"""`fetch`: the base model, as a safetensors folder in the artifact store."""

from assay.engines import hf_models, ray_cluster
from assay.records.stages import ModelRecord
from assay.spec.model import ModelSpec
from assay.stages.work import Work

VERSION = 1


def run(model: ModelSpec, *, work: Work) -> ModelRecord:
    """Fetches or converts the model once; later runs find it in the store."""
    work.say(f"fetching {model.source}")
    folder = work.fresh_folder("model")
    facts = ray_cluster.call(hf_models.fetch, model, folder, work.root)
    return ModelRecord(artifact=work.store.put(folder, "model"), **facts.model_dump())
