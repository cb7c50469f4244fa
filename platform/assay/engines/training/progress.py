"""How far a training run is, told as it goes: the history, the progress file, the trackers."""

import resource
import time
from pathlib import Path
from typing import Any

from assay.engines.checkpoints.callback import CheckpointCallback
from assay.engines.cluster.progress_file import tell
from assay.engines.training.job import TrainingJob, beginnings, finite
from assay.engines.training.trackers import Tracker, trackers
from assay.records.losses import parted
from assay.records.progress import Progress
from assay.records.stages import LossPoint


def watch_type() -> Any:
    """The callback of a `TrainingJob` and its `Keeper`; the class exists only once transformers is
    imported."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):  # type: ignore[misc]
        """Keeps the run's history and tells how far it is."""

        def __init__(self, job: TrainingJob, checkpointing: CheckpointCallback) -> None:
            self.job = job
            self.checkpointing = checkpointing
            self.trackers = _trackers(job)
            self.first_step_at = 0.0
            """In seconds since the epoch, as another process says when the run was asked for."""
            self.first_step_tokens = 0
            self.step_ends: list[float] = []
            """Of the first and the last step, by a clock that nobody sets."""
            self.looked_s = 0.0
            """Between those two: looks at the selection loss."""

        def tokens_per_s(self, tokens: int) -> float:
            """Over all steps but the first, which pays for warming up."""
            if self.step_ends:
                seconds = self.step_ends[-1] - self.step_ends[0]
            else:
                seconds = 0.0
            seconds -= self.looked_s
            if seconds > 0:
                return (tokens - self.first_step_tokens) / seconds
            return 0.0

        def on_train_begin(
            self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_: Any
        ) -> None:
            self.checkpointing.set_rates(lr_scheduler)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.step_ends[1:] = [time.monotonic()]
            if self.first_step_at:
                self.looked_s = self.checkpointing.looking_s
            else:
                self.looked_s = 0.0
            if not self.first_step_at:
                self.first_step_at = time.time()
                self.first_step_tokens = int(state.num_input_tokens_seen)
            self.checkpointing.after_step(int(state.global_step), int(state.max_steps), control)

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            history = self.checkpointing.history
            loss, error = self.checkpointing.measured_since(history[-1].step if history else -1)
            # Online training has no loss that says how far it is.
            value = -logs["reward"] if "reward" in logs else logs["loss"]
            norm = logs.get("grad_norm")
            point = LossPoint(
                step=state.global_step,
                loss=finite(value),
                learning_rate=float(logs["learning_rate"]),
                grad_norm=finite(norm) if norm is not None else None,
                tokens_per_s=self.tokens_per_s(int(state.num_input_tokens_seen)),
                selection_loss=loss,
                selection_loss_se=error,
            )
            self.checkpointing.history.append(point)
            for tracker in self.trackers:
                tracker.tell(point)
            measured = []
            for one in history:
                if one.selection_loss is not None:
                    measured.append(one.selection_loss)
            progress = Progress(
                num_steps=state.max_steps,
                memory_bytes=peak_memory_bytes(self.job.on_gpu),
                num_tokens=int(state.num_input_tokens_seen),
                warning=parted(history),
                selection_loss=measured[-1] if measured else None,
                **point.model_dump(exclude={"selection_loss", "selection_loss_se"}),
            )
            write_progress(self.job, progress)
            self.checkpointing.check_loss()

    return Watch


def write_progress(job: TrainingJob, progress: Progress) -> None:
    """Adds a line to the run's progress file, in rank 0 alone."""
    import torch.distributed as dist

    if dist.get_rank() == 0:
        tell(Path(job.progress_file), progress)


def peak_memory_bytes(on_gpu: bool) -> int:
    """The most that this process has held so far: of the machine's memory, or what tensors took of
    the GPU's. CUDA and its libraries take more beside (see `rules/planning/gpu_memory.py`), and
    torch's allocator keeps what it may need again."""
    if on_gpu:
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _trackers(job: TrainingJob) -> list[Tracker]:
    import torch.distributed as dist

    if job.keeping is None or dist.get_rank() != 0:
        return []
    run = Path(job.progress_file).parent.name
    return trackers(
        job.train.report_to,
        run=run,
        folder=Path(job.output).parent,
        kept=beginnings(job),
        settings=job.train.model_dump_json(),
    )
