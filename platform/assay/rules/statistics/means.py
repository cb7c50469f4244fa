"""One-sided confidence bounds of a mean score, where items may come in clusters.

Two methods are computed, and the wider bound counts:

- **Clustered t**: the standard error that lets the items of a cluster depend on each other (Liang &
  Zeger,
  Biometrika 73 (1986), 13-22, with the factor G / (G - 1)), but never less than the one of
  independent items, and
  Student's quantile with G - 1 degrees of freedom for G clusters. For differences of paired scores
  this is the
  analysis of Miller, "Adding error bars to evals" (arXiv 2411.00640).
- **Gaffke's bound**: the clusters' weights are drawn from a flat Dirichlet distribution in which
  one more cluster,
  as large as the largest and as bad as a score can be, takes part; the bound is the quantile of the
  mean: a
  Bayesian bootstrap that reckons with the worst. On independent items that are 0 or 1 it is Clopper
  and Pearson's.
  It holds where Student's does not: for few clusters, for skewed scores, and when all scores are
  equal and the
  standard error is 0. Sources: Gaffke, Mathematical Methods of Statistics 14 (2005), 451-467;
  Learned-Miller &
  Thomas, arXiv 1905.06208. Nothing is drawn at random: the chance comes from a saddlepoint
  (Lugannani & Rice,
  Advances in Applied Probability 12 (1980), 475-490), so equal scores always have equal bounds.
"""

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray

# How exactly a bound is found.
TOLERANCE = 1e-7


@dataclass(frozen=True)
class MeanBounds:
    """A mean, and its one-sided bounds."""

    mean: float
    lower: float
    upper: float
    num_clusters: int


def mean_bounds(
    scores: Sequence[float],
    clusters: Sequence[Hashable] | None,
    confidence: float,
    *,
    lowest: float = 0.0,
    highest: float = 1.0,
) -> MeanBounds:
    """Bounds of the mean of `scores`, each of which lies between `lowest` and `highest`. `clusters`
    names each score's cluster; None when every score stands alone. The same scores always give the
    same bounds.

    Raises ValueError for scores that are no numbers or out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    if any(not lowest <= score <= highest for score in scores):
        raise ValueError(f"a score lies outside {lowest:g} to {highest:g}")
    if clusters is not None and len(clusters) != len(scores):
        raise ValueError(f"{len(scores)} scores, but {len(clusters)} cluster names")
    if not scores:
        return MeanBounds(math.nan, lowest, highest, 0)
    sums, sizes = _by_cluster(scores, clusters)
    mean = math.fsum(scores) / len(scores)
    reach = _t_reach(scores, sums, sizes, confidence)
    low = _gaffke_lower(sums, sizes, lowest, confidence)
    high = -_gaffke_lower(-sums, sizes, -highest, confidence)
    return MeanBounds(
        mean,
        max(lowest, min(mean - reach, low, mean)),
        min(highest, max(mean + reach, high, mean)),
        len(sums),
    )


def mean_p(
    scores: Sequence[float],
    clusters: Sequence[Hashable] | None,
    hypothesis: float,
    *,
    lowest: float = 0.0,
    highest: float = 1.0,
) -> float:
    """The p-value against the hypothesis that the true mean is no more than `hypothesis`: at
    confidence 1 - p the lower bound reaches it. 1 when there are no scores."""
    from scipy.special import stdtr

    if not scores or hypothesis <= lowest:
        if not scores:
            return 1.0
        return 0.0
    sums, sizes = _by_cluster(scores, clusters)
    of_gaffke = _gaffke_p(sums, sizes, lowest, hypothesis)
    if len(sums) < 2:
        return 1.0
    error, distance = (
        _standard_error(scores, sums, sizes),
        hypothesis - math.fsum(scores) / len(scores),
    )
    if error:
        of_student = float(stdtr(len(sums) - 1, distance / error))
    else:
        of_student = float(distance >= 0)
    return max(of_gaffke, of_student)


def items_needed_for_mean(n: int, observed: float, bound: float, threshold: float) -> int | None:
    """About how many items like these would bring `bound` to `threshold`: its distance from the
    mean shrinks with the square root of their number. None when the mean itself does not meet the
    threshold."""
    distance, room = observed - bound, observed - threshold
    if room * distance <= 0:
        return None
    return math.ceil(n * (distance / room) ** 2)


def _by_cluster(
    scores: Sequence[float], clusters: Sequence[Hashable] | None
) -> "tuple[NDArray[float64], NDArray[float64]]":
    """Sum and size of each cluster, in an order that does not depend on the items'."""
    import numpy as np

    if clusters is None:
        return np.sort(np.array(scores, dtype=float)), np.ones(len(scores))
    members: dict[Hashable, list[float]] = {}
    for index, score in enumerate(scores):
        members.setdefault(clusters[index], []).append(score)
    rows = sorted((math.fsum(found), len(found)) for found in members.values())
    totals = np.array([total for total, _ in rows])
    sizes = np.array([float(size) for _, size in rows])
    return totals, sizes


def _t_reach(
    scores: Sequence[float],
    sums: "NDArray[float64]",
    sizes: "NDArray[float64]",
    confidence: float,
) -> float:
    """How far Student's bound lies from the mean; infinite for a single cluster."""
    from scipy.special import stdtrit

    if len(sums) < 2:
        return math.inf
    return float(stdtrit(len(sums) - 1, confidence)) * _standard_error(scores, sums, sizes)


def _standard_error(
    scores: Sequence[float], sums: "NDArray[float64]", sizes: "NDArray[float64]"
) -> float:
    """Of the mean: the clusters', or the independent items' where that is greater."""
    import numpy as np

    n, num_clusters = len(scores), len(sums)
    mean = math.fsum(scores) / n
    between = math.fsum((sums - mean * sizes) ** 2)
    among = math.fsum((np.sort(np.array(scores)) - mean) ** 2)
    clustered = math.sqrt(num_clusters / (num_clusters - 1) * between) / n
    return max(clustered, math.sqrt(n / (n - 1) * among) / n)


def _gaffke_lower(
    sums: "NDArray[float64]", sizes: "NDArray[float64]", lowest: float, confidence: float
) -> float:
    """The mean that lies under the true one but for a chance of 1 - `confidence`."""
    from scipy.optimize import brentq

    mean = float(sums.sum() / sizes.sum())

    def too_likely(hypothesis: float) -> float:
        return _gaffke_p(sums, sizes, lowest, hypothesis) - (1 - confidence)

    if mean - lowest <= TOLERANCE or too_likely(mean) <= 0:
        return mean
    found = float(brentq(too_likely, lowest, mean, xtol=TOLERANCE))
    return max(lowest, found - TOLERANCE)  # on the safe side of what was found


def _gaffke_p(
    sums: "NDArray[float64]", sizes: "NDArray[float64]", lowest: float, mean: float
) -> float:
    """The chance that the randomly weighted mean of the clusters, with a worst one added, is no
    more than `mean`."""
    import numpy as np

    # The weights are exponential variables over their sum, so the chance is that of sum(weight *
    # excess) <= 0.
    excess = np.append(sums - mean * sizes, sizes.max() * (lowest - mean))
    if excess.max() <= 0:
        return 1.0
    if excess.min() >= 0:
        return 0.0
    point = _saddlepoint(excess)
    distance = math.copysign(math.sqrt(max(0.0, 2 * float(np.log1p(-point * excess).sum()))), point)
    slope = point * math.sqrt(float(((excess / (1 - point * excess)) ** 2).sum()))
    if abs(distance) < 1e-4:
        return 0.5  # in the middle the formula divides by nothing, and no bound is sought there
    normal = NormalDist()
    return min(
        1.0, max(0.0, normal.cdf(distance) + normal.pdf(distance) * (1 / distance - 1 / slope))
    )


def _saddlepoint(excess: "NDArray[float64]") -> float:
    """Where the derivative of the cumulant generating function of sum(weight * excess) is 0:
    Newton's steps, held inside the interval in which the function lives."""
    low, high = 1 / float(excess.min()), 1 / float(excess.max())
    point = 0.0
    for _ in range(100):
        terms = excess / (1 - point * excess)
        slope, bend = float(terms.sum()), float(terms @ terms)
        low, high = (point, high) if slope < 0 else (low, point)
        step = point - slope / bend
        step = step if low < step < high else (low + high) / 2
        if abs(step - point) <= 1e-12 * (abs(low) + abs(high)):
            return step
        point = step
    return point
