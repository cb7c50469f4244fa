"""`fetch`: the base model, as a safetensors folder in the artifact store."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from assay.engines.cluster import tasks
from assay.engines.data.chats import folder as chat_folder
from assay.engines.models import folders
from assay.records.inputs import StageInputs
from assay.records.stages import ModelRecord
from assay.spec.model import ModelSpec
from assay.stages.context import Work

VERSION = 2  # the tokenizer of a GGUF file is as its header says


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What the base model depends on."""

    model: ModelSpec
    files: Mapping[str, list[int]] = field(default_factory=dict)
    """Size and time of each file of a local folder, by name."""
    chat_template: str | None = None
    """SHA-256 of the template that the spec names."""


Output = ModelRecord


def run(inputs: Inputs, work: Work) -> ModelRecord:
    """Fetches or converts the model once; later runs find it in the store."""
    model = inputs.model
    work.say(f"fetching {model.source}")
    folder = work.fresh_folder("model")
    facts = tasks.call(_fetch, model, folder, work.root)
    return ModelRecord(artifact=work.store.put(folder, "model"), **facts.model_dump())


def _fetch(model: ModelSpec, folder: Path, root: Path) -> folders.ModelFacts:
    facts = folders.fetch(model, folder, root)
    chat_folder.write(model, folder, root)
    return facts
