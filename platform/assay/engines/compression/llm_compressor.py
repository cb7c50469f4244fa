"""llm-compressor: quantization into the compressed-tensors format that vLLM loads."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from assay.engines.compression import calibration, checks, divergence, gguf_model, pruning, recipes
from assay.engines.models.folders import ModelFacts, copy_tokenizer, describe
from assay.errors import StageFailed
from assay.records.stages import Divergence
from assay.spec.compress import CompressSpec, CompressStepSpec

FUSED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Modules that vLLM serves as one matrix, with one scheme."""


class Compressed(NamedTuple):
    """What became of a model."""

    facts: ModelFacts
    divergence: Divergence
    num_calibrated: int
    """Training examples that the steps looked at."""
    sparsity: float
    """Share of the linear modules' weights that are 0; 0 where nothing was pruned."""


def compress(source: Path, target: Path, spec: CompressSpec, split: Path) -> Compressed:
    """Compresses the model in `source` step by step, writes it to `target`, loads it again from
    there and compares it with the one in `source` on texts of the training split. Raises
    `StageFailed` when a step does not fit the model, or what was written is not what was made."""
    import torch
    from transformers import AutoModelForCausalLM

    texts = calibration.chosen_texts(split, spec.calibration)
    if spec.gguf is not None:
        found = gguf_model.write(source, target, spec.gguf, texts)
        return Compressed(describe(source), found, 0, 0.0)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).eval()
    merged = divergence.read(model, texts)
    group_size = _group_size(model, spec)
    sparsity = 0.0
    for step in spec.recipe:
        if step.quantize is not None and spec.prunes:
            sparsity = pruning.sparsity(model)
        _apply(model, source, step, group_size, texts)
    if spec.prunes and spec.quantize is None:
        sparsity = pruning.sparsity(model)
    _check_fused(model)
    memory = divergence.read(model, texts)
    _save(model, source, target)
    checks.check_export(target, source)
    again = checks.check_reloaded(target, texts, memory)
    return Compressed(
        describe(target),
        divergence.compare(merged, again),
        len(texts) if spec.is_calibrated else 0,
        sparsity,
    )


def _group_size(model: Any, spec: CompressSpec) -> int:
    """Columns that share a scale, by the linear modules that the model has."""
    from torch import nn

    if spec.quantize is None:
        return 0
    columns = set()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith("lm_head"):
            columns.add(module.in_features)
    return spec.quantize.group_for(columns)


def _apply(
    model: Any, source: Path, step: CompressStepSpec, group_size: int, texts: calibration.Texts
) -> None:
    """One step, in place."""
    from transformers import AutoModelForCausalLM

    if step.prune is not None and step.prune.method == "magnitude":
        pruning.by_magnitude(model, step.prune)
    elif step.recover is not None:
        merged = AutoModelForCausalLM.from_pretrained(source, dtype=model.dtype).eval()
        pruning.recover(model, merged.to(model.device), texts, step.recover)
    else:
        _by_library(model, step, group_size, texts if step.is_calibrated else None)


def _by_library(
    model: Any, step: CompressStepSpec, group_size: int, texts: calibration.Texts | None
) -> None:
    from llmcompressor import oneshot

    said: dict[str, Any] = {}
    if texts is not None:
        said = {"dataset": calibration.batches(texts), "num_calibration_samples": len(texts)}
    with _no_pinning():
        try:
            oneshot(model=model, recipe=recipes.modifiers(step, group_size), **said)
        except (ValueError, NotImplementedError) as error:
            raise StageFailed(f"{step.kind} does not fit this model: {error}") from error


@contextmanager
def _no_pinning() -> Iterator[None]:
    """AWQ pins the tensors that it keeps, which torch refuses where there is no accelerator."""
    import torch
    from llmcompressor.pipelines.cache import IntermediatesCache

    pinning = IntermediatesCache.pin_memory
    if not torch.accelerator.is_available():
        IntermediatesCache.pin_memory = lambda *_, **__: None
    try:
        yield
    finally:
        IntermediatesCache.pin_memory = pinning


def _check_fused(model: Any) -> None:
    """Raises `StageFailed` when modules that vLLM serves as one matrix have several schemes."""
    schemes: dict[str, str] = {}
    for name, module in model.named_modules():
        schemes[name] = _said(getattr(module, "quantization_scheme", None))
    for name in schemes:
        parent, _, last = name.rpartition(".")
        group = next((group for group in FUSED if last == group[0]), ())
        found = {schemes[f"{parent}.{one}"] for one in group if f"{parent}.{one}" in schemes}
        if len(found) > 1:
            raise StageFailed(
                f"{', '.join(group)} of {parent} have several schemes, and vLLM serves them as one "
                "matrix; let the patterns in `modules` and `ignore` name all of them or none"
            )


def _said(scheme: Any) -> str:
    """A scheme without its targets, which differ between modules of one scheme."""
    if scheme is None:
        return ""
    return str(scheme.model_dump(exclude={"targets"}))


def _save(model: Any, source: Path, target: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        # llm-compressor keeps weights apart from their modules; on one machine nothing is missing.
        warnings.filterwarnings("ignore", message="Attempting to save a model with offloaded")
        model.save_pretrained(target, save_compressed=True)
    # Written anew by transformers, which may say the same in another way.
    (target / "generation_config.json").unlink(missing_ok=True)
    copy_tokenizer(source, target)
