"""Training on a GPU: that it runs with every way of keeping memory small, how fast, and whether the
plan foresaw what it took. Nobody else may be on the GPU."""

import math
import statistics
import sys
from pathlib import Path
from typing import Any

import pytest
from on_gpu import HERE, MODELS, flops, make_job, make_model, make_split, needs_gpu, peak_flops, run

from assay.engines.models import shape
from assay.engines.training.job import TrainingJob
from assay.rules.planning.memory import worker_memory

pytestmark = [*needs_gpu, pytest.mark.timeout(600)]

EVERY_OFFLOAD = {"zero_stage": 3, "offload_optimizer": True, "offload_param": True}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "LoRA": ("qwen3-1.7b", {"method": "lora"}),
    "LoRA without kernels": ("qwen3-1.7b", {"method": "lora", "kernels": "none"}),
    "QLoRA": ("llama-1b", {"method": "qlora"}),
    "all weights": ("qwen3-0.6b", {"method": "full"}),
    "all weights, 8-bit AdamW": ("qwen3-0.6b", {"method": "full", "optimizer": "adamw_8bit"}),
    "all weights, checkpointed": ("llama-1b", {"method": "full", "gradient_checkpointing": True}),
    "all weights, offloaded": (
        "llama-1b",
        {"method": "full", "gradient_checkpointing": True, "deepspeed": EVERY_OFFLOAD},
    ),
}
"""The last has 1.24 billion weights, none of them on the GPU between steps."""

COMMON = {"global_batch_size": 8, "max_length": 1024, "max_steps": 8, "learning_rate": 1e-4}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each model; they are random, and only read."""
    folder = tmp_path_factory.mktemp("models")
    return {name: make_model(name, folder / name) for name in {name for name, _ in CASES.values()}}


@pytest.mark.parametrize("name", CASES)
def test_it_trains_in_the_memory_that_the_plan_foresaw(
    name: str, models: dict[str, Path], tmp_path: Path
) -> None:
    model, train = CASES[name]
    report, job = trained(models[model], tmp_path, train)
    vocabulary = MODELS[model]["vocab_size"]
    assert report["losses"][0] == pytest.approx(
        math.log(vocabulary), rel=0.1
    )  # random weights know nothing
    assert all(math.isfinite(loss) for loss in report["losses"])
    if "kernels" not in train:
        assert report["attention"] in ("flash_attention_2", "torch_varlen_by_text")
    lengths, num_loss = max(report["batches"], key=lambda batch: sum(batch[0]))
    dimensions = shape.from_folder(models[model])
    assert dimensions is not None
    needs = {"tokens": sum(lengths), "loss_tokens": num_loss}
    estimate = worker_memory(job.train, dimensions, **needs, device="GPU", precision="bf16")
    took = report["peak"] + report["context"]
    tell(name, model, report, learns="full" in str(train["method"]))
    sys.stderr.write(f"  memory {took / 1e9:.2f} GB, foreseen {estimate.total / 1e9:.2f} GB\n")
    assert estimate.total == pytest.approx(took, rel=0.1)


def test_packed_rows_take_less_memory_than_padded_ones(
    models: dict[str, Path], tmp_path: Path
) -> None:
    report, job = trained(models["qwen3-1.7b"], tmp_path, {"method": "lora"})
    output = tmp_path / "padded"
    output.mkdir()
    padded = run(HERE / "padded_loop.py", job.model_copy(update={"output": str(output)}))
    tell("packed", "qwen3-1.7b", report, learns=False)
    tell("padded", "qwen3-1.7b", padded, learns=False)
    assert report["peak"] < 0.7 * padded["peak"]
    assert report["losses"][0] == pytest.approx(padded["losses"][0], abs=0.1)


def trained(model: Path, folder: Path, train: dict[str, Any]) -> tuple[dict[str, Any], TrainingJob]:
    """What a run reports, and its job."""
    split = make_split(model, folder / "train.safetensors", num_texts=128, mean=512, longest=1024)
    job = make_job(model, split, folder / "output", {**COMMON, **train})
    return run(HERE / "run_job.py", job), job


def tell(name: str, model: str, report: dict[str, Any], *, learns: bool) -> None:
    """Prints tokens/s and model FLOPs utilization; the first steps, which compile, are left out."""
    steps = list(zip(report["batches"], report["seconds"], strict=True))[3:]
    tokens_per_s = statistics.median(sum(batch[0]) / seconds for batch, seconds in steps)
    rate = statistics.median(
        flops(model, [batch], learns=learns) / seconds for batch, seconds in steps
    )
    card, peak, sheet = peak_flops()
    of_sheet = f", {rate / sheet:.0%} of the data sheet's" if sheet else ""
    sys.stderr.write(
        f"\n{card}, {name}, {model}: {tokens_per_s:,.0f} tokens/s, {rate / 1e12:.0f} TFLOP/s, "
        f"{rate / peak:.0%} of a "
        f"large product's{of_sheet}; {report['attention']} {' '.join(report['kernels'])}\n"
    )
