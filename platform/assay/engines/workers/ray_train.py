"""Ray Train: one group of workers, each of which runs `hf_trainer.train_worker`."""

import os
import time
from functools import partial

from assay.engines.cluster import signals, tasks
from assay.engines.cluster.tasks import WORKER_ENV
from assay.engines.training.job import TrainingJob
from assay.engines.training.trainer import train_worker
from assay.engines.workers.retry import Stopped, run_with_retries
from assay.records.stages import TrainingOutcome
from assay.spec.train import TrainSpec

# Time for a checkpoint after the run was asked to stop.
STOP_WITHIN_S = 8.0

# Longer than Ray takes to take back what ended workers held.
RELEASE_S = 15.0

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(4 * 2**30),
}
"""For glibc in a worker on CPU: what the forward pass gives back serves the backward pass, which is
another thread's and would have memory of its own; and nothing goes back to the kernel between
steps, only to be zeroed anew."""

GROW_IN_PLACE = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""For torch's allocator on a GPU: rows differ in length from step to step, and blocks that fit none
of the next ones pile up. With it 1.1 to 1.4 times what tensors took was held on an H100, without it
up to 2.3 times."""


def fit(job: TrainingJob, *, num_gpus_per_worker: float) -> TrainingOutcome:
    """Trains on `job.train.num_workers` workers and waits, through lost workers and lack of memory.
    Raises `StageFailed` with the worker's own words when it fails; on Ctrl-C or SIGTERM a
    checkpoint is written and `KeyboardInterrupt` raised."""
    try:
        outcome = run_with_retries(
            job,
            partial(_attempt, num_gpus_per_worker=num_gpus_per_worker),
            num_workers=partial(workers_that_fit, num_gpus_per_worker=num_gpus_per_worker),
        )
    # The checkpoint is written; for the command line it is the Ctrl-C that it began with.
    except Stopped as stopped:
        raise KeyboardInterrupt from stopped
    assert isinstance(outcome, TrainingOutcome), "only a sweep's trial pauses"
    return outcome


def workers_that_fit(train: TrainSpec, *, num_gpus_per_worker: float) -> int:
    """How many of its workers find room beside what others hold, such as engines. Workers that were
    lost or ended just now may hold theirs for a moment more: room for all is waited for, RELEASE_S
    at most."""
    end = time.monotonic() + RELEASE_S
    while True:
        # Ray gives back what an ended worker held a moment after it has ended.
        free = tasks.free()
        fits = int(free.cpus // train.worker.cpus)
        if num_gpus_per_worker:
            fits = min(fits, int(free.gpus // num_gpus_per_worker))
        if fits >= train.num_workers or time.monotonic() > end:
            return fits
        time.sleep(0.5)


def _attempt(job: TrainingJob, *, num_gpus_per_worker: float) -> None:
    """One worker group, from start to end. Ray Train's own signal handler would drop the workers at
    once, so it runs beside this thread."""

    def ask() -> None:
        if job.keeping is None:
            raise KeyboardInterrupt
        job.keeping.stop_file.touch()

    signals.run_beside(
        lambda: _run_group(job, num_gpus_per_worker), ask=ask, within_s=STOP_WITHIN_S
    )


def _run_group(job: TrainingJob, num_gpus_per_worker: float) -> None:
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    worker = job.train.worker
    resources = {
        "CPU": worker.cpus,
        **({"GPU": num_gpus_per_worker} if num_gpus_per_worker else {}),
    }
    # Its own failure policy stays at none: which checkpoint to go on from is decided in `retry`.
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"job": job.model_dump_json()},
        torch_config=TorchConfig(backend="nccl" if job.on_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.train.num_workers, use_gpu=job.on_gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            # The same name in the same place would make Ray go on with what it remembers of an
            # earlier attempt.
            name=f"ray-{job.keeping.attempt}" if job.keeping else "ray",
            storage_path=job.output,
            worker_runtime_env={"env_vars": worker_env(job.threads, on_gpu=job.on_gpu)},
        ),
    )
    trainer.fit()


def worker_env(threads: int, *, on_gpu: bool) -> dict[str, str]:
    """The environment of a training worker."""
    # In a job the workers need it too, or a trial that is stopped leaks their placement group.
    if os.environ.get("RAY_ADDRESS"):
        address = {"RAY_ADDRESS": os.environ["RAY_ADDRESS"]}
    else:
        address = {}
    if on_gpu:
        return {**WORKER_ENV, **GROW_IN_PLACE, **address}
    return {
        **WORKER_ENV,
        **KEEP_MEMORY,
        **address,
        "OMP_NUM_THREADS": str(threads),
        # DeepSpeed looks for a GPU by itself, and finds those of a machine that this worker got
        # none of.
        "DS_ACCELERATOR": "cpu",
    }


def _loop(config: dict[str, str]) -> None:
    train_worker(config["job"])
