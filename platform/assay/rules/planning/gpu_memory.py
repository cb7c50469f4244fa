"""How much memory one training worker takes on a GPU, by parts, at the worst moment of a step.

A step has three such moments, and the allocator lends the same memory to each of them: when the
loss is differentiated, all activations and the logits are there; when the lowest layer is,
activations and gradients; when the optimizer steps, gradients and copies of them. The estimate is
the parts that last and those of the moment that takes most. What stands here was measured on one
NVIDIA H100 80GB with torch 2.11 and DeepSpeed 0.19.8 (`tests/golden/h100_memory.json`), with one
worker: what more workers need beyond that is from the sources.

Sources: [ZeRO] Rajbhandari et al., 2020, section 3; [offload] Ren et al., ZeRO-Offload, 2021;
[activations] Korthikanti et al., 2022, section 4, counted anew for Llama-like layers; [deepspeed]
the defaults of its JSON configuration.
"""

import math
from dataclasses import dataclass

from assay.records.plan import MemoryEstimate, MemoryPart, ModelShape
from assay.rules.planning.weights import (
    STATE_BYTES,
    beside,
    is_adapted,
    layers_with_backward,
    linear,
    over,
    trained_parameters,
    weights_part,
)
from assay.spec.train import TrainSpec

RUNTIME = 1_850_000_000
RUNTIME_OF_ZERO_3 = 1_440_000_000
"""CUDA's context (0.64 GB), NCCL and the libraries' kernels (1.78 GB with it, 1.37 under ZeRO-3),
and cuBLAS's workspace (0.07 GB): measured, the same in every run."""

BUCKET_ELEMENTS = 50_000_000
"""What `engines/models/deepspeed_config.py` sets for reducing."""

MAX_LIVE_ELEMENTS = 1_000_000_000
"""DeepSpeed's `stage3_max_live_parameters`; what it fetches ahead is a part of it."""

SUB_GROUP_ELEMENTS = 1_000_000_000
"""DeepSpeed's `sub_group_size`: ZeRO-3 steps so many weights at a time."""

LOGIT_BYTES = 12
"""Of each logit at the worst moment: its log-probability and two gradients, in fp32. The logits
themselves are freed by then."""

STEP_BYTES = {0: 8, 1: 6, 2: 6, 3: 6}
"""Of each weight's gradient while DeepSpeed steps, beyond the gradient itself: the copy in fp32
and a flat one of what is given."""


@dataclass(frozen=True)
class Worker:
    """One worker of a training run."""

    train: TrainSpec
    shape: ModelShape
    tokens: int
    """Of its largest forward pass."""
    loss_tokens: int
    """Those of them that bear loss."""
    width: int
    """Bytes of a number in the forward and backward pass."""

    @property
    def zero_stage(self) -> int:
        """How much DeepSpeed shards."""
        return self.train.deepspeed.zero_stage

    @property
    def trained(self) -> int:
        """Weights that the optimizer changes."""
        return trained_parameters(self.train, self.shape)

    def shards(self, from_stage: int) -> int:
        """Among how many workers that is shared which is sharded from a ZeRO stage on."""
        if self.zero_stage >= from_stage:
            return self.train.num_workers
        return 1

    @property
    def own_states(self) -> int:
        """Trained weights whose optimizer state is this worker's."""
        return math.ceil(self.trained / self.shards(1))

    @property
    def has_liger(self) -> bool:
        """Whether Liger's kernels are asked for. That its package is there and has kernels for
        the model is taken for granted."""
        return self.train.kernels == "auto" or "liger" in self.train.kernels

    @property
    def is_masked(self) -> bool:
        """Whether attention keeps a mask over the whole row (see `engines/models/kernels.py`)."""
        kernels = self.train.kernels
        return kernels == "none" or ("compile" in kernels and "flash" not in kernels)


def worker_memory(worker: Worker) -> MemoryEstimate:
    """The estimate, and what is offloaded to the node's memory."""
    train, zero = worker.train, worker.train.deepspeed
    weights = weights_part(
        train, worker.shape, worker.trained, worker.width, worker.shards(from_stage=3)
    )
    total = worker.shape.num_parameters
    lasting = [] if zero.offload_param else [weights]
    if zero.offload_optimizer:
        lasting.append(_offload_buffer(worker))
    else:
        lasting += _on_device(worker)
    lasting += [
        *beside(train, worker.trained, total, worker.width, worker.tokens),
    ]
    kept, gathered = _kept(worker), _gathered(worker)
    moments = (
        [kept, _logits(worker), *gathered, *_accumulated(worker)],
        [kept, _one_layer(worker), *gathered, *_gradients(worker), *_buckets(worker)],
        [] if zero.offload_optimizer else [*_gradients(worker), _stepping(worker)],
    )
    runtime = MemoryPart(
        name="runtime",
        size=RUNTIME_OF_ZERO_3 if worker.zero_stage == 3 else RUNTIME,
        formula="CUDA's context, NCCL, kernels and cuBLAS's workspace, measured on an H100",
    )
    worst = max(moments, key=lambda parts: sum(part.size for part in parts))
    return MemoryEstimate(
        device="GPU", parts=(*lasting, *worst, runtime), host_parts=tuple(_on_host(worker, weights))
    )


def _on_device(worker: Worker) -> list[MemoryPart]:
    """The optimizer's, where it is not offloaded."""
    parts = [_states(worker)]
    if worker.zero_stage == 3:
        parts += _gradients(worker, lasting=True)
    return parts


def _states(worker: Worker) -> MemoryPart:
    moments = STATE_BYTES[worker.train.optimizer]
    master = 4 if worker.width < 4 or worker.zero_stage > 0 else 0
    copy = "a copy in fp32 and " if master else ""
    return MemoryPart(
        name="optimizer states",
        size=worker.own_states * (master + moments),
        formula=f"{worker.trained:,} trained weights x {master + moments} bytes"
        f"{over(worker.shards(1))}: {copy}moments of {worker.train.optimizer} [ZeRO]",
    )


def _gradients(worker: Worker, *, lasting: bool = False) -> list[MemoryPart]:
    """ZeRO-3 keeps a flat buffer for them from the start; offloaded, they leave as they come."""
    if lasting != (worker.zero_stage == 3) or worker.train.deepspeed.offload_optimizer:
        return []
    shards = worker.shards(2)
    return [
        MemoryPart(
            name="gradients",
            size=math.ceil(worker.trained / shards) * worker.width,
            formula=f"{worker.trained:,} trained weights x {worker.width} bytes{over(shards)} "
            "[ZeRO]",
        )
    ]


def _accumulated(worker: Worker) -> list[MemoryPart]:
    """Gradients of the micro-batches before, when a loss is differentiated."""
    if worker.train.accumulation_steps > 1:
        return _gradients(worker)
    return []


def _stepping(worker: Worker) -> MemoryPart:
    each, own = STEP_BYTES[worker.zero_stage], worker.own_states
    if worker.zero_stage == 3:
        own = min(own, SUB_GROUP_ELEMENTS)
    return MemoryPart(
        name="optimizer's scratch",
        size=own * each,
        formula=f"{own:,} own weights x {each} bytes: DeepSpeed's fp32 gradients and flat copies, "
        "measured on an H100",
    )


def _offload_buffer(worker: Worker) -> MemoryPart:
    """DeepSpeed keeps one on the GPU through which gradients leave it."""
    largest = worker.shape.vocab_size * worker.shape.hidden_size
    if worker.train.method.is_adapter:
        largest = min(largest, worker.trained)
    in_use = worker.zero_stage < 3
    return MemoryPart(
        name="offload buffer",
        size=largest * worker.width * in_use,
        formula=f"{largest:,} weights of the largest tensor x {worker.width} bytes [deepspeed]",
    )


def _buckets(worker: Worker) -> list[MemoryPart]:
    """What gradients are reduced in, twice, so that reducing overlaps with computing."""
    if worker.zero_stage == 0:
        return []
    bucket = min(BUCKET_ELEMENTS, worker.trained)
    return [
        MemoryPart(
            name="communication buffers",
            size=2 * bucket * worker.width,
            formula=f"{bucket:,} elements x {worker.width} bytes x 2, to overlap [deepspeed]",
        )
    ]


def _gathered(worker: Worker) -> list[MemoryPart]:
    """Sharded weights that are whole at a time. A single worker has them whole where they are,
    unless they are offloaded."""
    alone = worker.train.num_workers == 1 and not worker.train.deepspeed.offload_param
    if worker.zero_stage < 3 or alone:
        return []
    live = min(worker.shape.num_parameters, MAX_LIVE_ELEMENTS)
    return [
        MemoryPart(
            name="gathered weights",
            size=live * worker.width,
            formula=f"{live:,} weights whole at a time (stage3_max_live_parameters) x "
            f"{worker.width} bytes [deepspeed]",
        )
    ]


def _logits(worker: Worker) -> MemoryPart:
    return MemoryPart(
        name="logits",
        size=worker.loss_tokens * worker.shape.vocab_size * LOGIT_BYTES,
        formula=f"{worker.loss_tokens:,} positions that bear loss x {worker.shape.vocab_size:,} "
        f"words x {LOGIT_BYTES} bytes: log-probabilities and two gradients in fp32",
    )


def _kept(worker: Worker) -> MemoryPart:
    """What the forward pass keeps for the backward pass, the output head apart."""
    tokens, num_layers = worker.tokens, layers_with_backward(worker.train, worker.shape)
    each, what = layer_bytes_per_token(worker), "layers"
    if worker.train.gradient_checkpointing:
        num_layers, what = worker.shape.num_layers, "layers' inputs"
        each = worker.width * worker.shape.hidden_size
    return MemoryPart(
        name="activations",
        size=tokens * num_layers * each,
        formula=f"{tokens:,} tokens x {num_layers} {what} x {each:,} bytes [activations]",
    )


def _one_layer(worker: Worker) -> MemoryPart:
    """A layer's gradients, and with checkpointing its activations once more."""
    times = 2 if worker.train.gradient_checkpointing else 1
    each = layer_bytes_per_token(worker)
    return MemoryPart(
        name="one layer",
        size=worker.tokens * times * each,
        formula=f"{worker.tokens:,} tokens x {times} x {each:,} bytes: its gradients"
        f"{', and its activations computed anew' if times == 2 else ''}",
    )


def layer_bytes_per_token(worker: Worker) -> int:
    """Bytes that one layer keeps for one token. Each line names the tensors."""
    method, shape, width = worker.train.method, worker.shape, worker.width
    h, f = shape.hidden_size, shape.intermediate_size
    q, kv = shape.num_heads * shape.head_dim, shape.num_kv_heads * shape.head_dim
    # Liger keeps a norm's input as it is, transformers in fp32.
    norm = width if worker.has_liger else 4
    kept = norm * 2 * h  # both norms' inputs
    if shape.norms_queries:
        kept += norm * (q + kv)
    kept += width * 2 * q  # queries, and attention's output
    # With a mask, keys and values are repeated to as many heads, and torch makes the mask
    # a sum for every layer.
    kept += width * (2 * q + worker.tokens) if worker.is_masked else width * 2 * kv
    kept += (
        width * (2 if worker.has_liger else 3) * f
    )  # gate and up; transformers: gate's activation
    if not method.is_adapter and not worker.has_liger:
        kept += width * 2 * h  # the norms' normalized input, for the gradient of their weights
    if any(is_adapted(method, name) for name in ("q_proj", "k_proj", "v_proj")):
        kept += width * h
    if any(is_adapted(method, name) for name in ("gate_proj", "up_proj")):
        kept += width * h
    if is_adapted(method, "down_proj"):
        kept += width * f
    if method.low_rank is not None:
        kept += width * method.low_rank.r * sum(is_adapted(method, name) for name in linear(shape))
    if method.bottleneck is not None:
        num_adapters = 1 + (method.bottleneck.placement == "after_both")
        kept += width * num_adapters * (h + 3 * method.bottleneck.size)
    return kept


def _on_host(worker: Worker, weights: MemoryPart) -> list[MemoryPart]:
    """What is offloaded to the node's memory. torch rounds pinned memory up to a power of two."""
    zero, own = worker.train.deepspeed, worker.own_states
    parts = []
    if zero.offload_optimizer and zero.offload_optimizer != "nvme":
        moments = own * STATE_BYTES[worker.train.optimizer]
        parts.append(
            MemoryPart(
                name="optimizer states",
                size=pinned(own * 4) + moments,
                formula=f"{own:,} own weights x 4 bytes pinned, and moments of {moments:,} bytes "
                "[offload]",
            )
        )
        parts.append(
            MemoryPart(
                name="gradients",
                size=pinned(own * 4) + pinned(own * worker.width),
                formula=f"{own:,} own weights x (4 + {worker.width}) bytes, pinned [offload]",
            )
        )
    if zero.offload_param and zero.offload_param != "nvme":
        formula = f"{weights.formula}, pinned [offload]"
        parts.append(MemoryPart(name="weights", size=pinned(weights.size), formula=formula))
    return parts


def pinned(size: int) -> int:
    """What torch takes of the node's memory for a pinned tensor of so many bytes."""
    if size:
        return 1 << (size - 1).bit_length()
    return 0
