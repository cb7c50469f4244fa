"""Population-based training: all trials go on to their end, and learn from each other on the way.

At each look the trials with the highest losses take over the whole state of some with the lowest,
and go on from it with another learning rate (Jaderberg et al., Population Based Training of Neural
Networks, 2017). No trial goes on before all have come to the look, so that the same seed gives the
same sweep however many run at once.
"""

import math
import random
from collections.abc import Collection, Mapping, Sequence

from assay.rules.search.halving import TrialBudget

# A learning rate is changed by a factor between 1 / WIDEST and WIDEST.
WIDEST = 2.0


def looks(num_looks: int) -> tuple[float, ...]:
    """Shares of a trial's steps, evenly apart, the last of which is 1."""
    return tuple(number / (num_looks + 1) for number in range(1, num_looks + 2))


def next_turn(
    losses: Mapping[TrialBudget, float | None],
    running: Collection[TrialBudget],
    shares: Sequence[float],
    *,
    num_trials: int,
) -> TrialBudget | None:
    """What to train now; None when there is nothing to be done before something that runs has ended
    (or at all). `losses` has the segments that have ended, None for a loss that there is not."""
    for share in shares:
        here = [(trial, share) for trial in range(num_trials)]
        left = [segment for segment in here if segment not in losses]
        for segment in left:
            if segment not in running:
                return segment
        # All must come to this look before any goes on; with none alive there is nobody to go on.
        if left or all(losses[segment] is None for segment in here):
            return None
    return None


def exploit(losses: Sequence[float | None], *, factor: int, draws: random.Random) -> dict[int, int]:
    """Which trial takes over from which, by their losses at a look: one in `factor` of the worst,
    and all that have failed, from one in `factor` of the best."""
    ranked: list[tuple[float, int]] = []
    failed = []
    for trial, loss in enumerate(losses):
        if loss is None:
            failed.append(trial)
        else:
            ranked.append((loss, trial))
    order = [trial for _, trial in sorted(ranked)]
    num = max(1, len(losses) // factor)
    best, worst = order[:num], failed + order[num:][-num:]
    if best:
        return {trial: draws.choice(best) for trial in sorted(worst)}
    return {}


def perturbed(rate: float, ends: tuple[float, float], draws: random.Random) -> float:
    """Another learning rate near `rate` and between the ends, drawn so that its logarithm is
    even."""
    low, high = max(ends[0], rate / WIDEST), min(ends[1], rate * WIDEST)
    return math.exp(draws.uniform(math.log(low), math.log(high)))
