"""The tables of recommended settings and of hardware in the documents: what `assay init` writes,
and what `assay plan` reckons with."""

from collections.abc import Sequence
from typing import Any

from assay.cli.commands.first_spec import rate_words
from assay.engines.models.shape import known
from assay.records.plan import ModelShape
from assay.rules.planning.compression import WEIGHT_BYTES
from assay.rules.planning.memory import (
    COMPRESSING_BYTES,
    GIB,
    MERGING_BYTES,
    serving_memory,
)
from assay.rules.planning.memory import worker_memory as worker
from assay.rules.planning.recommend import Template, recommend
from assay.spec.serve import EngineSpec
from assay.spec.train import TrainSpec

# Weights of the models that settings are shown for.
SIZES = (0.6e9, 1.7e9, 8e9, 14e9, 32e9, 70e9)

TEMPLATES: tuple[Template, ...] = ("lora", "qlora", "full", "dpo", "classify")
# Examples.
COUNTS = (200, 5_000, 200_000)

MODELS = (
    "Qwen/Qwen3-0.6B",
    "Qwen/Qwen3-1.7B",
    "Qwen/Qwen3-4B",
    "Qwen/Qwen3-8B",
    "Qwen/Qwen3-14B",
    "Qwen/Qwen3-32B",
    "meta-llama/Llama-3.3-70B-Instruct",
)
# Gigabytes of usual GPUs: RTX 4090 or L4; L40S or A6000; A100 or H100; H200.
GPUS = (24, 48, 80, 141)

# Of one example in training, all of which bear loss, and of one conversation in the engine.
TOKENS, SERVED_TOKENS = 2_048, 8_192

METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {"method": "lora", "deepspeed": {"zero_stage": 0}},
    "QLoRA": {"method": "qlora", "deepspeed": {"zero_stage": 0}},
    "full, one GPU": {"method": "full", "deepspeed": {"zero_stage": 0}},
    "full, each of 8": {
        "method": "full",
        "deepspeed": {"zero_stage": 3},
        "num_workers": 8,
        "global_batch_size": 8,
    },
}

Row = Sequence[str]


def rates() -> tuple[Row, list[Row]]:
    """Peak learning rates by size of model and template, and where each is from."""
    rows: list[Row] = []
    for template in TEMPLATES:
        found = []
        for size in SIZES:
            found.append(recommend(template, num_parameters=size, num_examples=5_000).learning_rate)
        rows.append((f"`{template}`", *(rate_words(rate.value) for rate in found)))
    return ("", *(f"{size / 1e9:g}B" for size in SIZES)), rows


def lengths() -> tuple[Row, list[Row]]:
    """Batch, epochs and warm-up by template and number of examples."""
    rows: list[Row] = []
    for template in TEMPLATES:
        cells = []
        for count in COUNTS:
            found = recommend(template, num_parameters=8e9, num_examples=count)
            batch, epochs, warmup = found.global_batch_size, found.num_epochs, found.warmup_ratio
            cells.append(f"{batch.value:g} / {epochs.value:g} / {warmup.value:.0%}")
        rows.append((f"`{template}`", *cells))
    return ("batch / epochs / warm-up", *(f"{count:,} examples" for count in COUNTS)), rows


def training() -> tuple[Row, list[Row]]:
    """GiB of a GPU in training, and the smallest usual one that has them."""
    rows: list[Row] = []
    for name in MODELS:
        shape = _shape(name)
        cells = []
        for said in METHODS.values():
            common = {"micro_batch_size": 1, "gradient_checkpointing": True, "global_batch_size": 1}
            train = TrainSpec.model_validate({**common, **said})
            found = worker(
                train, shape, tokens=TOKENS, loss_tokens=TOKENS, device="GPU", precision="bf16"
            )
            cells.append(_on_a_gpu(found.total))
        rows.append((name, *cells, f"{MERGING_BYTES * shape.num_parameters / GIB:.0f}"))
    return ("model", *METHODS, "memory of the node that merges"), rows


def serving() -> tuple[Row, list[Row]]:
    """GiB of a GPU in serving, on one GPU and on four."""
    rows: list[Row] = []
    for name in MODELS:
        shape, cells = _shape(name), []
        for parts in (1, 4):
            engine = EngineSpec(max_model_len=SERVED_TOKENS, tensor_parallel_size=parts)
            for scheme in ("none", "W8A8", "W4A16") if parts == 1 else ("none", "W8A8"):
                found = serving_memory(engine, shape, scheme=scheme, device="GPU")
                cells.append(_on_a_gpu(int(found.total / engine.gpu_memory_utilization)))
        disk = (2 + 2 + WEIGHT_BYTES["W8A8"]) * shape.num_parameters / GIB
        rows.append((name, *cells, f"{disk:.0f}"))
    columns = (
        "bf16",
        "W8A8",
        "W4A16",
        "bf16, each of 4",
        "W8A8, each of 4",
        "disk of a run with W8A8",
    )
    return ("model", *columns), rows


def formulas() -> list[str]:
    """What the tables are made of, in sentences."""
    return [
        "Rates, batches, epochs and warm-up are rules of thumb with their sources in "
        "`rules/planning/recommend.py`; `assay init` writes each with its reason behind it.",
        f"Training: one example of {TOKENS:,} tokens at a time, bf16, AdamW, gradient "
        "checkpointing; the parts are "
        "weights (2 bytes; 0.5 and their scales in 4 bits), gradients and AdamW's two moments with "
        "a copy in fp32 "
        "(2 + 12 bytes of each trained weight, shared out by ZeRO), the layers' inputs and one "
        "layer's activations, "
        "12 bytes of each logit, and the libraries' own. `assay plan --json` gives every part with "
        "its formula.",
        f"Serving: weights by scheme, keys and values of one conversation of {SERVED_TOKENS:,} "
        "tokens "
        "(2 x layers x KV heads x head dimension x 2 bytes a token), 1 GiB of the engine's own, "
        "all of it divided by "
        "`gpu_memory_utilization` (0.9). More conversations at once take more.",
        f"Merging an adapter holds the model in fp32 ({MERGING_BYTES} bytes a weight) in one "
        "node's memory, quantizing "
        f"in bf16 ({COMPRESSING_BYTES} bytes); on disk the base, the merged and the quantized "
        "model are kept.",
    ]


def _on_a_gpu(size: int) -> str:
    gpu = next((gpu for gpu in GPUS if size <= gpu * GIB), None)
    if gpu:
        return f"{size / GIB:.1f} ({gpu} GB)"
    return f"{size / GIB:.0f} (none)"


def _shape(name: str) -> ModelShape:
    shape = known(name)
    assert shape is not None, name
    return shape
