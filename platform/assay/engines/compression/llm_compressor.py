"""llm-compressor: post-training quantization into the compressed-tensors format that vLLM loads."""

from pathlib import Path

from assay.engines.models.folders import ModelFacts, copy_tokenizer, describe
from assay.errors import StageFailed
from assay.spec.compress import CompressSpec


def quantize(source: Path, target: Path, compress: CompressSpec) -> ModelFacts:
    """Quantizes every linear module but those ignored, by rounding to nearest: activations are
    scaled as they come (dynamically), so no calibration data is needed. Raises `StageFailed` when
    the scheme does not fit the model's shapes."""
    import torch
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    recipe = QuantizationModifier(
        targets="Linear", scheme=compress.scheme, ignore=list(compress.ignore)
    )
    try:
        oneshot(model=model, recipe=recipe)
        model.save_pretrained(target, save_compressed=True)
    except ValueError as error:
        raise StageFailed(f"{compress.scheme} does not fit this model: {error}") from error
    copy_tokenizer(source, target)
    return describe(target)
