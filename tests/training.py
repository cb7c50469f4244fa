"""Training in this very process, as one worker of one: the trainer is real, Ray is left out."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.engines.data.chats.tokens import Row
from assay.engines.data.tokenize import prompts_of, write_rows
from assay.engines.training.job import TrainingJob, read_outcome
from assay.engines.training.trainer import train_worker
from assay.records.stages import TrainingOutcome
from assay.spec.train import TrainSpec


def train_here(
    model: Path, rows: Sequence[Row], output: Path, train: dict[str, Any], **more: Any
) -> TrainingOutcome:
    """Trains on `rows`, which are the selection split, too. The result lies in `output`."""
    from accelerate.state import AcceleratorState

    job = make_job(model, rows, output, train, **more)
    _join_a_group_of_one()
    AcceleratorState._reset_state(reset_partial_state=True)
    train_worker(job.model_dump_json())
    outcome = read_outcome(output)
    assert isinstance(outcome, TrainingOutcome)
    return outcome


def make_job(
    model: Path, rows: Sequence[Row], output: Path, train: dict[str, Any], **more: Any
) -> TrainingJob:
    """The job, with its data written beside `output`."""
    output.mkdir(parents=True)
    spec = TrainSpec.model_validate({"precision": "fp32", "max_length": 64, **train})
    split = output.with_suffix(".safetensors")
    write_rows(model, rows, split, max_length=spec.max_length)
    if spec.objective.grpo is not None:
        split = split.with_suffix(".jsonl")
        split.write_text(prompts_of(model, rows, spec.max_length))
    return TrainingJob(
        train=spec,
        model=str(model),
        train_file=str(split),
        selection_file=more.pop("selection_file", str(split)),
        output=str(output),
        progress_file=str(output / "progress.jsonl"),
        started_at=time.time(),
        on_gpu=False,
        **more,
    )


def _join_a_group_of_one() -> None:
    import torch.distributed as dist

    if dist.is_initialized():
        return
    os.environ.update(
        {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "0",
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
        }
    )
    os.environ.update({"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"})
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
