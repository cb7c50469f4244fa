"""Training until it is done: an attempt that loses its workers is followed by one that goes on from
the newest checkpoint that is whole; one that runs out of memory, by one with half the micro-batch.

What to do is decided here, not by Ray Train: its own manager can lose a checkpoint that was just
reported, and insists on the newest one when that is damaged.
"""

import re
import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from assay.engines.checkpoints import files
from assay.engines.checkpoints.callback import CheckpointConfig
from assay.engines.cluster.progress_file import tell
from assay.engines.training.job import TrainingJob, read_outcome
from assay.errors import StageFailed
from assay.records.progress import Progress
from assay.records.stages import PauseReport, TrainingOutcome
from assay.spec.train import TrainSpec

VMSTAT = Path("/proc/vmstat")

OUT_OF_MEMORY = re.compile(
    r"out of memory|OutOfMemory|low on memory|can't allocate memory|Cannot allocate memory"
    r"|not enough memory|MemoryError",
    re.I,
)
LOST_WORKER = re.compile(
    r"WorkerHealthCheck|WorkerGroupStartup|WorkerCrashed|Preemption"
    r"|actor died|ActorDied|ActorUnavailable|ActorError"
    r"|NodeDied|NodeAffinity|died unexpectedly|owner.*died"
    r"|Connection closed by peer|Connection reset by peer|Broken pipe|Socket closed"
    r"|NCCL.*(remote|unhandled system)"
    r"|Timed out (after )?waiting|UNAVAILABLE"
)


class Stopped(StageFailed):
    """The run was asked to stop, and has written a checkpoint."""


@dataclass(frozen=True)
class Fault:
    """Why an attempt ended without a result."""

    kind: Literal["memory", "lost", "other"]
    words: str


def run_with_retries(
    job: TrainingJob,
    attempt: Callable[[TrainingJob], None],
    *,
    num_workers: Callable[[TrainSpec], int] = lambda train: train.num_workers,
) -> TrainingOutcome | PauseReport:
    """Calls `attempt` until it leaves a result, or has come as far as the job wants to go.
    `num_workers` says how many workers the cluster can hold now. Raises `StageFailed` with the
    worker's own words for a fault that another attempt would meet again, `Stopped` when the attempt
    was asked to stop."""
    root = Path(job.keeping.folder) if job.keeping else None
    train, num_restarts, failures, reached = job.train, 0, 0, 0
    adaptations: list[str] = []
    while True:
        current, step = _prepared(job, train, root)
        # Only failures in a row without a new checkpoint count: a run of days may lose many
        # workers.
        failures = 0 if step > reached else failures
        reached = max(step, reached)
        # Before the attempt: the kernel counts since the machine was started.
        killed_before = _oom_kills()
        try:
            attempt(current)
            outcome = _outcome(current)
        # Ahead of the errors below, of which it is one: who asked for it gets it.
        except Stopped:
            raise
        except Exception as error:
            why = fault(error, killed=_oom_kills() > killed_before)
            if why.kind == "other" or root is None:
                raise StageFailed(f"training failed: {why.words}") from error
            train, change, failures = _answer(why, train, failures, error)
        else:
            if isinstance(outcome, PauseReport):
                return outcome
            return TrainingOutcome.model_validate(
                {**outcome.model_dump(), "num_restarts": num_restarts, "adaptations": adaptations}
            )
        num_restarts += 1
        if train.min_workers:
            # Also after a worker was lost: its node may be gone, and with it the room for all of
            # them.
            resized = _with_workers(train, min(num_workers(train), job.train.num_workers))
            if resized.num_workers != train.num_workers:
                words = f"num_workers {resized.num_workers} instead of {train.num_workers}"
                change = f"{change}; {words}" if change else words
            train = resized
        if change:
            adaptations.append(change)
        _tell(job, f"{why.words}; going on{' with ' + change if change else ''}")


def smaller(train: TrainSpec) -> TrainSpec | None:
    """The same training with at most half the examples in a forward pass, and as many in a step;
    None at one."""
    share = train.global_batch_size // train.num_workers
    sizes = []
    for size in range(1, train.examples_per_worker // 2 + 1):
        if share % size == 0:
            sizes.append(size)
    if sizes:
        return _changed(train, micro_batch_size=sizes[-1])
    return None


def fault(error: BaseException, *, killed: bool) -> Fault:
    """What the error, which Ray has wrapped, means. A worker that the kernel has killed for memory
    says nothing."""
    if isinstance(error, StageFailed):
        return Fault("other", _last_line(str(error), re.compile(".")).rpartition("Diverged: ")[2])
    said = [error, *(getattr(error, "worker_failures", None) or {}).values()]
    texts = [f"{type(one).__name__}: {one}" for one in said]
    # Memory first: a worker that ran out of it is often reported as lost, too.
    if memory := next((text for text in texts if OUT_OF_MEMORY.search(text)), None):
        return Fault("memory", _last_line(memory, OUT_OF_MEMORY))
    if lost := next((text for text in texts if LOST_WORKER.search(text)), None):
        if killed:
            return Fault("memory", "the kernel killed a worker for lack of memory")
        return Fault("lost", f"a worker was lost ({_last_line(lost, LOST_WORKER)})")
    return Fault("other", _last_line(texts[-1], re.compile(".")))


def _prepared(job: TrainingJob, train: TrainSpec, root: Path | None) -> tuple[TrainingJob, int]:
    """The job for one more attempt, and the step that it starts from."""
    output = Path(job.output)
    # What an attempt before has left there would be taken for this one's result.
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    if root is None or job.keeping is None:
        return job, 0
    root.mkdir(parents=True, exist_ok=True)
    found = files.newest_valid(root, job.keeping.job, lambda words: _tell(job, words))
    files.go_back_to(root, found)
    keeping = CheckpointConfig(
        folder=str(root),
        job=job.keeping.job,
        # New each time: workers of an attempt that was given up may still be writing.
        attempt=uuid.uuid4().hex[:12],
        resume_from=str(found.folder) if found else None,
        until=job.keeping.until,
        halt_file=job.keeping.halt_file,
    )
    step = found.manifest.step if found else 0
    if found:
        _tell(job, f"going on from step {step}")
    return TrainingJob.model_validate(
        {**job.model_dump(), "train": train.model_dump(), "keeping": keeping}
    ), step


def _outcome(job: TrainingJob) -> TrainingOutcome | PauseReport:
    try:
        return read_outcome(Path(job.output))
    except (OSError, ValueError) as error:
        if job.keeping and job.keeping.is_asked_to_stop:
            job.keeping.stop_file.unlink(missing_ok=True)
            raise Stopped("stopped, with a checkpoint") from error
        raise StageFailed(f"training ended without a result: {error}") from error


def _answer(
    why: Fault, train: TrainSpec, failures: int, error: Exception
) -> tuple[TrainSpec, str, int]:
    """What to try next: the training, what was changed about it, and how many failures that
    makes."""
    if why.kind == "memory":
        less = smaller(train)
        if less is None:
            raise StageFailed(
                f"out of memory with a single example at a time ({why.words}); lower "
                "train.max_length, set "
                "gradient_checkpointing, or a higher zero_stage"
            ) from error
        return (
            less,
            f"micro-batch {less.examples_per_worker} instead of {train.examples_per_worker}",
            failures,
        )
    if failures >= train.max_failures:
        raise StageFailed(
            f"training failed {failures + 1} times without a new checkpoint: {why.words}"
        ) from error
    return train, "", failures + 1


def _last_line(text: str, pattern: re.Pattern[str]) -> str:
    """The last line that matches: the end of a worker's traceback says what happened."""
    lines = [line.strip() for line in filter(pattern.search, text.splitlines())]
    if lines:
        # It is shown on one line of a terminal.
        return lines[-1][:300]
    return "no reason was given"


def _with_workers(train: TrainSpec, fits: int) -> TrainSpec:
    """As many workers as fit, no fewer than allowed, with the same global batch; as it is where too
    few fit."""
    able = []
    for n in range(train.min_workers or 1, fits + 1):
        if train.global_batch_size % n == 0:
            able.append(n)
    if not able or able[-1] == train.num_workers:
        return train
    share = train.global_batch_size // able[-1]
    size = max(n for n in range(1, train.examples_per_worker + 1) if share % n == 0)
    return _changed(train, num_workers=able[-1], micro_batch_size=size)


def _changed(train: TrainSpec, **changes: int) -> TrainSpec:
    return TrainSpec.model_validate({**train.model_dump(), **changes})


def _tell(job: TrainingJob, words: str) -> None:
    tell(Path(job.progress_file), Progress(step=0, num_steps=0, text=words))


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory on this machine, ever; 0 where it does
    not count."""
    try:
        words = VMSTAT.read_text().split()
        return int(words[words.index("oom_kill") + 1])
    except (OSError, ValueError):
        return 0
