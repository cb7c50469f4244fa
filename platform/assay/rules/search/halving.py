"""Which trial of a sweep is trained next, and how far: successive halving, asynchronous.

A trial is trained up to the first rung, where its loss on the selection split is looked at. Of
those that have come to a rung, the best 1/factor go on to the next (Li et al., A System for
Massively Parallel Hyperparameter Tuning, 2020), once all trials have begun: a sweep over language
models has few, and an early promotion is a guess. What was trained is kept in checkpoints, so that
nothing is trained twice.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import pairwise

TrialBudget = tuple[int, float]
"""(trial, share of its steps that it is trained up to)."""


@dataclass(frozen=True)
class Ladder:
    """The rungs: rising shares of a trial's steps, the last of which is 1."""

    rungs: tuple[float, ...]
    factor: int
    num_brackets: int = 1
    """Trials of bracket b begin at rung b, so that a slow starter has its chance (Hyperband; Li et
    al., 2018)."""

    def own_rungs(self, trial: int) -> tuple[float, ...]:
        """The rungs of this trial."""
        return self.rungs[trial % self.num_brackets :]


def ladder(scheduler: str, *, factor: int, num_rungs: int) -> Ladder:
    """The rungs of a scheduler; a trial that is never looked at has one."""
    if scheduler == "none":
        return Ladder((1.0,), factor)
    rungs = tuple(float(factor) ** -rung for rung in range(num_rungs, 0, -1))
    return Ladder(
        (*rungs, 1.0), factor, num_brackets=num_rungs + 1 if scheduler == "hyperband" else 1
    )


def next_segment(
    losses: Mapping[TrialBudget, float | None],
    running: Collection[TrialBudget],
    ladder: Ladder,
    *,
    num_trials: int,
) -> TrialBudget | None:
    """What to train now; None when there is nothing to be done before something that runs has ended
    (or at all). `losses` has the segments that have ended, None for a loss that there is not."""
    begun = {trial for trial, _ in [*losses, *running]}
    fresh = next((trial for trial in range(num_trials) if trial not in begun), None)
    if fresh is not None:
        return fresh, ladder.own_rungs(fresh)[0]
    for bracket in range(ladder.num_brackets):
        if found := _promotion(losses, running, ladder, bracket):
            return found
    if running or any(share == 1.0 and loss is not None for (_, share), loss in losses.items()):
        return None
    return _best_left(losses, ladder)


def expected_length(ladder: Ladder, *, num_trials: int, at_once: int) -> float:
    """How long a sweep takes whose trials all go well, so many of them side by side; 1 is the time
    of one whole trial."""
    losses: dict[TrialBudget, float | None] = {}
    while segment := next_segment(losses, (), ladder, num_trials=num_trials):
        losses[segment] = 0.0
    furthest: dict[int, float] = {}
    for trial, share in losses:
        furthest[trial] = max(share, furthest.get(trial, 0.0))
    length = 0.0
    for below, rung in pairwise((0.0, *ladder.rungs)):
        num_there = sum(share >= rung for share in furthest.values())
        length += (rung - below) * math.ceil(num_there / at_once)
    return length


def _promotion(
    losses: Mapping[TrialBudget, float | None],
    running: Collection[TrialBudget],
    ladder: Ladder,
    bracket: int,
) -> TrialBudget | None:
    """A trial of the bracket that is among the best of its rung and has not gone on yet; high rungs
    first."""
    own = {}
    for segment, loss in losses.items():
        if segment[0] % ladder.num_brackets == bracket:
            own[segment] = loss
    rungs = ladder.rungs[bracket:]
    for rung, above in reversed(list(pairwise(rungs))):
        num_ended = sum(1 for _, share in own if share == rung)
        for trial in _ranked(own, rung)[: num_ended // ladder.factor]:
            if (trial, above) not in losses and (trial, above) not in running:
                return trial, above
    return None


def _best_left(losses: Mapping[TrialBudget, float | None], ladder: Ladder) -> TrialBudget | None:
    """With too few trials for a promotion, the best one of the highest rung goes on all the
    same."""
    for rung, above in reversed(list(pairwise(ladder.rungs))):
        for trial in _ranked(losses, rung):
            if (trial, above) not in losses:
                return trial, above
    return None


def _ranked(losses: Mapping[TrialBudget, float | None], rung: float) -> list[int]:
    """Trials that have ended at a rung with a loss, the lowest first."""
    there = []
    for (trial, share), loss in losses.items():
        if share == rung and loss is not None:
            there.append((loss, trial))
    return [trial for _, trial in sorted(there)]
