"""How much memory one training worker or one engine replica takes, by parts. Workers on GPUs are in
`gpu_memory`.

Sources: [ZeRO] Rajbhandari et al., 2020, section 3 and figure 1; [activations] Korthikanti et al.,
2022, whose count of what a layer keeps for its backward pass is made anew here for Llama-like
layers (RMSNorm, gated MLP, no dropout, attention that keeps no scores: Dao et al., FlashAttention,
2022); [deepspeed] the defaults of its JSON configuration.
"""

import math
from collections.abc import Iterator

from assay.records.plan import Device, MemoryEstimate, MemoryPart, ModelShape
from assay.rules.planning import gpu_memory
from assay.rules.planning.compression import WEIGHT_BYTES
from assay.rules.planning.weights import (
    BYTES,
    STATE_BYTES,
    Precision,
    beside,
    is_adapted,
    layers_with_backward,
    linear,
    over,
    trained_parameters,
    weights_part,
)
from assay.spec.compress import CompressSpec, GgufType, Scheme
from assay.spec.serve import EngineSpec
from assay.spec.train import TrainSpec

GIB = 2**30

# A worker's process before it holds a model: the interpreter with Ray, torch, transformers, peft
# and DeepSpeed imported and its communication set up: what `make bench-plan` measured of a model
# of 123,200 weights.
CPU_RUNTIME = 690 * 2**20

# vLLM's CPU build before it holds a model. An allowance: it was not measured here.
SERVE_CPU_RUNTIME = 3 * GIB // 2

# vLLM on a GPU before it holds a model. An allowance: it was not measured here.
SERVE_GPU_RUNTIME = GIB

# What `engines/models/deepspeed_config.py` sets for gathering and reducing.
BUCKET_ELEMENTS = 50_000_000

# DeepSpeed's `stage3_max_live_parameters`.
MAX_LIVE_ELEMENTS = 1_000_000_000

PAIRED = ("dpo", "orpo", "reward")
"""Objectives whose examples are pairs: of each, two texts go through the model."""


def worker_memory(
    train: TrainSpec,
    shape: ModelShape,
    *,
    tokens: int,
    loss_tokens: int,
    device: Device,
    precision: Precision,
) -> MemoryEstimate:
    """One worker of a training run; `tokens` and `loss_tokens` are those of its largest forward
    pass."""
    if device == "GPU":
        worker = gpu_memory.Worker(train, shape, tokens, loss_tokens, BYTES[precision])
        return gpu_memory.worker_memory(worker)
    zero, workers = train.deepspeed, train.num_workers
    width, trained = BYTES[precision], trained_parameters(train, shape)
    total = shape.num_parameters
    state_shards = workers if zero.zero_stage >= 1 else 1
    gradient_shards = workers if zero.zero_stage >= 2 else 1
    weight_shards = workers if zero.zero_stage == 3 else 1
    keeps_master = precision != "fp32" or zero.zero_stage > 0
    own_state = math.ceil(trained / state_shards)
    state_bytes = 4 * keeps_master + STATE_BYTES[train.optimizer]
    copy = "a copy in fp32 and " if keeps_master else ""
    states = MemoryPart(
        name="optimizer states",
        size=own_state * state_bytes,
        formula=f"{trained:,} trained weights x {state_bytes} bytes{over(state_shards)}: "
        f"{copy}moments of {train.optimizer} [ZeRO]",
    )
    gradients = MemoryPart(
        name="gradients",
        size=math.ceil(trained / gradient_shards) * width,
        formula=f"{trained:,} trained weights x {width} bytes{over(gradient_shards)} [ZeRO]",
    )
    passing = [gradients]
    if zero.zero_stage == 3:
        passing.append(_gathered(shape, width))
    passing += _buffers(train, trained, own_state, width)
    passing += _saving(total, width, passing)
    lasting = [
        weights_part(train, shape, trained, width, weight_shards),
        states,
        *beside(train, trained, total, width, tokens),
        activations(train, shape, tokens=tokens, width=width),
        _logits(shape, loss_tokens, width),
        MemoryPart(
            name="runtime",
            size=CPU_RUNTIME,
            formula="a worker without a model, as `make bench-plan` measured it",
        ),
    ]
    return MemoryEstimate(device=device, parts=(*lasting, *passing))


def activations(train: TrainSpec, shape: ModelShape, *, tokens: int, width: int) -> MemoryPart:
    """What the forward pass keeps for the backward pass, the output head apart."""
    h, layer = shape.hidden_size, _layer_bytes_per_token(train, shape, width)
    num_layers = layers_with_backward(train, shape)
    if train.gradient_checkpointing:
        size = tokens * (shape.num_layers * h * width + layer)
        formula = (
            f"{tokens:,} tokens x ({shape.num_layers} layers' inputs of {h} x {width} + one "
            f"layer's {layer:,}) bytes"
        )
    else:
        size = tokens * num_layers * layer
        formula = f"{tokens:,} tokens x {num_layers} layers x {layer:,} bytes"
    mask = tokens * tokens  # the mask that keeps packed examples apart, one byte a pair, made once
    return MemoryPart(
        name="activations",
        size=size + mask,
        formula=f"{formula}, and a mask of tokens² [activations]",
    )


def serving_memory(
    engine: EngineSpec, shape: ModelShape, *, scheme: Scheme | GgufType, device: Device
) -> MemoryEstimate:
    """One process of an engine replica, with a KV cache for one sequence of `max_model_len` on a
    GPU (the engine takes what is left for more), and of the size that the spec gives on CPU."""
    shards = engine.gpus_per_replica
    embedding = shape.vocab_size * shape.hidden_size * (1 if shape.tied else 2)
    linear = shape.num_parameters - embedding
    per_token = kv_bytes_per_token(shape)
    weights = math.ceil((embedding * 2 + linear * WEIGHT_BYTES[scheme]) / shards)
    if device == "CPU":
        cache = engine.kv_cache_gb_on_cpu * GIB
    else:
        cache = math.ceil(per_token * engine.max_model_len / shards)
    if device == "GPU":
        asked = f"{engine.max_model_len:,} tokens x {per_token:,} bytes"
    else:
        asked = "serve.engine.kv_cache_gb_on_cpu"
    if device == "GPU":
        asked += over(shards)
    return MemoryEstimate(
        device=device,
        parts=(
            MemoryPart(
                name="weights",
                size=weights,
                formula=f"{linear:,} x {WEIGHT_BYTES[scheme]:g} + {embedding:,} in embeddings x 2 "
                f"bytes{over(shards)}",
            ),
            MemoryPart(
                name="KV cache",
                size=cache,
                formula=f"{asked}; a token's is 2 x layers x KV heads x head dimension x 2 bytes "
                "(Kwon et al., PagedAttention, 2023)",
            ),
            MemoryPart(
                name="runtime",
                size=SERVE_GPU_RUNTIME if device == "GPU" else SERVE_CPU_RUNTIME,
                formula="the engine's own, an allowance",
            ),
        ),
    )


# Of a weight: `merge` adds an adapter in fp32, and `compress` quantizes what it has loaded in
# bf16.
MERGING_BYTES, COMPRESSING_BYTES = 4, 2


def loaded_bytes(num_parameters: int, width: int) -> int:
    """What a process that holds the whole model takes, at `width` bytes a weight."""
    return num_parameters * width + CPU_RUNTIME


def loaded_memory(shape: ModelShape, width: int, what: str) -> MemoryEstimate:
    """One process that holds the whole model in a node's memory, whatever its GPUs are."""
    weights = MemoryPart(
        name="weights",
        size=shape.num_parameters * width,
        formula=f"{shape.num_parameters:,} weights x {width} bytes: {what}",
    )
    runtime = MemoryPart(name="runtime", size=CPU_RUNTIME, formula="a process without a model")
    return MemoryEstimate(device="CPU", parts=(weights, runtime))


def compressing_memory(compress: CompressSpec, shape: ModelShape) -> MemoryEstimate:
    """The process that compresses: the model, and what its steps keep of the calibration data.

    llm-compressor goes through the layers one by one, and keeps the hidden states of all texts
    before and after one of them; GPTQ and SparseGPT keep one float32 matrix of inputs x inputs for
    each module of a layer (Frantar et al., 2023)."""
    loaded = loaded_memory(shape, COMPRESSING_BYTES, "compressed from bf16")
    if not compress.is_calibrated:
        return loaded
    calibration = compress.calibration
    tokens = calibration.num_samples * calibration.max_tokens
    states = MemoryPart(
        name="calibration",
        size=2 * tokens * shape.hidden_size * 2,
        formula=f"{calibration.num_samples} texts x at most {calibration.max_tokens:,} tokens x "
        f"hidden_size {shape.hidden_size} x 2 bytes, before and after a layer",
    )
    h, f = shape.hidden_size, shape.intermediate_size
    hessians = MemoryPart(
        name="Hessians",
        size=4 * (6 * h * h + f * f),
        formula=f"a layer's modules: (6 x {h}² + {f}²) x 4 bytes",
    )
    return MemoryEstimate(device="CPU", parts=(*loaded.parts, states, hessians))


def kv_bytes_per_token(shape: ModelShape) -> int:
    """Bytes of keys and values of one token, in 16 bits."""
    return 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * 2


def _saving(total: int, width: int, passing: list[MemoryPart]) -> Iterator[MemoryPart]:
    """Saving copies the whole model, when what a step needs for a moment is given back already."""
    beyond = total * width - sum(part.size for part in passing)
    if beyond > 0:
        formula = (
            f"{total:,} weights x {width} bytes, less what a step needs for a moment (accelerate's "
            "get_state_dict)"
        )
        yield MemoryPart(name="copy for saving", size=beyond, formula=formula)


def _gathered(shape: ModelShape, width: int) -> MemoryPart:
    """Weights that are whole at a time, and the flat buffer that the largest of them is gathered
    into and copied from; on CPU nothing is fetched ahead (see
    `engines/models/deepspeed_config.py`).
    """
    total = shape.num_parameters
    live, flat = min(total, MAX_LIVE_ELEMENTS), min(total, shape.vocab_size * shape.hidden_size)
    return MemoryPart(
        name="gathered weights",
        size=(live + flat) * width,
        formula=f"{live:,} weights whole at a time (stage3_max_live_parameters) + {flat:,} in a "
        f"flat buffer, x {width} bytes [deepspeed]",
    )


def _buffers(train: TrainSpec, trained: int, own_state: int, width: int) -> Iterator[MemoryPart]:
    """What reducing gradients and stepping the optimizer need for a moment."""
    sharded = train.deepspeed.zero_stage > 0
    bucket = min(BUCKET_ELEMENTS, trained)
    if sharded:
        yield MemoryPart(
            name="communication buffers",
            size=bucket * width,
            formula=f"{bucket:,} elements x {width} bytes [deepspeed]",
        )
    flat_copies = "torch's AdamW makes two tensors of the size of a flat fp32 shard"
    yield MemoryPart(
        name="optimizer's scratch",
        size=own_state * 8 if sharded else trained * width,
        formula=flat_copies if sharded else "DeepSpeed reduces all gradients in one flat copy",
    )


def _layer_bytes_per_token(train: TrainSpec, shape: ModelShape, width: int) -> int:
    """Bytes that one layer keeps for one token. Each line names the tensors."""
    method = train.method
    h, f = shape.hidden_size, shape.intermediate_size
    q = shape.num_heads * shape.head_dim
    # Both norms compute in fp32 and keep their input, which is the residual stream.
    kept = 2 * 4 * h
    kept += width * (q + 2 * q)  # queries, and keys and values repeated to as many heads
    kept += width * q  # attention's output
    kept += width * 2 * f + width * f  # gate and up, and gate's activation
    if not method.is_adapter:
        kept += 2 * 4 * h  # both norms' normalized input, for the gradient of their weights
    if any(is_adapted(method, name) for name in ("q_proj", "k_proj", "v_proj")):
        kept += width * h
    if is_adapted(method, "o_proj"):
        kept += width * q
    if any(is_adapted(method, name) for name in ("gate_proj", "up_proj")):
        kept += width * h
    if is_adapted(method, "down_proj"):
        kept += width * f
    if method.low_rank is not None:
        kept += width * method.low_rank.r * sum(is_adapted(method, name) for name in linear(shape))
    if method.bottleneck is not None:
        num_adapters = 1 + (method.bottleneck.placement == "after_both")
        kept += (
            width * num_adapters * (h + 3 * method.bottleneck.size)
        )  # input, and the narrow part before and after
    return kept


def _logits(shape: ModelShape, loss_tokens: int, width: int) -> MemoryPart:
    per_entry = 12 + (width if width < 4 else 0) * 2
    return MemoryPart(
        name="logits",
        size=loss_tokens * shape.vocab_size * per_entry,
        formula=f"{loss_tokens:,} positions that bear loss x {shape.vocab_size:,} words x "
        f"{per_entry} bytes: logits, their log-probabilities and gradients in fp32",
    )
