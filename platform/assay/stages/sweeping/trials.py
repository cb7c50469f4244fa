"""One trial of a sweep: what it trains, how it is trained, and where what came of it is kept."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay.engines.checkpoints import files
from assay.engines.training.job import Sources, Stretch
from assay.engines.workers import pool
from assay.engines.workers.ray_tune import Turn
from assay.engines.workers.retry import Stopped
from assay.errors import AssayError
from assay.records.progress import Progress
from assay.records.record import Record, digest_of
from assay.records.stages import LossPoint, PauseReport, TrainingRecord
from assay.rules.search.halving import TrialBudget
from assay.spec.sweep import SweepSpec, with_parameters
from assay.spec.train import WITHOUT_EFFECT, TrainSpec
from assay.stages.context import Work

# Of the sweep's stage, and of the trials that it keeps.
VERSION = 4

RANGE_STEPS = 40
# What a range test goes through, and in how many optimizer steps.
LOWEST_RATE, HIGHEST_RATE = 1e-6, 0.1

Trial = Callable[..., TrainingRecord | PauseReport]
"""`stages.train.part`, handed in by the flow: stages do not import each other."""

Parameters = dict[str, Any]
"""Values of fields of `train`, by their dotted names."""

CHANGES = "learning_rate_changes"
TAKEN_OVER = "taken-over"
"""Inside a trial's folder: the checkpoint that it begins with, of the trial that it has taken over
from."""

RANGE_TEST: TrialBudget = (-1, (RANGE_STEPS - 1) / RANGE_STEPS)
"""The turn that finds the rates for `learning_rate: auto`. It pauses before its end, so that no
weights are kept."""


class TurnResult(Record):
    """What came of one trial, trained up to some share of its steps; one of the first three is
    set."""

    training: TrainingRecord | None = None
    pause: PauseReport | None = None
    error: str | None = None
    failed_at: PauseReport | None = None
    """How far it had come when it failed."""

    @property
    def loss(self) -> float | None:
        """On the selection split."""
        done = self.training or self.pause
        if done:
            return done.selection_loss
        return None


def trial_spec(sweep: SweepSpec, base: TrainSpec, parameters: Parameters) -> TrainSpec:
    """The training run of one trial: the base with these parameters and the sweep's budget,
    validated anew."""
    changes = dict(parameters)
    if sweep.max_steps is not None:
        changes["max_steps"] = sweep.max_steps
    elif sweep.num_epochs is not None:
        changes |= {"num_epochs": sweep.num_epochs, "max_steps": None}
    if sweep.num_workers is not None:
        changes |= {"num_workers": sweep.num_workers, "min_workers": None}
    return with_parameters(base, changes)


def goes_all_the_way(sweep: SweepSpec, train: TrainSpec) -> bool:
    """Whether a finished trial is the whole training: the sweep gives it no smaller budget and no
    other number of workers."""
    return trial_spec(sweep, train, {}) == train


@dataclass(frozen=True)
class Trials:
    """How one trial is trained, and where what came of it is kept; travels to Tune's actors."""

    sweep: SweepSpec
    base: TrainSpec
    sources: Sources
    trial: Trial
    work: Work
    at_once: int = 1

    def __post_init__(self) -> None:
        (self.work.folder / "trials").mkdir(exist_ok=True)

    @property
    def halt_file(self) -> Path:
        """While it exists, no trial goes on."""
        return self.work.folder / "halt"

    def turn(self, turn: Turn) -> str:
        """Trains one trial up to where it is wanted; returns a `TurnResult` as JSON."""
        folder = self.folder(turn.parameters)
        progress_file = folder.parent / f"{folder.name}.jsonl"
        own = replace(self.work, folder=folder, progress_file=progress_file)
        stretch = Stretch(
            checkpoints=folder / "checkpoints",
            until=turn.until if turn.until < 1 else None,
            halt_file=self.halt_file,
            rising_from=LOWEST_RATE if turn.trial == RANGE_TEST[0] else None,
            start=folder / TAKEN_OVER,
            at_once=self.at_once,
        )
        try:
            outcome = self.trial(self.spec(turn), self.sources, stretch, work=own, fit=pool.fit)
        except Stopped:
            # Not kept: a trial that was interrupted has failed at nothing, and is gone on with.
            return TurnResult(error="stopped").model_dump_json()
        except AssayError as error:
            result = TurnResult(error=str(error), failed_at=_how_far(progress_file))
        else:
            if isinstance(outcome, PauseReport):
                result = TurnResult(pause=outcome)
            else:
                result = TurnResult(training=outcome)
        own.tell(Progress(step=0, num_steps=0, is_over=True))
        text = result.model_dump_json()
        self._file(turn).write_text(text)
        return text

    def spec(self, turn: Turn) -> TrainSpec:
        """The trial's training run."""
        if turn.trial != RANGE_TEST[0]:
            return trial_spec(self.sweep, self.base, turn.parameters)
        return with_parameters(
            trial_spec(self.sweep, self.base, {}),
            {
                "learning_rate": HIGHEST_RATE,
                "max_steps": RANGE_STEPS,
                "warmup_ratio": 0.0,
                "early_stopping": None,
            },
        )

    def folder(self, parameters: Parameters) -> Path:
        """The trial's own folder, whose name tells the parameters."""
        spec = trial_spec(self.sweep, self.base, parameters).model_dump(exclude=WITHOUT_EFFECT)
        digests = [self.sources.model.artifact.digest, self.sources.data.artifact.digest]
        # The names are cut to be short, and two trials may have the same: the mark tells them
        # apart.
        mark = digest_of([VERSION, spec, *digests])[:6]
        return self.work.folder / "trials" / f"{trial_name(parameters)}-{mark}"

    def hand_over(self, giver: Parameters, taker: Parameters, step: int) -> None:
        """Puts the giver's checkpoint of a step where the taker's training begins. Without one, as
        when the giver has gone on since, the taker is trained from the start, to the same end."""
        source, target = self.folder(giver) / "checkpoints", self.folder(taker)
        checkpoint = files.at(source, step)
        has_begun = (target / TAKEN_OVER).exists() or any(target.glob("checkpoints/step-*"))
        if has_begun or not checkpoint.exists():
            return
        shutil.rmtree(target / "draft", ignore_errors=True)
        shutil.copytree(checkpoint, target / "draft")
        (target / "checkpoints").mkdir(exist_ok=True)
        # What was measured before the first step, which the taker does not make.
        for beside in source.glob("*.safetensors"):
            shutil.copy2(beside, target / "checkpoints")
        # Renamed when it is whole: what stands there is begun with, and a copy may be cut off.
        (target / "draft").rename(target / TAKEN_OVER)

    def known(self, turn: Turn) -> TurnResult | None:
        """What an earlier attempt at the sweep has left of this turn. What failed then is tried
        again."""
        try:
            result = TurnResult.model_validate_json(self._file(turn).read_text())
        except (OSError, ValueError):
            return None
        if result.training and not self.work.store.is_intact(result.training.artifact):
            return None
        # A rate that was too high stays too high; of anything else, trying again may help.
        if result.error is not None and "diverged" not in result.error:
            return None
        return result

    def _file(self, turn: Turn) -> Path:
        return self.folder(turn.parameters) / f"until-{turn.until:.4f}.json"


def trial_name(parameters: Parameters) -> str:
    """Short words for a trial's parameters, such as `lr-0.003,r-8`."""
    if not parameters:
        return "range-test"
    words = []
    for name, value in parameters.items():
        if name == CHANGES:
            continue
        short = "lr" if name == "learning_rate" else name.rpartition(".")[2]
        shown = format(value, ".4g") if isinstance(value, float) else value
        words.append(f"{short}-{shown}")
    if changes := parameters.get(CHANGES):
        words.append(f"then-{changes[-1]['learning_rate']:.4g}")
    # It is a folder's name: no slashes, and file systems allow 255 bytes at the most.
    return ",".join(words).replace("/", "_")[:80]


def _how_far(progress_file: Path) -> PauseReport | None:
    """How far a trial came that has failed, by what it told on the way; None when it made no step.
    Where it went on from a checkpoint, steps that it made twice are told twice, and count once."""
    lines = []
    if progress_file.exists():
        lines = progress_file.read_text().splitlines()
    reached: list[Progress] = []
    for line in lines:
        with suppress(ValueError):  # the last line of a process that was killed
            progress = Progress.model_validate_json(line)
            if progress.loss is not None:
                before = [earlier for earlier in reached if earlier.step < progress.step]
                reached = [*before, progress]
    if not reached:
        return None
    fields = set(LossPoint.model_fields)
    points = []
    for one in reached:
        points.append(LossPoint.model_validate(one.model_dump(include=fields)))
    return PauseReport(
        step=reached[-1].step,
        num_tokens=reached[-1].num_tokens or 0,
        selection_loss=None,
        selection_loss_se=None,
        history=tuple(points),
    )
