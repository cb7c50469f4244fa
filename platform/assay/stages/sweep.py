"""`sweep`: Ray Tune over the fields of `train`. The choice is made on the selection split; nobody
sees the gate's."""

import json
import math
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from assay.engines.checkpoints import files
from assay.engines.cluster import tasks
from assay.engines.workers import pool, ray_tune
from assay.engines.workers.ray_tune import Turn
from assay.engines.workers.retry import Stopped
from assay.errors import AssayError, PlaceError, StageFailed
from assay.records.inputs import StageInputs, without
from assay.records.progress import Progress
from assay.records.record import Record, digest_of
from assay.records.stages import (
    DatasetRecord,
    LossPoint,
    ModelRecord,
    PauseReport,
    SweepRecord,
    TrainingRecord,
    TrialRecord,
)
from assay.rules.search import population
from assay.rules.search.halving import Ladder, TrialBudget, ladder, next_segment
from assay.rules.search.lr_range import rates_to_try
from assay.spec.sweep import Range, SweepSpec, with_parameters
from assay.spec.train import WITHOUT_EFFECT, TrainSpec
from assay.stages.context import Work

VERSION = 4

RANGE_STEPS = 40
LOWEST_RATE, HIGHEST_RATE = 1e-6, 0.1
"""What a range test goes through, and in how many optimizer steps."""

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


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What a sweep's choice depends on."""

    model: ModelRecord
    data: DatasetRecord
    sweep: SweepSpec = without("max_concurrent_trials")
    train: TrainSpec = without("learning_rate", *sorted(WITHOUT_EFFECT))
    """What every trial has in common."""
    teacher: ModelRecord | None = None


Output = SweepRecord


def run(inputs: Inputs, work: Work, *, trial: Trial) -> SweepRecord:
    """Runs every trial as far as the scheduler lets it, and chooses by the loss on the selection
    split (see `choose`). Trials of an earlier attempt at this sweep are kept. Raises `StageFailed`
    when none finished."""
    sweep, base, model, data = inputs.sweep, inputs.train, inputs.model, inputs.data
    if not data.selection.num_examples:
        raise StageFailed("a sweep needs a selection split; give data.selection a share or files")
    started_at = time.time()
    at_once = concurrent_trials(sweep, base, on_gpu=work.on_gpu)
    trials_of = Trials(sweep, base, trial, model, data, work, at_once)
    course = TrialScheduler(sweep, trials_of)
    ray_tune.run(
        course,
        trials_of.turn,
        space=sweep.space if sweep.way == "optuna" else None,
        known=course.known(),
        seed=sweep.seed,
        folder=work.fresh_folder("tune"),
        max_concurrent=at_once,
        halt_file=trials_of.halt_file,
    )
    trials = course.records()
    chosen = choose(trials)
    for folder in (work.folder / "trials").glob("*/checkpoints"):
        shutil.rmtree(folder, ignore_errors=True)
    return SweepRecord(
        trials=trials,
        chosen=chosen,
        seconds=time.time() - started_at,
        range_test=course.range_history(),
    )


def choose(trials: tuple[TrialRecord, ...]) -> int:
    """Index of the chosen trial: of those whose selection loss is within one standard error of the
    lowest, the cheapest: the fewest tokens trained on, then the smallest adapter, then the lowest
    learning rate. A short trial flatters high rates, and differences within the error are no
    evidence for them (the one-standard-error rule: Breiman et al., Classification and Regression
    Trees, 1984). Raises `StageFailed` when none finished."""
    finished = {
        index: trial.training
        for index, trial in enumerate(trials)
        if trial.training and trial.training.selection_loss is not None
    }
    if not finished:
        errors = [trial.error for trial in trials if trial.error]
        raise StageFailed(
            f"every trial of the sweep failed; the first said: {errors[0] if errors else 'nothing'}"
        )
    best = min(finished.values(), key=lambda training: training.selection_loss or 0.0)
    enough = (best.selection_loss or 0.0) + (best.selection_loss_se or 0.0)
    near = {index: one for index, one in finished.items() if (one.selection_loss or 0.0) <= enough}
    return min(
        near, key=lambda i: (near[i].num_tokens, near[i].artifact.size, near[i].learning_rate)
    )


def concurrent_trials(sweep: SweepSpec, base: TrainSpec, *, on_gpu: bool) -> int:
    """How many trials fit at once into what is free now. A trial is a driver of one CPU, and its
    workers; were more started than fit, the drivers would hold what the workers wait for. One is
    started in any case: what is taken may become free. Raises `PlaceError` when the cluster could
    never hold one."""
    num_workers = sweep.num_workers or base.num_workers
    cpus = 1 + num_workers * base.worker.cpus
    gpus = num_workers * (base.worker.gpus if base.worker.gpus is not None else float(on_gpu))

    def into(cluster: tasks.ClusterSize) -> int:
        return math.floor(min(cluster.cpus / cpus, cluster.gpus / gpus if gpus else math.inf))

    whole = tasks.size()
    if into(whole) < 1:
        raise PlaceError(
            f"a trial needs {cpus:g} CPUs and {gpus:g} GPUs; the cluster has {whole.cpus:g} and "
            f"{whole.gpus:g}"
        )
    return min(
        max(1, into(tasks.free())),
        sweep.num_trials,
        sweep.max_concurrent_trials or sweep.num_trials,
    )


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


class Trials:
    """How one trial is trained, and where what came of it is kept; travels to Tune's actors."""

    def __init__(
        self,
        sweep: SweepSpec,
        base: TrainSpec,
        trial: Trial,
        model: ModelRecord,
        data: DatasetRecord,
        work: Work,
        at_once: int = 1,
    ) -> None:
        self.at_once = at_once
        self.sweep, self.base, self.trial, self.model, self.data, self.work = (
            sweep,
            base,
            trial,
            model,
            data,
            work,
        )
        self.halt_file = work.folder / "halt"
        (work.folder / "trials").mkdir(exist_ok=True)

    def turn(self, turn: Turn) -> str:
        """Trains one trial up to where it is wanted; returns a `TurnResult` as JSON."""
        train, folder = self.spec(turn), self.folder(turn.parameters)
        own = replace(
            self.work, folder=folder, progress_file=folder.parent / f"{folder.name}.jsonl"
        )
        try:
            came_to = self.trial(
                train,
                model=self.model,
                data=self.data,
                work=own,
                fit=pool.fit,
                checkpoints=folder / "checkpoints",
                until=turn.until if turn.until < 1 else None,
                halt_file=self.halt_file,
                rising_from=LOWEST_RATE if turn.trial == RANGE_TEST[0] else None,
                start=folder / TAKEN_OVER,
                at_once=self.at_once,
            )
        except Stopped:
            return TurnResult(error="stopped").model_dump_json()
        except AssayError as error:
            result = TurnResult(error=str(error), failed_at=_came_to(own.progress_file))
        else:
            paused = isinstance(came_to, PauseReport)
            if paused:
                result = TurnResult(pause=came_to)
            else:
                result = TurnResult(training=came_to)
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
        said = [trial_spec(self.sweep, self.base, parameters).model_dump(exclude=WITHOUT_EFFECT)]
        mark = digest_of([VERSION, *said, self.model.artifact.digest, self.data.artifact.digest])[
            :6
        ]
        return self.work.folder / "trials" / f"{trial_name(parameters)}-{mark}"

    def hand_over(self, giver: Parameters, taker: Parameters, step: int) -> None:
        """Puts the giver's checkpoint of a step where the taker's training begins. Without one, as
        when the giver has gone on since, the taker is trained from the start, to the same end."""
        source, target = self.folder(giver) / "checkpoints", self.folder(taker)
        checkpoint = files.at(source, step)
        if (
            not checkpoint.exists()
            or (target / TAKEN_OVER).exists()
            or any(target.glob("checkpoints/step-*"))
        ):
            return
        shutil.rmtree(target / "draft", ignore_errors=True)
        shutil.copytree(checkpoint, target / "draft")
        (target / "checkpoints").mkdir(exist_ok=True)
        for beside in source.glob("*.safetensors"):  # what was measured before the first step
            shutil.copy2(beside, target / "checkpoints")
        (target / "draft").rename(target / TAKEN_OVER)

    def known(self, turn: Turn) -> TurnResult | None:
        """What an earlier attempt at the sweep has left of this turn. What failed then is tried
        again."""
        try:
            result = TurnResult.model_validate_json(self._file(turn).read_text())
        except (OSError, ValueError):
            return None
        diverged = bool(result.error and "diverged" in result.error)
        if result.training and not self.work.store.is_intact(result.training.artifact):
            return None
        if diverged or result.error is None:
            return result
        return None

    def _file(self, turn: Turn) -> Path:
        return self.folder(turn.parameters) / f"until-{turn.until:.4f}.json"


class TrialScheduler:
    """The course of a sweep: which trial is trained next and how far, and what came of each."""

    def __init__(self, sweep: SweepSpec, trials: Trials) -> None:
        self.sweep, self.trials = sweep, trials
        self.is_population = sweep.scheduler == "pbt"
        if self.is_population:
            self.ladder = Ladder(population.looks(sweep.num_rungs), sweep.reduction_factor)
        else:
            self.ladder = ladder(
                sweep.scheduler, factor=sweep.reduction_factor, num_rungs=sweep.num_rungs
            )
        self.results: dict[TrialBudget, TurnResult] = {}
        self.running: set[TrialBudget] = set()
        self.num_lost: Counter[TrialBudget] = Counter()
        self.tested: PauseReport | None = None
        self.drawn_file = trials.work.folder / "trials" / "drawn.json"
        if sweep.learning_rate == "auto" and (tested := trials.known(self._turn(RANGE_TEST))):
            self._take_rates(tested)
        self._begin()

    def _begin(self) -> None:
        self.parameters = self._first_parameters()
        for rung in self.ladder.rungs:
            for number, parameters in enumerate(self.parameters):
                if rung in self.ladder.own_rungs(number) and (
                    found := self.trials.known(Turn(number, parameters, rung))
                ):
                    self.results[number, rung] = found
            self._learn_from_each_other(rung)

    def next(self, draw: Callable[[], Parameters] | None) -> Turn | None:
        """The next turn; None when there is none now."""
        segment = self._next()
        if segment is None:
            return None
        number = segment[0]
        if number == len(self.parameters) and draw is not None:
            self.parameters.append(draw())
            self.drawn_file.write_text(json.dumps(self.parameters))
        self.running.add(segment)
        return self._turn(segment)

    def ended(self, turn: Turn, result: str) -> float | None:
        """Takes down what came of a turn; returns its loss."""
        segment = (turn.trial, turn.until)
        self.running.discard(segment)
        came_to = TurnResult.model_validate_json(result)
        if segment == RANGE_TEST:
            self._take_rates(came_to)
            self._begin()
            return None
        self.results[segment] = came_to
        self._learn_from_each_other(turn.until)
        return came_to.loss

    def lost(self, turn: Turn) -> None:
        """The turn is taken again, from its checkpoint, unless its process was lost too often."""
        segment = (turn.trial, turn.until)
        self.running.discard(segment)
        self.num_lost[segment] += 1
        if self.num_lost[segment] > self.trials.base.max_failures:
            if segment == RANGE_TEST:
                raise StageFailed("the range test's process was lost over and over")
            self.results[segment] = TurnResult(error="the trial's process was lost over and over")
            self._learn_from_each_other(turn.until)

    def is_over(self) -> bool:
        """Whether no turn is left."""
        return self.trials.halt_file.exists() or (not self.running and self._next() is None)

    def range_history(self) -> tuple[LossPoint, ...]:
        """What the range test saw, if there was one."""
        if self.tested:
            return self.tested.history
        return ()

    def known(self) -> list[tuple[Parameters, float]]:
        """Trials that an earlier attempt has looked at, with their first loss."""
        first = [
            (number, self.ladder.own_rungs(number)[0]) for number in range(len(self.parameters))
        ]
        return [
            (self.parameters[number], result.loss)
            for number, rung in first
            if (result := self.results.get((number, rung))) and result.loss is not None
        ]

    def records(self) -> tuple[TrialRecord, ...]:
        """What came of every trial that was begun, in the order of their learning rates."""
        found = [
            self._record(number, parameters) for number, parameters in enumerate(self.parameters)
        ]
        return tuple(sorted(found, key=lambda trial: trial.learning_rate))

    def _learn_from_each_other(self, share: float) -> None:
        """In a population, once all have come to a look: the worst take over from the best."""
        here = [(number, share) for number in range(len(self.parameters))]
        if not self.is_population or share == 1 or self.trials.halt_file.exists():
            return
        if any(segment not in self.results for segment in here):
            return
        draws = random.Random(f"{self.sweep.seed}:{share}")
        losses = [self.results[segment].loss for segment in here]
        before = list(self.parameters)
        found = population.exploit(losses, factor=self.sweep.reduction_factor, draws=draws)
        for taker, giver in found.items():
            own = before[giver]
            changes = own.get(CHANGES, [])
            if changes:
                rate = changes[-1]["learning_rate"]
            else:
                rate = own["learning_rate"]
            new = population.perturbed(rate, self.sweep.rate_ends, draws)
            self.parameters[taker] = {
                **own,
                CHANGES: [*changes, {"at": share, "learning_rate": new}],
            }
            if pause := self.results[giver, share].pause:
                self.trials.hand_over(own, self.parameters[taker], pause.step)

    def _turn(self, segment: TrialBudget) -> Turn:
        number, until = segment
        return Turn(number, self.parameters[number] if segment != RANGE_TEST else {}, until)

    def _take_rates(self, tested: TurnResult) -> None:
        """Makes a grid of what the range test has found."""
        if tested.pause is None:
            raise StageFailed(f"the range test failed: {tested.error}")
        self.tested = tested.pause
        try:
            self.sweep = self.sweep.with_rates(rates_to_try(tested.pause.history))
        except ValueError as error:
            raise StageFailed(
                f"the range test found no learning rate: {error}; say learning_rate yourself"
            ) from error

    def _next(self) -> TrialBudget | None:
        if self.sweep.learning_rate == "auto":
            if RANGE_TEST in self.running:
                return None
            return RANGE_TEST
        losses = {segment: result.loss for segment, result in self.results.items()}
        if self.is_population:
            return population.next_turn(
                losses, self.running, self.ladder.rungs, num_trials=self.sweep.num_trials
            )
        return next_segment(losses, self.running, self.ladder, num_trials=self.sweep.num_trials)

    def _first_parameters(self) -> list[Parameters]:
        if self.sweep.way == "grid":
            return self.sweep.grid()
        if self.sweep.way == "random":
            draws = random.Random(self.sweep.seed)
            return [_drawn(self.sweep, draws) for _ in range(self.sweep.num_samples)]
        try:
            found: list[Parameters] = json.loads(self.drawn_file.read_text())
        except (OSError, ValueError):
            return []
        return found

    def _record(self, number: int, parameters: Parameters) -> TrialRecord:
        own = [
            self.results[number, rung]
            for rung in self.ladder.own_rungs(number)
            if (number, rung) in self.results
        ]
        spec = trial_spec(self.sweep, self.trials.base, parameters)
        rates = ("learning_rate", CHANGES)
        return TrialRecord(
            learning_rate=spec.learning_rate,
            learning_rate_changes=spec.learning_rate_changes if self.is_population else (),
            parameters={name: value for name, value in parameters.items() if name not in rates},
            training=own[-1].training if own else None,
            error=own[-1].error if own else None,
            pauses=tuple(report for result in own if (report := result.pause or result.failed_at)),
        )


def trial_name(parameters: Parameters) -> str:
    """Short words for a trial's parameters, such as `lr-0.003,r-8`."""
    short = {"learning_rate": "lr"}
    if not parameters:
        return "range-test"
    words = [
        f"{short.get(name, name.rpartition('.')[2])}-{format(value, '.4g') if isinstance(value, float) else value}"
        for name, value in parameters.items()
        if name != CHANGES
    ]
    if changes := parameters.get(CHANGES):
        words.append(f"then-{changes[-1]['learning_rate']:.4g}")
    return ",".join(words).replace("/", "_")[:80]


def _came_to(progress_file: Path) -> PauseReport | None:
    """How far a trial came that has failed, by what it told on the way; None when it made no step.
    Where it went on from a checkpoint, steps that it made twice are told twice, and count once."""
    told: list[Progress] = []
    for line in progress_file.read_text().splitlines() if progress_file.exists() else ():
        with suppress(ValueError):  # the last line of a process that was killed
            progress = Progress.model_validate_json(line)
            if progress.loss is not None:
                told = [*(earlier for earlier in told if earlier.step < progress.step), progress]
    if not told:
        return None
    return PauseReport(
        step=told[-1].step,
        num_tokens=told[-1].num_tokens or 0,
        selection_loss=None,
        selection_loss_se=None,
        history=tuple(
            LossPoint.model_validate(one.model_dump(include=set(LossPoint.model_fields)))
            for one in told
        ),
    )


def _drawn(sweep: SweepSpec, draws: random.Random) -> Parameters:
    """One draw of every parameter."""
    drawn: Parameters = {}
    for name, values in sweep.space.items():
        if not isinstance(values, Range):
            drawn[name] = draws.choice(values)
        elif values.randint:
            drawn[name] = draws.randint(*values.randint)
        elif values.loguniform:
            drawn[name] = math.exp(draws.uniform(*(math.log(end) for end in values.loguniform)))
        else:
            drawn[name] = draws.uniform(*values.ends)
    return drawn
