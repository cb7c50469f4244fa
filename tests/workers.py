"""Training workers as plain processes: what Ray Train starts, without Ray, and quicker. They are
forked off a server that has the libraries imported already. A group that loses a worker ends with
an error that reads like Ray's."""

import contextlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from assay.engines.training.job import TrainingJob

LIBRARIES = [
    "torch.distributed",
    "transformers",
    "transformers.trainer",
    "peft",
    "deepspeed",
    "assay.engines.checkpoints.callback",
]
ENVIRONMENT = {
    "DS_ACCELERATOR": "cpu",
    "OMP_NUM_THREADS": "1",
    "TQDM_DISABLE": "1",
    "DS_LOG_LEVEL": "error",
}


class ActorDiedError(RuntimeError):
    """Named like Ray's."""


def attempt(
    job: "TrainingJob",
    *,
    watch: Callable[[list[ForkServerProcess]], None] = lambda _: None,
    memory_for: int | None = None,
    hold_at: int | None = None,
) -> None:
    """Runs the job's workers until all have ended; `watch` is called over and over while they run.
    With `memory_for` there is memory for a forward pass over so many tokens, and no more. With
    `hold_at` the first worker waits, once it has told of that step, for `let_go`: however quick the
    machine, `watch` sees the run there."""
    os.environ |= ENVIRONMENT
    context = get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    port, said = _free_port(), Path(job.output) / "worker-error"
    world = job.train.num_workers
    workers = [
        context.Process(
            target=_main,
            args=(rank, world, port, job.model_dump_json(), str(said), memory_for, hold_at),
        )
        for rank in range(world)
    ]
    with _always_ended(workers):
        for worker in workers:
            worker.start()
        while all(worker.exitcode in (None, 0) for worker in workers):
            if all(worker.exitcode == 0 for worker in workers):
                return
            watch(workers)
            time.sleep(0.01)
        if any(worker.exitcode == -9 for worker in workers):
            raise ActorDiedError("killed")
        raise RuntimeError(said.read_text() if said.exists() else "a worker ended")


@contextlib.contextmanager
def _always_ended(workers: list[ForkServerProcess]) -> Iterator[None]:
    try:
        yield
    finally:
        for worker in workers:
            if worker.pid is not None:
                worker.kill()
                worker.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def let_go(job: "TrainingJob") -> None:
    """Lets a run that is held go on, and keeps later attempts at it from being held."""
    _go_on(job.progress_file).touch()


def _go_on(progress_file: str) -> Path:
    return Path(progress_file).with_suffix(".go-on")


def _main(
    rank: int,
    world: int,
    port: int,
    job: str,
    said: str,
    memory_for: int | None,
    hold_at: int | None,
) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    import torch.distributed as dist

    from assay.engines.training.trainer import train_worker

    try:
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            dist.init_process_group("gloo", init_method="env://")
            if memory_for:
                _limit_memory(memory_for)
            if hold_at:
                _hold(hold_at)
            train_worker(job)
    except BaseException:
        Path(said).write_text(traceback.format_exc())
        sys.exit(1)
    os._exit(0)  # torch's threads need not be waited for


def _hold(step: int) -> None:
    """Makes training wait after it has told of this step."""
    from assay.engines.training import progress
    from assay.records.progress import Progress

    tell = progress.tell

    def tell_and_wait(file: Path, told: Progress) -> None:
        tell(file, told)
        while told.step == step and not _go_on(str(file)).exists():
            time.sleep(0.01)

    progress.tell = tell_and_wait


def _limit_memory(num_tokens: int) -> None:
    """Lets torch fail as it does when there is no memory left, in a forward pass over too many
    tokens."""
    import torch

    def check(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and inputs[0].numel() > num_tokens:
            torch.empty(1 << 60, dtype=torch.uint8)

    torch.nn.modules.module.register_module_forward_pre_hook(check)
