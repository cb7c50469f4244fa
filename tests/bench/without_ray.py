"""The train stage's own worker with the same DeepSpeed configuration, and no Ray.

`python without_ray.py JOB` takes a `TrainingJob` as JSON, starts one process for each worker, and
leaves what the worker leaves.
"""

import os
import socket
import sys
from multiprocessing import get_context

from job_argument import job_of_arguments

from assay.engines.training.job import TrainingJob
from assay.engines.training.trainer import train_worker


def main() -> None:
    job = job_of_arguments(__doc__)
    num_workers = TrainingJob.model_validate_json(job).train.num_workers
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    spawn = get_context("spawn")
    workers = [
        spawn.Process(target=work, args=(job, rank, num_workers, port))
        for rank in range(num_workers)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    sys.exit(max(abs(worker.exitcode or 0) for worker in workers))


def work(job: str, rank: int, num_workers: int, port: int) -> None:
    import torch.distributed as dist

    os.environ.update(
        {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "DS_ACCELERATOR": "cpu"}
    )
    os.environ.update({"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_workers)})
    os.environ["LOCAL_WORLD_SIZE"] = str(num_workers)
    dist.init_process_group("gloo", rank=rank, world_size=num_workers)
    train_worker(job)
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
