"""The course of a sweep: which trial is trained next and how far."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable

from assay.engines.workers.ray_tune import Turn
from assay.errors import StageFailed
from assay.records.stages import LossPoint, PauseReport, TrialRecord
from assay.rules.search import population
from assay.rules.search.halving import Ladder, TrialBudget, ladder, next_segment
from assay.rules.search.lr_range import rates_to_try
from assay.spec.sweep import Range, SweepSpec
from assay.stages.sweeping.trials import (
    CHANGES,
    RANGE_TEST,
    Parameters,
    Trials,
    TurnResult,
    trial_spec,
)


class TrialScheduler:
    """The course of a sweep: which trial is trained next and how far, and what came of each."""

    def __init__(self, sweep: SweepSpec, trials: Trials) -> None:
        self.sweep, self.trials = sweep, trials
        self.is_population = sweep.scheduler == "pbt"
        factor, num_rungs = sweep.reduction_factor, sweep.num_rungs
        if self.is_population:
            self.ladder = Ladder(population.looks(num_rungs), factor)
        else:
            self.ladder = ladder(sweep.scheduler, factor=factor, num_rungs=num_rungs)
        self.results: dict[TrialBudget, TurnResult] = {}
        self.running: set[TrialBudget] = set()
        self.num_lost: Counter[TrialBudget] = Counter()
        self.tested: PauseReport | None = None
        self.drawn_file = trials.work.folder / "trials" / "drawn.json"
        if sweep.learning_rate == "auto":
            tested = trials.known(self._turn(RANGE_TEST))
            if tested is not None:
                self._take_rates(tested)
        self._begin()

    def _begin(self) -> None:
        self.parameters = self._first_parameters()
        # Rung by rung: in a population, the parameters at a rung come from the results at the one
        # before it.
        for rung in self.ladder.rungs:
            for number, parameters in enumerate(self.parameters):
                if rung not in self.ladder.own_rungs(number):
                    continue
                known = self.trials.known(Turn(number, parameters, rung))
                if known is not None:
                    self.results[number, rung] = known
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
        outcome = TurnResult.model_validate_json(result)
        if segment == RANGE_TEST:
            self._take_rates(outcome)
            self._begin()
            return None
        self.results[segment] = outcome
        self._learn_from_each_other(turn.until)
        return outcome.loss

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
        found = []
        for number, parameters in enumerate(self.parameters):
            first = self.results.get((number, self.ladder.own_rungs(number)[0]))
            if first is not None and first.loss is not None:
                found.append((parameters, first.loss))
        return found

    def records(self) -> tuple[TrialRecord, ...]:
        """What came of every trial that was begun, in the order of their learning rates."""
        records = [self._record(number) for number in range(len(self.parameters))]
        return tuple(sorted(records, key=lambda trial: trial.learning_rate))

    def _learn_from_each_other(self, share: float) -> None:
        """In a population, once all have come to a look: the worst take over from the best."""
        here = [(number, share) for number in range(len(self.parameters))]
        if not self.is_population or share == 1 or self.trials.halt_file.exists():
            return
        if any(segment not in self.results for segment in here):
            return
        # Of the seed and the look alone: a sweep that was broken off draws the same again.
        draws = random.Random(f"{self.sweep.seed}:{share}")
        losses = [self.results[segment].loss for segment in here]
        # As they were: a giver keeps its own, whoever is taken over first.
        before = list(self.parameters)
        found = population.exploit(losses, factor=self.sweep.reduction_factor, draws=draws)
        for taker, giver in found.items():
            own = before[giver]
            changes = own.get(CHANGES, [])
            newest = changes[-1] if changes else own
            rate = population.perturbed(newest["learning_rate"], self.sweep.rate_ends, draws)
            change = {"at": share, "learning_rate": rate}
            self.parameters[taker] = {**own, CHANGES: [*changes, change]}
            pause = self.results[giver, share].pause
            if pause is not None:
                self.trials.hand_over(own, self.parameters[taker], pause.step)

    def _turn(self, segment: TrialBudget) -> Turn:
        number, until = segment
        parameters = {} if segment == RANGE_TEST else self.parameters[number]
        return Turn(number, parameters, until)

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

    def _record(self, number: int) -> TrialRecord:
        parameters = self.parameters[number]
        spec = trial_spec(self.sweep, self.trials.base, parameters)
        rungs = self.ladder.own_rungs(number)
        last = TurnResult()
        pauses = []
        for rung in rungs:
            if (number, rung) not in self.results:
                continue
            last = self.results[number, rung]
            report = last.pause or last.failed_at
            if report is not None:
                pauses.append(report)
        rates = ("learning_rate", CHANGES)
        return TrialRecord(
            learning_rate=spec.learning_rate,
            learning_rate_changes=spec.learning_rate_changes if self.is_population else (),
            parameters={name: value for name, value in parameters.items() if name not in rates},
            training=last.training,
            error=last.error,
            pauses=tuple(pauses),
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
            lowest, highest = values.loguniform
            drawn[name] = math.exp(draws.uniform(math.log(lowest), math.log(highest)))
        else:
            drawn[name] = draws.uniform(*values.ends)
    return drawn
