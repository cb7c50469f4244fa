"""Training workers that stay from one trial to the next, with their imports, their process group
and the frozen base model in memory. A trial on them gives the same numbers as on workers of its
own.

A group belongs to the process that asks for it: Ray ends the workers when that process ends.
"""

import os
from functools import partial

from assay.engines.checkpoints.callback import Diverged
from assay.engines.training.job import TrainingJob
from assay.engines.workers import ray_train
from assay.engines.workers.retry import run_with_retries
from assay.records.stages import PauseReport, TrainingOutcome

START_TIMEOUT_S = 600.0
LEAVE_TIMEOUT_S = 30.0

_groups: dict[object, "_Group"] = {}


def fit(job: TrainingJob, *, num_gpus_per_worker: float) -> TrainingOutcome | PauseReport:
    """Trains on this process's warm workers, which are started when there are none yet. What
    `ray_train.fit` promises of failures holds here, too; `attempts.Stopped` is raised where the job
    was asked to stop."""
    return run_with_retries(job, partial(_attempt, num_gpus_per_worker=num_gpus_per_worker))


def close() -> None:
    """Ends this process's warm workers."""
    for group in _groups.values():
        group.close()
    _groups.clear()


def _attempt(job: TrainingJob, *, num_gpus_per_worker: float) -> None:
    worker = job.train.worker
    # Threads and devices are settled when a process starts, so that another job needs other
    # workers.
    kind = (job.train.num_workers, worker.cpus, job.threads, num_gpus_per_worker, job.on_gpu)
    if kind not in _groups:
        close()  # one group at a time: two would wait for each other's resources
        _groups[kind] = _Group(job, num_gpus_per_worker)
    try:
        _groups[kind].train(job)
    except Diverged:
        raise  # all workers have left the training in good order
    except BaseException:
        close()
        raise


class _Group:
    """Workers joined by one process group. They are in no placement group: one that an actor has
    made would outlive it until the whole run ends. No more trials run at once than fit
    (`stages.sweep.concurrent_trials`), so that no two wait for each other."""

    def __init__(self, job: TrainingJob, num_gpus: float) -> None:
        import ray

        worker = job.train.worker
        remote = ray.remote(
            num_cpus=worker.cpus,
            num_gpus=num_gpus,
            # A worker that Ray restarts would be in no process group, and the others would wait for
            # it.
            max_restarts=0,
            scheduling_strategy="DEFAULT",  # not in the placement group of Tune's own actor
            runtime_env={"env_vars": ray_train.worker_env(job.threads, on_gpu=job.on_gpu)},
        )(_Worker)
        self.workers = [remote.remote() for _ in range(job.train.num_workers)]
        try:
            self._join(job.on_gpu)
        except BaseException:
            self.close()
            raise

    def train(self, job: TrainingJob) -> None:
        """One attempt, on all workers. Raises the first error of any of them."""
        import ray

        running = [one.train.remote(job.model_dump_json()) for one in self.workers]
        while running:
            # One after the other: the first error comes from the worker that failed, while the rest
            # wait for it in the process group.
            ready, running = ray.wait(running, num_returns=1)
            try:
                ray.get(ready)
            except Diverged:
                if running:
                    # All see the same loss and leave by themselves; then the group can be used
                    # again.
                    ray.wait(running, num_returns=len(running), timeout=LEAVE_TIMEOUT_S)
                raise

    def close(self) -> None:
        """Ends the workers, which gives their resources back."""
        import ray

        for one in self.workers:
            ray.kill(one)

    def _join(self, on_gpu: bool) -> None:
        import ray

        addresses = ray.get([one.address.remote() for one in self.workers], timeout=START_TIMEOUT_S)
        nodes = [node for node, _, _ in addresses]
        _, host, port = addresses[0]
        joined = []
        for rank, one in enumerate(self.workers):
            joined.append(
                one.join.remote(
                    rank=rank,
                    world=len(nodes),
                    local_rank=nodes[:rank].count(nodes[rank]),
                    local_world=nodes.count(nodes[rank]),
                    master=(host, port),
                    on_gpu=on_gpu,
                )
            )
        ray.get(joined, timeout=START_TIMEOUT_S)


class _Worker:
    """One warm worker, a Ray actor."""

    def address(self) -> tuple[str, str, int]:
        """(node, host, free port) of this worker."""
        import ray

        # Ray has no public one: a port that is free on this node, and the address that others reach
        # it by.
        from ray.train._internal.utils import get_address_and_port

        return (ray.get_runtime_context().get_node_id(), *get_address_and_port())

    def join(
        self,
        *,
        rank: int,
        world: int,
        local_rank: int,
        local_world: int,
        master: tuple[str, int],
        on_gpu: bool,
    ) -> None:
        """Joins the process group. On GPUs a worker sees only its own device, which is number 0 to
        it."""
        import torch
        import torch.distributed as dist

        # transformers and DeepSpeed read these as if torchrun had set them.
        os.environ |= {"MASTER_ADDR": master[0], "MASTER_PORT": str(master[1])}
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world)}
        os.environ |= {"LOCAL_RANK": "0" if on_gpu else str(local_rank)}
        os.environ |= {"LOCAL_WORLD_SIZE": "1" if on_gpu else str(local_world)}
        if on_gpu:
            torch.cuda.set_device(0)
        dist.init_process_group(
            "nccl" if on_gpu else "gloo", init_method="env://", rank=rank, world_size=world
        )

    def train(self, job_json: str) -> None:
        """One attempt at a training run."""
        from assay.engines.training.trainer import train_worker

        train_worker(job_json)
