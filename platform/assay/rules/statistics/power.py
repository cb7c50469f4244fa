"""How many items a limit needs, and what a suite of a given size can show."""

import math
from bisect import bisect_left, bisect_right
from functools import lru_cache
from statistics import NormalDist
from typing import Literal

from assay.rules.statistics.paired import MOST_EXACT, paired_p
from assay.rules.statistics.proportions import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    tango_score,
)

Direction = Literal["at_least", "at_most"]

# Where the search for a number of items ends.
MOST_ITEMS = 100_000


@lru_cache(maxsize=4096)
def items_needed(
    observed: float, limit: float, confidence: float, direction: Direction
) -> int | None:
    """The smallest number of items with which the Clopper-Pearson bound would meet `limit` if the
    share stayed as `observed`, whole items being rounded to the candidate's disadvantage.

    None when `MOST_ITEMS` would not do: always so when the observed share itself misses the limit.
    """
    import numpy as np
    from scipy.special import bdtr, bdtrc

    if limit == (1 if direction == "at_most" else 0):
        return 1  # a bound can never lie beyond these
    n = np.arange(1, MOST_ITEMS + 1)
    slack = 1e-9  # 2/120 of 120 is 2, whatever floats say
    if direction == "at_most":
        chance = bdtr(np.ceil(observed * n - slack), n, limit)
    else:
        chance = bdtrc(np.floor(observed * n + slack) - 1, n, limit)
    # The bound meets the limit exactly when such a count would be this rare at the limit itself.
    enough = np.flatnonzero(chance <= 1 - confidence)
    if enough.size:
        return int(n[enough[0]])
    return None


@lru_cache(maxsize=4096)
def pairs_needed(b: int, c: int, n: int, margin: float, confidence: float) -> int | None:
    """About the smallest number of paired items with which the bound would reach -`margin` if the
    shares `b`/`n` (right for the candidate only) and `c`/`n` (for the base only) stayed. None when
    `MOST_ITEMS` would not do. Tango's score grows with the square root of the number of items;
    where the exact chance decides, whole items are rounded to the candidate's disadvantage.
    """
    score = tango_score(b, c, n, -margin)
    if score <= 0:
        return None
    low = math.ceil(n * (NormalDist().inv_cdf(confidence) / score) ** 2)

    def enough(items: int) -> bool:
        gains, losses = math.floor(b * items / n), math.ceil(c * items / n)
        return gains + losses <= items and paired_p(gains, losses, items, -margin) <= 1 - confidence

    if low < MOST_EXACT and not enough(low):
        high = 2 * low
        while high < MOST_EXACT and not enough(high):
            low, high = high, 2 * high
        if high >= MOST_EXACT:
            low = high
        else:
            low = bisect_left(range(high), True, lo=low, key=enough)
    if low <= MOST_ITEMS:
        return low
    return None


def smallest_detectable(
    n: int, limit: float, confidence: float, *, direction: Direction, power: float = 0.8
) -> float | None:
    """The true rate at which a task of `n` items meets `limit` with probability `power`: a
    candidate has to be this good for the gate to see it. None when no result on `n` items can meet
    the limit.
    """
    counts = range(n + 1)
    if direction == "at_most":
        most = (
            bisect_right(counts, limit, key=lambda k: clopper_pearson_upper(k, n, confidence)) - 1
        )
        if most >= 0:
            return clopper_pearson_upper(most, n, 1 - power)
        return None
    fewest = bisect_left(counts, limit, key=lambda k: clopper_pearson_lower(k, n, confidence))
    if fewest <= n:
        return clopper_pearson_lower(fewest, n, 1 - power)
    return None


def smallest_detectable_difference(
    n: int, margin: float, discordant: float, confidence: float, *, power: float = 0.8
) -> float | None:
    """The true difference, candidate minus reference, at which `no_worse_than` with `margin` passes
    with probability `power` on `n` items, when the models differ on a share `discordant` of them;
    the exact chance decides. None when even a difference as great as `discordant` does not.
    """
    import numpy as np
    from scipy.special import bdtrc
    from scipy.stats import binom

    losses = np.arange(min(n, int(binom.ppf(1 - 1e-9, n, discordant))) + 1)
    fewest, least = [], 0
    for c in losses:  # more losses take more gains
        while least + c <= n and paired_p(least, int(c), n, -margin) > 1 - confidence:
            least += 1
        fewest.append(least)

    def passes(difference: float) -> float:
        gain, loss = (discordant + difference) / 2, (discordant - difference) / 2
        enough = np.where(
            np.array(fewest) < 1,
            1.0,
            bdtrc(np.maximum(fewest, 1) - 1, n - losses, gain / (1 - loss)),
        )
        within = losses + fewest <= n
        return float((binom.pmf(losses, n, loss) * np.where(within, enough, 0.0)).sum())

    low, high = -min(margin, discordant), discordant
    if passes(high) < power:
        return None
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if passes(middle) >= power else (middle, high)
    return high
