"""The train stage's own worker, alone and without Ray, watched: `python run_job.py JOB` leaves
`report.json`.

`peak` is what tensors took at the highest, `context` what CUDA and its libraries took beside, in
bytes; `batches` are the lengths of each batch's texts and how many tokens bear loss; `seconds`
those of each step.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from assay.engines.training import trainer
from assay.engines.training.job import TrainingJob, read_outcome


def main() -> None:
    job = TrainingJob.model_validate_json(sys.argv[1])
    os.environ.update(
        {"MASTER_ADDR": "127.0.0.1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    )
    os.environ["LOCAL_WORLD_SIZE"] = "1"
    if not job.on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    dist.init_process_group(
        "nccl" if job.on_gpu else "gloo", store=dist.HashStore(), rank=0, world_size=1
    )
    batches: list[tuple[list[int], int]] = []
    seconds: list[float] = []
    watch_what_is_collated(batches)
    watch_steps(seconds)
    trainer.train_worker(job.model_dump_json())
    outcome = read_outcome(Path(job.output))
    report = {
        "batches": batches[: len(seconds) * job.train.accumulation_steps],
        "seconds": seconds,
        "peak": outcome.peak_memory_bytes,
        "context": context() if job.on_gpu else 0,
        "attention": outcome.attention,
        "kernels": outcome.kernels,
        "losses": [point.loss for point in outcome.history],
    }
    (Path(job.output) / "report.json").write_text(json.dumps(report))
    os._exit(0)  # what the libraries do at the end is not measured


def watch_what_is_collated(batches: list[tuple[list[int], int]]) -> None:
    """Notes each batch's texts."""
    collate = trainer.collate

    def noted(units: Any, **how: Any) -> Any:
        batch = collate(units, **how)
        lengths = [len(tokens) for unit in units for tokens, _ in unit.texts]
        batches.append((lengths, len(batch["logits_to_keep"])))
        return batch

    trainer.collate = noted


def watch_steps(seconds: list[float]) -> None:
    """Notes how long each step takes, the GPU's work included."""
    make = trainer.watch_type

    def watch_type() -> Any:
        class Timed(make()):  # type: ignore[misc]
            def on_step_begin(self, *_: Any, **__: Any) -> None:
                wait()
                self.began = time.monotonic()

            def on_step_end(self, *told: Any, **more: Any) -> None:
                wait()
                seconds.append(time.monotonic() - self.began)
                super().on_step_end(*told, **more)

        return Timed

    trainer.watch_type = watch_type


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def context() -> int:
    """What of the GPU is taken beyond what torch's allocator holds, when nobody else is on it."""
    free, total = torch.cuda.mem_get_info()
    return total - free - torch.cuda.memory_reserved()


if __name__ == "__main__":
    main()
