"""How much memory one training worker or one engine replica takes, by parts.

Sources: [ZeRO] Rajbhandari et al., 2020, section 3 and figure 1; [offload] Ren et al., ZeRO-Offload, 2021;
[activations] Korthikanti et al., 2022, whose count of what a layer keeps for its backward pass is made anew here for
Llama-like layers (RMSNorm, gated MLP, no dropout, attention that keeps no scores: Dao et al., FlashAttention, 2022);
[qlora] Dettmers et al., 2023, section 3; [lora] Hu et al., 2021; [deepspeed] the defaults of its JSON configuration.
"""

import math
import re
from collections.abc import Iterator
from typing import Literal

from assay.records.plan import Device, MemoryEstimate, MemoryPart, ModelShape
from assay.spec.compress import Scheme
from assay.spec.method import BottleneckSpec, MethodSpec
from assay.spec.serve import EngineSpec
from assay.spec.train import TrainSpec

Precision = Literal["bf16", "fp16", "fp32"]

GIB = 2**30
BYTES = {"bf16": 2, "fp16": 2, "fp32": 4, "bfloat16": 2, "float16": 2, "float32": 4}

CPU_RUNTIME = 690 * 2**20
"""A worker's process before it holds a model: the interpreter with Ray, torch, transformers, peft and DeepSpeed
imported and its communication set up: what `make bench-plan` measured of a model of 123,200 weights."""

GPU_RUNTIME = GIB
"""CUDA's context, NCCL's buffers and what the allocator cannot use. An allowance: it was not measured here."""

SERVE_CPU_RUNTIME = 3 * GIB // 2
"""vLLM's CPU build before it holds a model. An allowance: it was not measured here."""

BUCKET_ELEMENTS = 50_000_000
"""What `engines/deepspeed.py` sets for gathering and reducing."""

MAX_LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's `stage3_max_live_parameters`."""

PREFETCH_ELEMENTS = 50_000_000
"""DeepSpeed's `stage3_prefetch_bucket_size`."""

WEIGHT_BYTES: dict[Scheme, float] = {"none": 2, "W8A8": 1, "W8A16": 1, "W4A16": 0.5 + 2 / 128, "FP8_DYNAMIC": 1}
"""Bytes of a linear layer's weight after quantizing; W4A16 has a 2-byte scale for each group of 128."""

QLORA_BYTES = {True: 0.5 + 0.127 / 8, False: 0.5 + 0.5 / 8}
"""A weight in 4 bits and its share of the blocks' constants: 0.127 bits with double quantization, else 0.5 [qlora]."""

STATE_BYTES = {"adamw": 8, "adamw_8bit": 2, "lion": 4, "lion_8bit": 1, "muon": 4, "adafactor": 0}
"""An optimizer's moments, for each trained weight; adafactor keeps one number for each row and column."""

PAIRED = ("dpo", "orpo", "reward")
"""Objectives whose examples are pairs: of each, two texts go through the model."""


def worker_memory(
    train: TrainSpec, shape: ModelShape, *, tokens: int, loss_tokens: int, device: Device, precision: Precision
) -> MemoryEstimate:
    """One worker of a training run; `tokens` and `loss_tokens` are those of its largest forward pass."""
    zero, workers = train.deepspeed, train.num_workers
    width, trained, total = BYTES[precision], trained_parameters(train, shape), shape.num_parameters
    state_shards = workers if zero.zero_stage >= 1 else 1
    gradient_shards = workers if zero.zero_stage >= 2 else 1
    weight_shards = workers if zero.zero_stage == 3 else 1
    keeps_master = precision != "fp32" or zero.zero_stage > 0
    own_state = math.ceil(trained / state_shards)
    moments = STATE_BYTES[train.optimizer]

    weights = _weights(train, shape, trained, width, weight_shards)
    states = MemoryPart(
        name="optimizer states",
        size=own_state * (4 * keeps_master + moments),
        formula=f"{trained:,} trained weights x {4 * keeps_master + moments} bytes{_over(state_shards)}: "
        f"{'a copy in fp32 and ' if keeps_master else ''}moments of {train.optimizer} [ZeRO]",
    )
    gradients = MemoryPart(
        name="gradients",
        size=math.ceil(trained / gradient_shards) * width,
        formula=f"{trained:,} trained weights x {width} bytes{_over(gradient_shards)} [ZeRO]",
    )
    offloaded = [states, gradients] if device == "GPU" and zero.offload_optimizer else []
    offloaded += [weights] if device == "GPU" and zero.offload_param else []
    lasting = [part for part in (weights, states) if part not in offloaded]
    passing = [gradients] if gradients not in offloaded else []
    if zero.zero_stage == 3:
        passing.append(_gathered(shape, width, device))
    passing += _buffers(train, trained, own_state, width, device)
    if device == "CPU":
        passing += _saving(total, width, passing)
    lasting += [
        *_beside(train, trained, total, width, tokens),
        activations(train, shape, tokens=tokens, width=width),
        _logits(shape, loss_tokens, width),
        _runtime(device),
    ]
    on_host = tuple(part for part in offloaded if _goes_to(part.name, train) != "nvme")
    return MemoryEstimate(device=device, parts=(*lasting, *passing), host_parts=on_host)


def trained_parameters(train: TrainSpec, shape: ModelShape) -> int:
    """Weights that an optimizer step changes: all, some, or r x (in + out) of each adapted matrix [lora]."""
    method, h = train.method, shape.hidden_size
    if method.full:
        return shape.num_parameters
    if method.freeze:
        return _unfrozen(method, shape)
    kv, f = shape.num_kv_heads * shape.head_dim, shape.intermediate_size
    if method.ia3:
        return shape.num_layers * (2 * kv + f)
    if method.bottleneck:
        return _bottleneck_weights(method.bottleneck, h) * _num_chosen_layers(method, shape)
    if method.prefix_tuning:
        return method.prefix_tuning.num_virtual_tokens * shape.num_layers * 2 * kv
    if method.prompt_tuning:
        return method.prompt_tuning.num_virtual_tokens * h
    if method.p_tuning:
        inner = method.p_tuning.hidden_size
        return method.p_tuning.num_virtual_tokens * h + 2 * h * inner + inner * inner
    rank = method.adalora.init_r if method.adalora else method.low_rank.r if method.low_rank else 0
    adapted = sum(sides[0] + sides[1] for name, sides in _linear(shape).items() if _is_adapted(method, name))
    return _num_chosen_layers(method, shape) * rank * adapted


def activations(train: TrainSpec, shape: ModelShape, *, tokens: int, width: int) -> MemoryPart:
    """What the forward pass keeps for the backward pass, the output head apart."""
    h, layer = shape.hidden_size, _layer_bytes_per_token(train, shape, width)
    num_layers = _layers_with_backward(train, shape)
    if train.gradient_checkpointing:
        size = tokens * (shape.num_layers * h * width + layer)
        formula = (
            f"{tokens:,} tokens x ({shape.num_layers} layers' inputs of {h} x {width} + one layer's {layer:,}) bytes"
        )
    else:
        size = tokens * num_layers * layer
        formula = f"{tokens:,} tokens x {num_layers} layers x {layer:,} bytes"
    mask = tokens * tokens  # the mask that keeps packed examples apart, one byte a pair, made once
    return MemoryPart(name="activations", size=size + mask, formula=f"{formula}, and a mask of tokens² [activations]")


def serving_memory(engine: EngineSpec, shape: ModelShape, *, scheme: Scheme, device: Device) -> MemoryEstimate:
    """One process of an engine replica, with a KV cache for one sequence of `max_model_len` on a GPU (the engine
    takes what is left for more), and of the size that the spec gives on CPU."""
    shards = engine.tensor_parallel_size
    embedding = shape.vocab_size * shape.hidden_size * (1 if shape.tied else 2)
    linear = shape.num_parameters - embedding
    per_token = kv_bytes_per_token(shape)
    weights = math.ceil((embedding * 2 + linear * WEIGHT_BYTES[scheme]) / shards)
    cache = engine.kv_cache_gb_on_cpu * GIB if device == "CPU" else math.ceil(per_token * engine.max_model_len / shards)
    asked = (
        f"{engine.max_model_len:,} tokens x {per_token:,} bytes"
        if device == "GPU"
        else "serve.engine.kv_cache_gb_on_cpu"
    )
    return MemoryEstimate(
        device=device,
        parts=(
            MemoryPart(
                name="weights",
                size=weights,
                formula=f"{linear:,} x {WEIGHT_BYTES[scheme]:g} + {embedding:,} in embeddings x 2 bytes{_over(shards)}",
            ),
            MemoryPart(
                name="KV cache",
                size=cache,
                formula=f"{asked}{_over(shards) if device == 'GPU' else ''}; a token's is 2 x layers x KV heads x head "
                "dimension x 2 bytes (Kwon et al., PagedAttention, 2023)",
            ),
            MemoryPart(
                name="runtime",
                size=GPU_RUNTIME if device == "GPU" else SERVE_CPU_RUNTIME,
                formula="the engine's own, an allowance",
            ),
        ),
    )


def kv_bytes_per_token(shape: ModelShape) -> int:
    """Bytes of keys and values of one token, in 16 bits."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * 2


def _linear(shape: ModelShape) -> dict[str, tuple[int, int]]:
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


def _is_adapted(method: MethodSpec, name: str) -> bool:
    """Whether the inputs of a linear module are kept for its own or its adapter's gradient."""
    if not method.is_adapter:
        return True
    adapter = method.low_rank or method.adalora
    return adapter is not None and (adapter.target_modules == "all-linear" or name in adapter.target_modules)


def _layer_indices(method: MethodSpec) -> tuple[int, ...] | None:
    adapter = method.low_rank or method.adalora or method.bottleneck
    return adapter.layer_indices() if adapter else None


def _num_chosen_layers(method: MethodSpec, shape: ModelShape) -> int:
    layers = _layer_indices(method)
    return shape.num_layers if layers is None else sum(layer < shape.num_layers for layer in layers)


def _bottleneck_weights(bottleneck: BottleneckSpec, width: int) -> int:
    """Of a layer's adapters: three matrices beside the feed-forward part, or two with biases after each part."""
    if bottleneck.placement == "parallel":
        return 3 * bottleneck.size * width
    return (2 * bottleneck.size * width + bottleneck.size + width) * (1 + (bottleneck.placement == "after_both"))


def _unfrozen(method: MethodSpec, shape: ModelShape) -> int:
    """Weights of the layers and names that `freeze` leaves free."""
    assert method.freeze is not None
    h, first = shape.hidden_size, shape.num_layers - (method.freeze.last_layers or 0)
    sizes = {"model.embed_tokens.weight": shape.vocab_size * h, "model.norm.weight": h}
    sizes |= {} if shape.tied else {"lm_head.weight": shape.vocab_size * h}
    free = 0
    for layer in range(shape.num_layers):
        own = {f"model.layers.{layer}.{name}.weight": a * b for name, (a, b) in _linear(shape).items()}
        if layer >= first:
            free += sum(own.values()) + 2 * h
        else:
            sizes |= own
    return free + sum(
        size for name, size in sizes.items() if any(re.search(pattern, name) for pattern in method.freeze.trainable)
    )


def _weights(train: TrainSpec, shape: ModelShape, trained: int, width: int, shards: int) -> MemoryPart:
    """The model's weights, and an adapter's."""
    own = trained if train.method.is_adapter else 0
    whole, quantized = shape.num_parameters + own, 0
    if train.method.qlora:
        quantized = shape.num_layers * sum(a * b for a, b in _linear(shape).values())
    low = QLORA_BYTES[train.method.qlora.double_quant] if train.method.qlora else 0
    formula = f"{whole - quantized:,} weights x {width} bytes{_over(shards)} [ZeRO]"
    return MemoryPart(
        name="weights",
        size=math.ceil(((whole - quantized) * width + quantized * low) / shards),
        formula=f"{quantized:,} in 4 bits x {low:.3f} bytes [qlora] + {formula}" if quantized else formula,
    )


def _beside(train: TrainSpec, trained: int, total: int, width: int, tokens: int) -> Iterator[MemoryPart]:
    """Other models and numbers that the objective keeps."""
    grpo, method = train.objective.grpo, train.method
    can_be_switched_off = method.is_adapter and method.bottleneck is None
    if grpo is not None and grpo.beta > 0 and not can_be_switched_off:
        formula = f"{total:,} weights x {width} bytes: the model as it was, for which TRL loads it once more"
        yield MemoryPart(name="reference model", size=total * width, formula=formula)
    if train.ewc is not None:
        formula = f"{trained:,} trained weights x 2 x 4 bytes: where they were, and their Fisher information"
        yield MemoryPart(name="ewc", size=8 * trained, formula=formula)
    if train.contrastive is not None:
        texts = train.examples_per_worker
        formula = f"{texts} texts x ({math.ceil(tokens / texts):,} tokens)² x 4 bytes: how alike a text's tokens are"
        yield MemoryPart(name="contrastive", size=4 * tokens**2 // texts, formula=formula)


def _goes_to(part: str, train: TrainSpec) -> bool | str:
    zero = train.deepspeed
    return zero.offload_param if part == "weights" else zero.offload_optimizer


def _saving(total: int, width: int, passing: list[MemoryPart]) -> Iterator[MemoryPart]:
    """Saving copies the whole model, when what a step needs for a moment is given back already."""
    beyond = total * width - sum(part.size for part in passing)
    if beyond > 0:
        formula = (
            f"{total:,} weights x {width} bytes, less what a step needs for a moment (accelerate's get_state_dict)"
        )
        yield MemoryPart(name="copy for saving", size=beyond, formula=formula)


def _gathered(shape: ModelShape, width: int, device: Device) -> MemoryPart:
    """Weights that are whole at a time, and the flat buffer that the largest of them is gathered into and copied from;
    on GPUs as much is fetched ahead, on CPU nothing is (see `engines/deepspeed.py`)."""
    total = shape.num_parameters
    live, ahead = min(total, MAX_LIVE_ELEMENTS), PREFETCH_ELEMENTS if device == "GPU" else 0
    flat = min(total, max(shape.vocab_size * shape.hidden_size, ahead))
    return MemoryPart(
        name="gathered weights",
        size=(live + flat) * width,
        formula=f"{live:,} weights whole at a time (stage3_max_live_parameters) + {flat:,} in a flat buffer, x {width} "
        "bytes [deepspeed]",
    )


def _buffers(train: TrainSpec, trained: int, own_state: int, width: int, device: Device) -> Iterator[MemoryPart]:
    """What reducing gradients and stepping the optimizer need for a moment."""
    bucket = min(BUCKET_ELEMENTS, trained) if device == "CPU" else BUCKET_ELEMENTS
    if train.deepspeed.zero_stage > 0:
        count = 2 if device == "GPU" else 1
        yield MemoryPart(
            name="communication buffers",
            size=bucket * width * count,
            formula=f"{bucket:,} elements x {width} bytes{' x 2, to overlap' if count == 2 else ''} [deepspeed]",
        )
    if device == "CPU":
        yield MemoryPart(
            name="optimizer's scratch",
            size=own_state * 8 if train.deepspeed.zero_stage else trained * width,
            formula="torch's AdamW makes two tensors of the size of a flat fp32 shard"
            if train.deepspeed.zero_stage
            else "DeepSpeed reduces all gradients in one flat copy",
        )


def _layers_with_backward(train: TrainSpec, shape: ModelShape) -> int:
    """Layers whose activations are kept: from the lowest that learns upwards."""
    freeze, layers = train.method.freeze, _layer_indices(train.method)
    if freeze is not None and not freeze.trainable:
        return min(freeze.last_layers or shape.num_layers, shape.num_layers)
    return shape.num_layers - min(min(layers), shape.num_layers) if layers else shape.num_layers


def _layer_bytes_per_token(train: TrainSpec, shape: ModelShape, width: int) -> int:
    """Bytes that one layer keeps for one token. Each line names the tensors."""
    method = train.method
    h, f = shape.hidden_size, shape.intermediate_size
    q = shape.num_heads * shape.head_dim
    kept = 2 * 4 * h  # both norms compute in fp32 and keep their input, which is the residual stream
    kept += width * (q + 2 * q)  # queries, and keys and values repeated to as many heads
    kept += width * q  # attention's output
    kept += width * 2 * f + width * f  # gate and up, and gate's activation
    if not method.is_adapter:
        kept += 2 * 4 * h  # both norms' normalized input, for the gradient of their weights
    if any(_is_adapted(method, name) for name in ("q_proj", "k_proj", "v_proj")):
        kept += width * h
    if _is_adapted(method, "o_proj"):
        kept += width * q
    if any(_is_adapted(method, name) for name in ("gate_proj", "up_proj")):
        kept += width * h
    if _is_adapted(method, "down_proj"):
        kept += width * f
    if method.low_rank is not None:
        kept += width * method.low_rank.r * sum(_is_adapted(method, name) for name in _linear(shape))
    if method.bottleneck is not None:
        num_adapters = 1 + (method.bottleneck.placement == "after_both")
        kept += width * num_adapters * (h + 3 * method.bottleneck.size)  # input, and the narrow part before and after
    return kept


def _logits(shape: ModelShape, loss_tokens: int, width: int) -> MemoryPart:
    per_entry = 12 + (width if width < 4 else 0) * 2
    return MemoryPart(
        name="logits",
        size=loss_tokens * shape.vocab_size * per_entry,
        formula=f"{loss_tokens:,} positions that bear loss x {shape.vocab_size:,} words x {per_entry} bytes: logits, "
        "their log-probabilities and gradients in fp32",
    )


def _runtime(device: Device) -> MemoryPart:
    if device == "GPU":
        return MemoryPart(name="runtime", size=GPU_RUNTIME, formula="CUDA's context and NCCL: an allowance")
    return MemoryPart(
        name="runtime", size=CPU_RUNTIME, formula="a worker without a model, as `make bench-plan` measured it"
    )


def _over(shards: int) -> str:
    return f" / {shards} workers" if shards > 1 else ""
