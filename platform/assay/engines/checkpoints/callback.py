"""What keeps a training run in transformers' Trainer: after each optimizer step all workers agree
whether to write a checkpoint, whether to stop, and whether it still makes sense to go on.

Checkpoints hold what DeepSpeed needs (a file for each rank: weights that are trained, optimizer,
schedule), every rank's random states, and the Trainer's own counters, from which it finds its place
in the data.
"""

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from assay.engines.checkpoints import elastic, schedules, trained_state
from assay.engines.checkpoints import files as checkpoints
from assay.engines.checkpoints.files import CheckpointManifest
from assay.errors import StageFailed
from assay.records.record import Record
from assay.records.stages import LossPoint, PauseReport
from assay.spec.train import TrainSpec

KEPT = "kept.json"
TRAINER_STATE = "trainer_state.json"
STOP_POLL_S = 0.5
# A loss of so many times the first one is no longer learning anything.
EXPLODED = 3.0
# So many log lines in a row.
EXPLODED_LINES = 3

# Early stopping looks so many times in a run, when the spec does not say how often.
LOOKS = 10

GO_ON, SAVE, STOP = 0, 1, 2


class Diverged(StageFailed):
    """The loss is not finite any more, or has exploded."""


class CheckpointConfig(Record):
    """How one attempt at a training run is kept."""

    folder: str
    """Where its checkpoints are; every node sees it."""
    job: str
    """Digest of what is trained."""
    attempt: str
    """Keeps the drafts of attempts that overlap apart."""
    resume_from: str | None = None
    """Checkpoint to start from, which was verified."""
    until: float | None = None
    """Share of the run after which it pauses, with a checkpoint and a word on how it does; None for
    all of it."""
    halt_file: str | None = None
    """A file that stops this training and others with it, once it exists."""

    @property
    def stop_file(self) -> Path:
        """When this file exists, the attempt writes a checkpoint and ends."""
        return Path(self.folder) / f"stop-{self.attempt}"

    @property
    def is_asked_to_stop(self) -> bool:
        """Whether one of the two files exists."""
        return self.stop_file.exists() or bool(self.halt_file and Path(self.halt_file).exists())


class CheckpointState(Record):
    """What a keeper remembers from one attempt to the next."""

    history: tuple[LossPoint, ...] = ()
    best_step: int = 0
    best_loss: float | None = None
    """The lowest selection loss that early stopping has seen."""
    num_worse: int = 0
    """Looks in a row that brought no lower one."""


class CheckpointCallback:
    """One worker's part in keeping a run. `after_step` and `save` are called by all workers
    alike."""

    def __init__(
        self,
        keeping: CheckpointConfig | None,
        train: TrainSpec,
        *,
        evaluate: Callable[[], tuple[float | None, float | None]],
        rising_from: float | None = None,
        num_looks: int | None = None,
    ) -> None:
        self.keeping = keeping
        self.train = train
        self.evaluate = evaluate
        """Mean loss on the selection split and its standard error, by all workers together."""
        self.rising_from = rising_from
        self.num_looks = num_looks
        self.looking_s = 0.0
        """Seconds in which nothing was trained, for the selection loss was measured."""
        self.history: list[LossPoint] = []
        self.was_stopped = False
        self.pause: PauseReport | None = None
        self.best_step, self.num_worse = 0, 0
        self.best_loss: float | None = None
        self._measured: tuple[int, float | None, float | None] = (0, None, None)
        self._saved_at = time.monotonic()
        self._looked_at = 0.0
        if keeping and keeping.resume_from:
            self._remember(
                CheckpointState.model_validate_json((Path(keeping.resume_from) / KEPT).read_text())
            )

    def after_step(self, step: int, num_steps: int, control: Any) -> None:
        """Tells the Trainer what to do after an optimizer step. Rank 0 decides for all."""
        if step >= num_steps:
            return
        pauses = self._pauses_at(step, num_steps)
        looks = self._looks_at(step, num_steps)
        if pauses or looks or self._shows_at(step, num_steps):
            started = time.monotonic()
            self._measured = (step, *self.evaluate())
            self.looking_s += time.monotonic() - started
        if self.keeping is None:
            return
        if looks and self._is_enough(step):
            control.should_training_stop = True
            return
        decision = STOP if pauses else _from_first(self._decide(step))
        if looks and self.best_step == step:
            decision = max(decision, SAVE)
        self.was_stopped = decision == STOP
        control.should_save = control.should_save or decision in (SAVE, STOP)
        control.should_training_stop = control.should_training_stop or decision == STOP

    def measured_since(self, step: int) -> tuple[float | None, float | None]:
        """The selection loss and its error, if they were measured after a step."""
        measured_at, loss, error = self._measured
        if measured_at > step:
            return (loss, error)
        return (None, None)

    def set_rates(self, scheduler: Any) -> None:
        """Gives the next step the rate that the spec says for it. A checkpoint of a training that
        was the same up to there remembers another, and DeepSpeed's elastic checkpoints remember
        none."""
        while hasattr(scheduler, "scheduler"):  # accelerate's wrappers
            scheduler = scheduler.scheduler
        groups = scheduler.optimizer.param_groups
        for group, rate, share in zip(
            groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = rate * share(scheduler.last_epoch)

    def check_loss(self) -> None:
        """Raises `Diverged` when the history shows it."""
        if self.rising_from is None and (reason := divergence(self.history)):
            raise Diverged(f"training diverged at step {self.history[-1].step}: {reason}")

    def save(self, trainer: Any) -> None:
        """Writes a checkpoint of the Trainer as it stands between two steps, and where it pauses,
        how it does."""
        import torch.distributed as dist

        assert self.keeping is not None
        root, step = Path(self.keeping.folder), int(trainer.state.global_step)
        measured_at, loss, error = self._measured
        if self._pauses_at(step, int(trainer.state.max_steps)):
            self.pause = PauseReport(
                step=step,
                num_tokens=int(trainer.state.num_input_tokens_seen),
                selection_loss=loss,
                selection_loss_se=error,
                history=tuple(self.history),
            )
        draft = checkpoints.draft(root, step, self.keeping.attempt)
        draft.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        if self.train.min_workers is not None and trainer.is_deepspeed_enabled:
            elastic.count_steps_in_groups(trainer.model_wrapped, step)
        if not trainer.is_deepspeed_enabled and dist.get_rank() == 0:
            trained_state.save(trainer.model, draft)
        trainer._save_optimizer_and_scheduler(str(draft))
        trainer._save_rng_state(str(draft))
        rank, world = dist.get_rank(), dist.get_world_size()
        if rank == 0:
            trainer.state.save_to_json(str(draft / TRAINER_STATE))
            (draft / KEPT).write_text(self._kept().model_dump_json())
        dist.barrier()
        shares: list[Any] = [{} for _ in range(world)]
        dist.all_gather_object(shares, checkpoints.flush(draft, share=rank, num_shares=world))
        if rank == 0:
            manifest = CheckpointManifest(
                job=self.keeping.job,
                step=step,
                num_workers=world,
                selection_loss=loss if measured_at == step else None,
                files={name: entry for share in shares for name, entry in share.items()},
            )
            checkpoints.seal(draft, manifest)
            keep = self.train.checkpoint
            if self.train.early_stopping:
                num_best = max(keep.keep_best, 1)
            else:
                num_best = keep.keep_best
            checkpoints.prune(root, keep_last=keep.keep_last, keep_best=num_best)
        dist.barrier()
        self._saved_at = time.monotonic()

    def go_back_to_best(self, trainer: Any) -> bool:
        """Gives the model the weights of the lowest selection loss, where early stopping has found
        one before the end; says whether it did."""
        from transformers.integrations.deepspeed import deepspeed_load_checkpoint

        if (
            self.keeping is None
            or not self.best_step
            or self.best_step == int(trainer.state.global_step)
        ):
            return False
        folder = checkpoints.at(Path(self.keeping.folder), self.best_step)
        if not folder.exists():
            return False
        if trainer.is_deepspeed_enabled:
            deepspeed_load_checkpoint(trainer.model_wrapped, str(folder), load_module_strict=False)
        else:
            trained_state.load(trainer.model, folder)
        return True

    def _is_enough(self, step: int) -> bool:
        """Takes down what early stopping has seen; says whether it has seen enough."""
        assert self.train.early_stopping is not None
        _, loss, _ = self._measured
        if loss is None:
            return False
        if self.best_loss is None or loss < self.best_loss - self.train.early_stopping.min_delta:
            self.best_step, self.best_loss, self.num_worse = step, loss, 0
        else:
            self.num_worse += 1
        return self.num_worse >= self.train.early_stopping.patience

    def _looks_at(self, step: int, num_steps: int) -> bool:
        stopping = self.train.early_stopping if self.keeping else None
        return (
            stopping is not None
            and step % (stopping.every_steps or max(1, num_steps // LOOKS)) == 0
        )

    def _shows_at(self, step: int, num_steps: int) -> bool:
        """Whether a look is due for those who watch: between the first step and the last, in equal
        parts."""
        if self.num_looks is None:
            return False
        every = self.train.eval_steps or (
            num_steps // (self.num_looks + 1) if self.num_looks else 0
        )
        return every > 0 and step % every == 0

    def _pauses_at(self, step: int, num_steps: int) -> bool:
        until = self.keeping.until if self.keeping else None
        return until is not None and step == schedules.steps_until(until, num_steps)

    def _decide(self, step: int) -> int:
        now, spec = time.monotonic(), self.train.checkpoint
        if self.keeping and now - self._looked_at >= STOP_POLL_S:
            self._looked_at = now
            if self.keeping.is_asked_to_stop:
                return STOP
        if spec.every_steps is not None:
            if step % spec.every_steps == 0:
                return SAVE
            return GO_ON
        if now - self._saved_at >= (spec.interval_s or math.inf):
            return SAVE
        return GO_ON

    def _kept(self) -> CheckpointState:
        return CheckpointState(
            history=tuple(self.history),
            best_step=self.best_step,
            best_loss=self.best_loss,
            num_worse=self.num_worse,
        )

    def _remember(self, kept: CheckpointState) -> None:
        self.history[:] = kept.history
        self.best_step, self.best_loss, self.num_worse = (
            kept.best_step,
            kept.best_loss,
            kept.num_worse,
        )


def attach(checkpointing: CheckpointCallback, trainer: Any) -> None:
    """Puts the keeper's checkpoints, and its schedule for a range test, in the place of the
    trainer's own."""
    trainer._save_checkpoint = lambda model, trial: checkpointing.save(trainer)
    if not trainer.is_deepspeed_enabled:
        trainer._load_from_checkpoint = lambda folder, model=None: trained_state.load(
            trainer.model, Path(folder)
        )
    if checkpointing.train.min_workers is not None and trainer.is_deepspeed_enabled:
        elastic.let_others_read()
    rates = checkpointing.train.rates
    if rates.changes:
        trainer.create_scheduler = partial(schedules.changing, trainer, checkpointing.train)
    if checkpointing.rising_from is not None:
        below = checkpointing.rising_from / rates.peak
        trainer.create_scheduler = partial(schedules.rising, trainer, below)


def divergence(history: Sequence[LossPoint]) -> str | None:
    """Why a run with this history should not go on; None when it should."""
    if not history:
        return None
    if not math.isfinite(history[-1].loss) or history[-1].loss >= 1e300:
        return "the loss is not a finite number"
    limit = EXPLODED * max(history[0].loss, 1.0)
    if len(history) > EXPLODED_LINES and all(
        point.loss > limit for point in history[-EXPLODED_LINES:]
    ):
        return f"the loss is {history[-1].loss:.1f}, after {history[0].loss:.1f} at the start"
    return None


def _from_first(decision: int) -> int:
    """Rank 0's decision, on every rank."""
    import torch
    import torch.distributed as dist

    if dist.get_world_size() == 1:
        return decision
    told = torch.tensor([decision], device="cuda" if dist.get_backend() == "nccl" else "cpu")
    dist.broadcast(told, src=0)
    return int(told.item())
