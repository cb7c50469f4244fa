"""`compress`: the merged model is quantized."""

from dataclasses import dataclass
from pathlib import Path

from assay.engines.cluster import tasks
from assay.engines.compression import llm_compressor
from assay.records.inputs import StageInputs
from assay.records.stages import ModelRecord
from assay.spec.compress import CompressSpec
from assay.stages.context import Work

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What the compressed model depends on."""

    merged: ModelRecord
    compress: CompressSpec


Output = ModelRecord


def run(inputs: Inputs, work: Work) -> ModelRecord:
    """The model that will serve. With `scheme: none` it is the merged one."""
    merged, compress = inputs.merged, inputs.compress
    if compress.scheme == "none":
        return merged
    work.say(f"quantizing to {compress.scheme}")
    folder = work.fresh_folder("compressed")
    tasks.call(llm_compressor.quantize, Path(merged.artifact.path), folder, compress)
    artifact = work.store.put(folder, "model")
    return merged.model_validate(
        {**merged.model_dump(), "artifact": artifact, "scheme": compress.scheme}
    )
