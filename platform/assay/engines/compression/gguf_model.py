"""A model folder for llama.cpp: the GGUF file, beside the configuration and the tokenizer of the
model that it was made of."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from assay.engines.compression import gguf_export, gguf_reading
from assay.engines.compression.checks import tokenizer_faults
from assay.engines.models.folders import copy_tokenizer
from assay.errors import StageFailed
from assay.records.stages import Divergence
from assay.spec.compress import GgufType


def write(source: Path, target: Path, kind: GgufType, texts: Sequence[Sequence[int]]) -> Divergence:
    """Writes the folder, loads it again by llama.cpp, and compares it with the model in `source`.
    Raises `StageFailed` when it is not that model."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / "config.json", target / "config.json")
    copy_tokenizer(source, target)
    file = target / gguf_export.FILE
    with TemporaryDirectory(dir=target.parent) as scratch:
        whole = gguf_export.export(source, file, kind, Path(scratch))
        return check(target, source, whole, texts, kind)


def check(
    folder: Path, source: Path, whole: Path, texts: Sequence[Sequence[int]], kind: GgufType
) -> Divergence:
    """Raises `StageFailed` when the folder's tokenizer, template, tensors or answers are not those
    of the model in `source`, of which `whole` is the GGUF file in 16 bits."""
    file = folder / gguf_export.FILE
    fault = next(tokenizer_faults(folder, source), None) or next(
        gguf_export.faults(file, whole), None
    )
    if fault is not None:
        raise StageFailed(f"what was written to {folder} is not served: {fault}")
    return gguf_reading.check(file, source, texts, kind)
