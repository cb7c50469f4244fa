"""One-sided confidence bounds of a quantile, from order statistics alone."""

import math
from collections.abc import Sequence


def quantile_upper(values: Sequence[float], share: float, confidence: float) -> float:
    """The smallest of the values that lies above the quantile at `share` with `confidence`,
    whatever their distribution; infinite when there are too few: 59 for the 95th percentile at 95%,
    299 for the 99th.

    Source: Hahn & Meeker, Statistical Intervals (1991), section 5.2.
    """
    from scipy.stats import binom

    if not values:
        return math.inf
    # The k-th smallest lies below the quantile only if k or more values do.
    rank = int(binom.ppf(confidence, len(values), share)) + 1
    if rank <= len(values):
        return sorted(values)[rank - 1]
    return math.inf


def quantile_lower(values: Sequence[float], share: float, confidence: float) -> float:
    """The largest of the values that lies below the quantile at `share` with `confidence`; minus
    infinity when there are too few."""
    return -quantile_upper([-value for value in values], 1 - share, confidence)


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that a `share` of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
