"""Steps of a spec as llm-compressor's modifiers and compressed-tensors' schemes."""

from collections.abc import Mapping
from typing import Any

from assay.engines.compression import pruning
from assay.spec.compress import (
    FIXED_GROUPS,
    GROUPED,
    CompressStepSpec,
    QuantizeSpec,
    Scheme,
    SmoothQuantSpec,
)

OTHERS = "Linear"
"""Targets the modules that no pattern names; patterns come before it in both libraries."""


def modifiers(step: CompressStepSpec, group_size: int) -> list[Any]:
    """The modifiers of one step, which are applied together. `group_size` is what `auto` has come
    to."""
    if step.quantize is not None:
        return _quantizing(step.quantize, group_size)
    if step.prune is not None:
        return [pruning.modifier(step.prune)]
    assert step.smoothquant is not None
    return [_smoothing(step.smoothquant)]


def _smoothing(smoothquant: SmoothQuantSpec) -> Any:
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    return SmoothQuantModifier(smoothing_strength=smoothquant.strength)


def _quantizing(quantize: QuantizeSpec, group_size: int) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    said = {
        "config_groups": config_groups(quantize, group_size),
        "ignore": [*quantize.ignore, *_left_alone(quantize.modules)],
    }
    if quantize.method == "gptq":
        return [GPTQModifier(**said)]
    if quantize.method == "autoround":
        from llmcompressor.modifiers.autoround import AutoRoundModifier

        # Compiling takes longer than it saves on models that fit one processor, and a compiler may
        # be missing.
        compiles = _has_gpu()
        return [AutoRoundModifier(iters=quantize.iterations, enable_torch_compile=compiles, **said)]
    if quantize.method == "awq":
        from llmcompressor.modifiers.transform.awq import AWQModifier

        return [AWQModifier(), QuantizationModifier(**said)]
    return [QuantizationModifier(**said)]


def _has_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _left_alone(modules: Mapping[str, Scheme]) -> list[str]:
    return [_target(pattern) for pattern, scheme in modules.items() if scheme == "none"]


def config_groups(quantize: QuantizeSpec, group_size: int) -> dict[str, Any]:
    """Which modules get which scheme; patterns first."""
    targets: dict[Scheme, list[str]] = {}
    for pattern, scheme in quantize.modules.items():
        if scheme != "none":
            targets.setdefault(scheme, []).append(_target(pattern))
    targets.setdefault(quantize.scheme, []).append(OTHERS)
    groups = {}
    for number, (scheme, wanted) in enumerate(targets.items()):
        groups[f"group_{number}"] = _scheme(scheme, wanted, quantize, group_size)
    return groups


def _target(pattern: str) -> str:
    """compressed-tensors and vLLM match from a name's beginning; here a pattern is looked for
    anywhere."""
    return f"re:.*(?:{pattern})"


def _scheme(scheme: Scheme, targets: list[str], quantize: QuantizeSpec, group_size: int) -> Any:
    from compressed_tensors.quantization.quant_scheme import preset_name_to_scheme

    made = preset_name_to_scheme(scheme, targets)
    if scheme == "W8A8":
        return _int8(made, quantize)
    if scheme in GROUPED:
        changes: dict[str, Any] = {"symmetric": quantize.symmetric or scheme != "W4A16"}
        if quantize.group_size == "channel":
            changes |= {"strategy": "channel", "group_size": None}
        else:
            changes["group_size"] = group_size
        made.weights = _changed(made.weights, changes)
    else:
        assert scheme in FIXED_GROUPS or scheme.startswith("FP8")
    return made


def _int8(made: Any, quantize: QuantizeSpec) -> Any:
    if quantize.weights_per == "tensor":
        made.weights = _changed(made.weights, {"strategy": "tensor"})
    changes: dict[str, Any] = {"symmetric": quantize.symmetric}
    if quantize.activations == "static":
        # One scale for all tokens: that of each token cannot be known before it comes.
        changes |= {"strategy": "tensor", "dynamic": False, "observer": "static_minmax"}
    made.input_activations = _changed(made.input_activations, changes)
    return made


def _changed(arguments: Any, changes: Mapping[str, Any]) -> Any:
    """Validated anew, so that what one change means for another field is found."""
    return type(arguments).model_validate({**arguments.model_dump(), **changes})
