"""How much memory one training worker or one engine replica takes, by parts.

Sources: [ZeRO] Rajbhandari et al., 2020, section 3 and figure 1; [offload] Ren et al., ZeRO-Offload, 2021;
[activations] Korthikanti et al., 2022, whose count of what a layer keeps for its backward pass is made anew here for
Llama-like layers (RMSNorm, gated MLP, no dropout, attention that keeps no scores: Dao et al., FlashAttention, 2022);
[qlora] Dettmers et al., 2023, section 3; [lora] Hu et al., 2021; [deepspeed] the defaults of its JSON configuration.
"""

import math
from collections.abc import Iterator
from typing import Literal

from assay.records.plan import Device, MemoryEstimate, MemoryPart, ModelShape
from assay.spec.compress import Scheme
from assay.spec.serve import EngineSpec
from assay.spec.train import LoraSpec, TrainSpec

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

WEIGHT_BYTES: dict[Scheme, float] = {"none": 2, "W8A8": 1, "W8A16": 1, "W4A16": 0.5 + 2 / 128, "FP8_DYNAMIC": 1}
"""Bytes of a linear layer's weight after quantizing; W4A16 has a 2-byte scale for each group of 128."""

QLORA_BYTES = 0.5 + 0.127 / 8
"""4-bit NormalFloat with double quantization: 0.127 bits a weight for its constants [qlora]."""


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

    frozen = total if train.method.full else total + trained
    weights = MemoryPart(
        name="weights",
        size=math.ceil(_weight_bytes(train, shape, width) / weight_shards),
        formula=f"{frozen:,} weights x {width} bytes{_over(weight_shards)} [ZeRO]",
    )
    states = MemoryPart(
        name="optimizer states",
        size=own_state * (12 if keeps_master else 8),
        formula=f"{trained:,} trained weights x {'(4 + ' if keeps_master else '('}4 + 4) bytes{_over(state_shards)}: "
        f"{'a copy in fp32, ' if keeps_master else ''}two moments of AdamW [ZeRO]",
    )
    gradients = MemoryPart(
        name="gradients",
        size=math.ceil(trained / gradient_shards) * width,
        formula=f"{trained:,} trained weights x {width} bytes{_over(gradient_shards)} [ZeRO]",
    )
    on_host = [states] if device == "GPU" and zero.offload_optimizer else []
    on_device = [part for part in (weights, states, gradients) if part not in on_host]
    if device == "GPU" and zero.offload_optimizer:
        on_device.remove(gradients)
        on_host.append(gradients)
    if device == "GPU" and zero.offload_param:
        on_device.remove(weights)
        on_host.append(weights)
    if zero.zero_stage == 3:
        on_device.append(_gathered(total, width))
    on_device += _buffers(train, trained, own_state, width, device)
    on_device += [
        activations(train, shape, tokens=tokens, width=width),
        _logits(shape, loss_tokens, width),
        _runtime(device),
    ]
    return MemoryEstimate(device=device, parts=tuple(on_device), host_parts=tuple(on_host))


def trained_parameters(train: TrainSpec, shape: ModelShape) -> int:
    """Weights that an optimizer step changes: all, or r x (in + out) of each adapted matrix [lora]."""
    lora = train.method.lora
    if lora is None:
        return shape.num_parameters
    adapted = sum(sides[0] + sides[1] for name, sides in _linear(shape).items() if _is_adapted(lora, name))
    layers = lora.layer_indices()
    num_layers = shape.num_layers if layers is None else sum(layer < shape.num_layers for layer in layers)
    return num_layers * lora.r * adapted


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


def _is_adapted(lora: LoraSpec, name: str) -> bool:
    return lora.target_modules == "all-linear" or name in lora.target_modules


def _weight_bytes(train: TrainSpec, shape: ModelShape, width: int) -> int:
    if train.method.full:
        return shape.num_parameters * width
    return (shape.num_parameters + trained_parameters(train, shape)) * width


def _gathered(total: int, width: int) -> MemoryPart:
    live = min(total, MAX_LIVE_ELEMENTS)
    return MemoryPart(
        name="gathered weights",
        size=live * width,
        formula=f"{live:,} weights x {width} bytes whole at a time (stage3_max_live_parameters) [deepspeed]",
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
    """Layers whose activations are kept: from the lowest adapted one upwards."""
    layers = train.method.lora.layer_indices() if train.method.lora else None
    return shape.num_layers - min(min(layers), shape.num_layers) if layers else shape.num_layers


def _layer_bytes_per_token(train: TrainSpec, shape: ModelShape, width: int) -> int:
    """Bytes that one layer keeps for one token. Each line names the tensors."""
    lora = train.method.lora
    h, f = shape.hidden_size, shape.intermediate_size
    q = shape.num_heads * shape.head_dim
    kept = 2 * 4 * h  # both norms compute in fp32 and keep their input, which is the residual stream
    kept += width * (q + 2 * q)  # queries, and keys and values repeated to as many heads
    kept += width * q  # attention's output
    kept += width * 2 * f + width * f  # gate and up, and gate's activation
    if lora is None:
        kept += 2 * 4 * h  # both norms' normalized input, for the gradient of their weights
    if lora is None or any(_is_adapted(lora, name) for name in ("q_proj", "k_proj", "v_proj")):
        kept += width * h
    if lora is None or _is_adapted(lora, "o_proj"):
        kept += width * q
    if lora is None or any(_is_adapted(lora, name) for name in ("gate_proj", "up_proj")):
        kept += width * h
    if lora is None or _is_adapted(lora, "down_proj"):
        kept += width * f
    if lora is not None:
        kept += width * lora.r * sum(_is_adapted(lora, name) for name in _linear(shape))
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
