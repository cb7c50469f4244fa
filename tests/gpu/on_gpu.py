"""What the tests on a GPU share: whether there is one, models of random weights, splits, and runs
in processes of their own."""

import json
import os
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from assay.engines.training.job import TrainingJob
from assay.spec.train import TrainSpec

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MODELS: dict[str, dict[str, Any]] = json.loads(
    (HERE.parent / "golden" / "h100_memory.json").read_text()
)["models"]

IS_THERE = Path("/dev/nvidiactl").exists()
needs_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not IS_THERE, reason="there is no NVIDIA GPU: /dev/nvidiactl"),
]
"""Without torch, which nobody else needs when tests are collected."""

DATASHEET = {
    "H100 80GB HBM3": 989e12,
    "H200": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 4090": 165e12,
}
"""FLOP/s in bf16 without sparsity, from the vendor's data sheets."""


def make_model(name: str, folder: Path) -> Path:
    """A model of random weights in bf16, with the dimensions of `MODELS[name]`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    said = dict(MODELS[name])
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(
        said.pop("model_type"), **said, **tokens, max_position_embeddings=8192
    )
    torch.manual_seed(0)
    with torch.device("cuda" if IS_THERE else "cpu"):
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    torch.cuda.empty_cache()
    return folder


def make_split(folder: Path, file: Path, *, num_texts: int, mean: int, longest: int) -> Path:
    """Texts of random tokens, of log-normal lengths; the second half of each bears loss."""
    import numpy as np
    from safetensors.numpy import save_file

    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    draw = np.random.default_rng(0)
    lengths = np.clip(draw.lognormal(np.log(mean) - 0.18, 0.6, num_texts), 16, longest).astype(
        np.int64
    )
    masks = [np.arange(length) >= length / 2 for length in lengths]
    tensors = {
        "tokens": draw.integers(3, vocabulary, lengths.sum()).astype(np.int32),
        "loss_mask": np.concatenate(masks).astype(np.uint8),
        "offsets": np.concatenate([[0], lengths.cumsum()]).astype(np.int64),
        "texts_per_unit": np.array([1], dtype=np.int64),
    }
    save_file(tensors, file)
    return file


def make_job(model: Path, split: Path, output: Path, train: dict[str, Any]) -> TrainingJob:
    """The job of one worker."""
    output.mkdir(parents=True)
    return TrainingJob(
        train=TrainSpec.model_validate(train),
        model=str(model),
        train_file=str(split),
        selection_file=None,
        output=str(output),
        progress_file=str(output / "progress.jsonl"),
        started_at=time.time(),
        on_gpu=IS_THERE,
    )


def run(script: Path, job: TrainingJob) -> dict[str, Any]:
    """Runs a script that is given the job and leaves `report.json` in its output folder."""
    paths = os.pathsep.join([str(HERE), str(ROOT / "platform"), str(ROOT / "tests")])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    }
    done = subprocess.run(
        [sys.executable, str(script), job.model_dump_json()],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report: dict[str, Any] = json.loads((Path(job.output) / "report.json").read_text())
    return report


def flops(model: str, batches: list[tuple[list[int], int]], *, learns: bool) -> float:
    """Model FLOPs of forward and backward passes, what is computed anew left out: two a weight and
    token forward, four backward, of which two fall away where weights are frozen (`learns`); and
    attention's products of each text with itself, causal (Chowdhery et al., PaLM, 2022, appendix
    B). The output head is computed where loss is borne. A batch is its texts' lengths and how many
    tokens bear loss."""
    said = MODELS[model]
    h, heads = said["hidden_size"], said["num_attention_heads"] * said["head_dim"]
    kv = said["num_key_value_heads"] * said["head_dim"]
    layer = 2 * h * heads + 2 * h * kv + 3 * h * said["intermediate_size"]
    per_weight, total = 6 if learns else 4, 0.0
    for lengths, num_loss in batches:
        total += per_weight * said["num_hidden_layers"] * layer * sum(lengths)
        total += per_weight * h * said["vocab_size"] * num_loss
        total += 3 * said["num_hidden_layers"] * 2 * heads * sum(length**2 for length in lengths)
    return total


@cache
def peak_flops() -> tuple[str, float, float | None]:
    """The card's name, the FLOP/s of a large product of random bf16 matrices, and the data
    sheet's."""
    import torch

    name = torch.cuda.get_device_name(0)
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(13):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        torch.mm(a, b)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    sheet = next((value for key, value in DATASHEET.items() if key in name), None)
    return name, 2 * size**3 / sorted(times[3:])[5], sheet
