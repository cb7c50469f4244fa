"""`compress`: the merged model becomes the one that is evaluated and served."""

from dataclasses import dataclass
from pathlib import Path

from assay.engines.cluster import tasks
from assay.engines.compression import llm_compressor
from assay.engines.models import shape as model_shape
from assay.records.inputs import StageInputs, added_later
from assay.records.stages import DatasetRecord, ModelRecord
from assay.rules.planning.memory import COMPRESSING_BYTES, compressing_memory, loaded_bytes
from assay.spec.compress import CompressSpec
from assay.stages.context import Work

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What the compressed model depends on."""

    merged: ModelRecord
    compress: CompressSpec
    calibration: DatasetRecord | None = added_later()
    """The data whose training split the steps look at; None where none of them looks."""


Output = ModelRecord


def run(inputs: Inputs, work: Work, *, data: DatasetRecord) -> ModelRecord:
    """The model that will serve; without steps it is the merged one. How far it is from the merged
    one is measured on the training split of `data`."""
    merged, compress = inputs.merged, inputs.compress
    if not compress.recipe:
        return merged
    work.say(f"compressing: {compress.label}")
    folder = work.fresh_folder("compressed")
    split = Path(data.artifact.path) / data.train.file
    source = Path(merged.artifact.path)
    room = tasks.Room(_memory_bytes(merged, compress))
    made = tasks.call_in(room, llm_compressor.compress, source, folder, compress, split)
    artifact = work.store.put(folder, "model")
    said = {
        "artifact": artifact,
        "scheme": compress.label,
        "format": "gguf" if compress.gguf else "safetensors",
        "divergence": made.divergence,
        "num_calibrated": made.num_calibrated,
        "sparsity": made.sparsity,
    }
    return merged.model_validate({**merged.model_dump(), **said})


def _memory_bytes(merged: ModelRecord, compress: CompressSpec) -> int:
    """What the plan foresees; of a model whose dimensions are not known, its weights."""
    shape = model_shape.from_folder(Path(merged.artifact.path))
    if shape is None:
        return loaded_bytes(merged.num_parameters, COMPRESSING_BYTES)
    return compressing_memory(compress, shape).total
