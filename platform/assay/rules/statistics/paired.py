"""The difference of paired proportions, at its true error.

Tango's score interval is close to what it says, but at the margin it lets through up to 5.8 %
instead of 5 % for some shares of discordant pairs (n = 100, margin 10 points). So its ordering of
results is kept, and the chance of a result as good or better is taken exactly, at the least
favourable share of discordant pairs: an unconditional exact test. Sources: Hsueh, Liu & Chen,
Biometrics 57 (2001), 478-483; Sidik, Statistics in Medicine 22 (2003), 265-278.
"""

import math
from functools import lru_cache
from typing import TYPE_CHECKING

from assay.rules.statistics.proportions import tango_lower, tango_score

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

# Above this many pairs Tango's interval stands alone; it errs by some tenths of a point of
# confidence at most.
MOST_EXACT = 3_000

# Shares of discordant pairs at which the chance is taken.
NUM_SHARES = 96

# A chance that is left out of the sum.
NEGLIGIBLE = 1e-15

# How exactly the bound is found.
TOLERANCE = 1e-5


@lru_cache(maxsize=4096)
def paired_lower(b: int, c: int, n: int, confidence: float) -> float:
    """The lower bound of the difference p_candidate - p_base over `n` items that both answered:
    never above Tango's, and never exceeding the true difference more often than in 1 - `confidence`
    of all cases.

    `b` items were right for the candidate only, `c` for the base only. The upper bound is
    `-paired_lower(c, b, n, confidence)`. Raises ValueError for impossible counts.
    """
    bound = tango_lower(b, c, n, confidence)
    if n == 0 or n > MOST_EXACT or paired_p(b, c, n, bound) <= 1 - confidence:
        return bound
    step, low = TOLERANCE, bound
    while low > -1 and paired_p(b, c, n, low) > 1 - confidence:
        low, step = max(-1.0, low - step), 2 * step
    high = min(bound, low + step)
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        if paired_p(b, c, n, middle) > 1 - confidence:
            high = middle
        else:
            low = middle
    return low


def paired_p(b: int, c: int, n: int, difference: float) -> float:
    """The chance of a score as high as Tango's for this result, or higher, when the true difference
    is `difference`: the largest over all shares of discordant pairs that are possible with it."""
    import numpy as np
    from scipy.special import bdtrc, gammaln, xlogy

    if abs(difference) >= 1:
        if tango_score(b, c, n, difference) <= 0:
            return 1.0
        return 0.0
    fewest = _fewest_gains(n, difference, tango_score(b, c, n, difference))
    smallest = abs(difference)
    shares = smallest + (1 - smallest) * (np.arange(NUM_SHARES) / (NUM_SHARES - 1)) ** 2
    shares = np.maximum(shares, 1e-12)[:, None]
    gain, loss = (shares + difference) / 2, (shares - difference) / 2
    # Losses are binomial, and gains are binomial among the items that are no losses.
    losses = np.arange(n + 1)
    log_count = gammaln(n + 1) - gammaln(losses + 1) - gammaln(n - losses + 1)
    chance = np.exp(log_count + xlogy(losses, loss) + xlogy(n - losses, 1 - loss))
    row, column = np.nonzero((chance > NEGLIGIBLE) & (fewest <= n - losses))
    among_rest = np.where(loss < 1, gain / np.where(loss < 1, 1 - loss, 1), 1.0).clip(0, 1)
    least = fewest[column]
    enough = np.where(
        least < 1, 1.0, bdtrc(np.maximum(least - 1, 0), n - losses[column], among_rest[row, 0])
    )
    return float(np.bincount(row, chance[row, column] * enough, NUM_SHARES).max())


def _fewest_gains(n: int, difference: float, score: float) -> "NDArray[float64]":
    """For each number of losses, 0 to n, the fewest gains with which Tango's score is at least
    `score`; one more than there can be where none is enough."""
    import numpy as np

    losses = np.arange(n + 1.0)
    low, high = np.full(n + 1, -1.0), n - losses + 1  # the score rises with the gains
    for _ in range(math.ceil(math.log2(n + 2)) + 1):
        middle = np.floor((low + high) / 2)
        enough = _scores(middle, losses, n, difference) >= score - 1e-9
        inside = high - low > 1
        high, low = np.where(inside & enough, middle, high), np.where(inside & ~enough, middle, low)
    return high


def _scores(
    gains: "NDArray[float64]", losses: "NDArray[float64]", n: int, difference: float
) -> "NDArray[float64]":
    """`tango_score` for many results at once."""
    import numpy as np

    linear = (2 * n - gains + losses) * difference - gains - losses
    product = losses * difference * (1 - difference)
    root = np.sqrt(np.maximum(0.0, linear**2 + 8 * n * product))
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(linear <= 0, (root - linear) / (4 * n), 2 * product / (root + linear))
    share = np.clip(share, max(0.0, -difference), (1 - difference) / 2)
    surplus = gains - losses - n * difference
    variance = n * (2 * share + difference * (1 - difference))
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = surplus / np.sqrt(np.maximum(variance, 0.0))
    return np.where(variance > 0, scores, np.where(surplus == 0, 0.0, np.copysign(np.inf, surplus)))
