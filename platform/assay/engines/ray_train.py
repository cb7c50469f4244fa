"""Ray Train: one group of workers, each of which runs `hf_trainer.train_worker`."""

import os
import shutil
from pathlib import Path

from assay.engines.hf_trainer import TrainingJob, TrainingOutcome, read_outcome, train_worker
from assay.engines.ray_cluster import WORKER_ENV
from assay.errors import StageFailed


def fit(job: TrainingJob, *, num_gpus_per_worker: float) -> TrainingOutcome:
    """Runs the job on `job.train.num_workers` workers and waits.
    Raises `StageFailed` with the worker's own words when it fails."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    output = Path(job.output)
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    worker = job.train.worker
    resources = {"CPU": worker.cpus, **({"GPU": num_gpus_per_worker} if num_gpus_per_worker else {})}
    trainer = TorchTrainer(
        _loop,
        train_loop_config={"job": job.model_dump_json()},
        torch_config=TorchConfig(backend="nccl" if job.on_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=job.train.num_workers, use_gpu=job.on_gpu, resources_per_worker=resources
        ),
        run_config=ray.train.RunConfig(
            name="ray",
            storage_path=str(output),
            worker_runtime_env={"env_vars": _worker_env(worker.threads, job.on_gpu)},
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # Ray wraps whatever a worker raised in types of its own
        raise StageFailed(f"training failed: {_innermost(error)}") from error
    try:
        return read_outcome(output)
    except (OSError, ValueError) as error:
        raise StageFailed(f"training ended without a result: {error}") from error


def _loop(config: dict[str, str]) -> None:
    train_worker(config["job"])


def _worker_env(threads: int, on_gpu: bool) -> dict[str, str]:
    address = {"RAY_ADDRESS": os.environ["RAY_ADDRESS"]} if os.environ.get("RAY_ADDRESS") else {}
    if on_gpu:
        return {**WORKER_ENV, **address}
    return {**WORKER_ENV, **address, "OMP_NUM_THREADS": str(threads), "DS_ACCELERATOR": "cpu"}


def _innermost(error: BaseException) -> str:
    """The last line of a worker's traceback says what happened."""
    failures = getattr(error, "worker_failures", None) or {}
    for failure in failures.values():
        return _innermost(failure)
    text = str(getattr(error, "cause", None) or error).strip()
    lines = [line for line in text.splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
