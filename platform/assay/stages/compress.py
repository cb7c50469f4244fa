"""`compress`: the merged model is quantized."""

from pathlib import Path

from assay.engines.cluster import tasks
from assay.engines.compression import llm_compressor
from assay.records.stages import ModelRecord
from assay.spec.compress import CompressSpec
from assay.stages.context import Work

VERSION = 1


def run(compress: CompressSpec, *, merged: ModelRecord, work: Work) -> ModelRecord:
    """The model that will serve. With `scheme: none` it is the merged one."""
    if compress.scheme == "none":
        return merged
    work.say(f"quantizing to {compress.scheme}")
    folder = work.fresh_folder("compressed")
    tasks.call(llm_compressor.quantize, Path(merged.artifact.path), folder, compress)
    artifact = work.store.put(folder, "model")
    return merged.model_validate({**merged.model_dump(), "artifact": artifact, "scheme": compress.scheme})
