"""Which weights a model has and a method trains, and the memory that they take wherever they are
trained.

Sources: [ZeRO] Rajbhandari et al., 2020, section 3; [qlora] Dettmers et al., 2023, section 3;
[lora] Hu et al., 2021.
"""

import math
import re
from collections.abc import Iterator
from typing import Literal

from assay.records.plan import MemoryPart, ModelShape
from assay.spec.method import BottleneckSpec, MethodSpec
from assay.spec.train import TrainSpec

Precision = Literal["bf16", "fp16", "fp32"]

BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "bfloat16": 2, "float16": 2, "float32": 4}

QLORA_BYTES = {True: 0.5 + 0.127 / 8, False: 0.5 + 0.5 / 8}
"""A weight in 4 bits and its share of the blocks' constants: 0.127 bits with double quantization,
else 0.5 [qlora]."""

STATE_BYTES = {"adamw": 8, "adamw_8bit": 2, "lion": 4, "lion_8bit": 1, "muon": 4, "adafactor": 0}
"""An optimizer's moments, for each trained weight; adafactor keeps one number for each row and
column."""


def trained_parameters(train: TrainSpec, shape: ModelShape) -> int:
    """Weights that an optimizer step changes: all, some, or r x (in + out) of each adapted matrix
    [lora]."""
    method, h = train.method, shape.hidden_size
    if method.full:
        return shape.num_parameters
    if method.freeze:
        return _unfrozen(method, shape)
    kv, f = shape.num_kv_heads * shape.head_dim, shape.intermediate_size
    if method.ia3:
        return shape.num_layers * (2 * kv + f)
    if method.bottleneck:
        return _bottleneckweights_part(method.bottleneck, h) * num_chosen_layers(method, shape)
    if method.prefix_tuning:
        return method.prefix_tuning.num_virtual_tokens * shape.num_layers * 2 * kv
    if method.prompt_tuning:
        return method.prompt_tuning.num_virtual_tokens * h
    if method.p_tuning:
        inner = method.p_tuning.hidden_size
        return method.p_tuning.num_virtual_tokens * h + 2 * h * inner + inner * inner
    if method.adalora:
        rank = method.adalora.init_r
    elif method.low_rank:
        rank = method.low_rank.r
    else:
        rank = 0
    adapted = sum(
        sides[0] + sides[1] for name, sides in linear(shape).items() if is_adapted(method, name)
    )
    return num_chosen_layers(method, shape) * rank * adapted


def layers_with_backward(train: TrainSpec, shape: ModelShape) -> int:
    """Layers whose activations are kept: from the lowest that learns upwards."""
    freeze, layers = train.method.freeze, _layer_indices(train.method)
    if freeze is not None and not freeze.trainable:
        return min(freeze.last_layers or shape.num_layers, shape.num_layers)
    if layers:
        return shape.num_layers - min(min(layers), shape.num_layers)
    return shape.num_layers


def weights_part(
    train: TrainSpec, shape: ModelShape, trained: int, width: int, shards: int
) -> MemoryPart:
    """The model's weights, and an adapter's."""
    own = trained if train.method.is_adapter else 0
    whole, quantized = shape.num_parameters + own, 0
    if train.method.qlora:
        quantized = shape.num_layers * sum(a * b for a, b in linear(shape).values())
    if train.method.qlora:
        low = QLORA_BYTES[train.method.qlora.double_quant]
    else:
        low = 0
    formula = f"{whole - quantized:,} weights x {width} bytes{over(shards)} [ZeRO]"
    return MemoryPart(
        name="weights",
        size=math.ceil(((whole - quantized) * width + quantized * low) / shards),
        formula=f"{quantized:,} in 4 bits x {low:.3f} bytes [qlora] + {formula}"
        if quantized
        else formula,
    )


def beside(
    train: TrainSpec, trained: int, total: int, width: int, tokens: int
) -> Iterator[MemoryPart]:
    """Other models and numbers that the objective keeps."""
    grpo, method = train.objective.grpo, train.method
    can_be_switched_off = method.is_adapter and method.bottleneck is None
    if grpo is not None and grpo.beta > 0 and not can_be_switched_off:
        formula = (
            f"{total:,} weights x {width} bytes: the model as it was, for which TRL loads it once "
            "more"
        )
        yield MemoryPart(name="reference model", size=total * width, formula=formula)
    if train.ewc is not None:
        formula = (
            f"{trained:,} trained weights x 2 x 4 bytes: where they were, and their Fisher "
            "information"
        )
        yield MemoryPart(name="ewc", size=8 * trained, formula=formula)
    if train.contrastive is not None:
        texts = train.examples_per_worker
        formula = (
            f"{texts} texts x ({math.ceil(tokens / texts):,} tokens)² x 4 bytes: how alike a "
            "text's tokens are"
        )
        yield MemoryPart(name="contrastive", size=4 * tokens**2 // texts, formula=formula)


def linear(shape: ModelShape) -> dict[str, tuple[int, int]]:
    """(in, out) of each linear module of a layer, by its usual name."""
    h, f = shape.hidden_size, shape.intermediate_size
    q, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    return {
        "q_proj": (h, q),
        "k_proj": (h, kv),
        "v_proj": (h, kv),
        "o_proj": (q, h),
        "gate_proj": (h, f),
        "up_proj": (h, f),
        "down_proj": (f, h),
    }


def is_adapted(method: MethodSpec, name: str) -> bool:
    """Whether the inputs of a linear module are kept for its own or its adapter's gradient."""
    if not method.is_adapter:
        return True
    adapter = method.low_rank or method.adalora
    return adapter is not None and (
        adapter.target_modules == "all-linear" or name in adapter.target_modules
    )


def _layer_indices(method: MethodSpec) -> tuple[int, ...] | None:
    adapter = method.low_rank or method.adalora or method.bottleneck
    if adapter:
        return adapter.layer_indices()
    return None


def num_chosen_layers(method: MethodSpec, shape: ModelShape) -> int:
    """Layers that have an adapter."""
    layers = _layer_indices(method)
    if layers is None:
        return shape.num_layers
    return sum(layer < shape.num_layers for layer in layers)


def _bottleneckweights_part(bottleneck: BottleneckSpec, width: int) -> int:
    """Of a layer's adapters: three matrices beside the feed-forward part, or two with biases after
    each part."""
    if bottleneck.placement == "parallel":
        return 3 * bottleneck.size * width
    return (2 * bottleneck.size * width + bottleneck.size + width) * (
        1 + (bottleneck.placement == "after_both")
    )


def _unfrozen(method: MethodSpec, shape: ModelShape) -> int:
    """Weights of the layers and names that `freeze` leaves free."""
    assert method.freeze is not None
    h, first = shape.hidden_size, shape.num_layers - (method.freeze.last_layers or 0)
    sizes = {"model.embed_tokens.weight": shape.vocab_size * h, "model.norm.weight": h}
    sizes |= {} if shape.tied else {"lm_head.weight": shape.vocab_size * h}
    free = 0
    for layer in range(shape.num_layers):
        own = {}
        for name, (a, b) in linear(shape).items():
            own[f"model.layers.{layer}.{name}.weight"] = a * b
        if layer >= first:
            free += sum(own.values()) + 2 * h
        else:
            sizes |= own
    return free + sum(
        size
        for name, size in sizes.items()
        if any(re.search(pattern, name) for pattern in method.freeze.trainable)
    )


def over(shards: int) -> str:
    """A formula's last words: among how many workers its part is shared."""
    if shards > 1:
        return f" / {shards} workers"
    return ""
