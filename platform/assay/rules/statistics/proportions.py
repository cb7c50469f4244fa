"""One-sided confidence bounds: exact for one proportion, by score for a difference of paired
proportions."""

import math
from statistics import NormalDist


def clopper_pearson_lower(successes: int, n: int, confidence: float) -> float:
    """The exact lower bound of a proportion: at this rate, as many successes or more would be seen
    with probability 1 - `confidence`. 0 when nothing was seen.

    Raises ValueError for impossible counts. Source: Clopper & Pearson, Biometrika 26 (1934),
    404-413.
    """
    _check_counts(n, confidence, successes)
    if successes == 0:
        return 0.0
    from scipy.special import betaincinv

    return float(betaincinv(successes, n - successes + 1, 1 - confidence))


def clopper_pearson_upper(successes: int, n: int, confidence: float) -> float:
    """The exact upper bound of a proportion: at this rate, as few successes or fewer would be seen
    with probability 1 - `confidence`. 1 when nothing was seen.

    Raises ValueError for impossible counts. Source: Clopper & Pearson, Biometrika 26 (1934),
    404-413.
    """
    _check_counts(n, confidence, successes)
    if successes == n:
        return 1.0
    from scipy.special import betaincinv

    return float(betaincinv(successes + 1, n - successes, confidence))


def tango_lower(b: int, c: int, n: int, confidence: float) -> float:
    """The lower score bound of the difference p_candidate - p_base over `n` items that both
    answered.

    `b` items were right for the candidate only, `c` for the base only. The upper bound is
    `-tango_lower(c, b, n, confidence)`. Without any discordance the bound is -z² / (n + z²), so a
    few items that agree prove little. -1 when there are no items.

    Raises ValueError for impossible counts. Source: Tango, Statistics in Medicine 17 (1998),
    891-908.
    """
    _check_counts(n, confidence, b, c)
    if n == 0:
        return -1.0
    z = NormalDist().inv_cdf(confidence)
    low, high = -1.0, 1.0  # the score falls from above z to below it in between
    while low < (middle := (low + high) / 2) < high:
        if tango_score(b, c, n, middle) > z:
            low = middle
        else:
            high = middle
    return low


def tango_score(b: int, c: int, n: int, difference: float) -> float:
    """The score statistic against the hypothesis that p_candidate - p_base is `difference`; it
    falls as `difference` rises, and is McNemar's (b - c) / sqrt(b + c) at 0.

    Source: Tango (1998), equations 24 to 26, with `difference` for the paper's -Δ.
    """
    surplus = b - c - n * difference
    variance = n * (2 * _base_only(b, c, n, difference) + difference * (1 - difference))
    if variance <= 0:
        if surplus:
            return math.copysign(math.inf, surplus)
        return 0.0
    return surplus / math.sqrt(variance)


def _base_only(b: int, c: int, n: int, difference: float) -> float:
    """The likeliest share of items right for the base only, given `difference`: the larger root of
    2n q² + linear q - product = 0, held to the values that a probability can have."""
    linear = (2 * n - b + c) * difference - b - c
    product = c * difference * (1 - difference)
    root = math.sqrt(max(0.0, linear**2 + 8 * n * product))
    # Two forms of one root: each is used where it does not subtract nearly equal numbers.
    if linear <= 0:
        q = (root - linear) / (4 * n)
    else:
        q = 2 * product / (root + linear)
    return min(max(q, 0.0, -difference), (1 - difference) / 2)


def _check_counts(n: int, confidence: float, *parts: int) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    if n < 0 or min(parts) < 0 or sum(parts) > n:
        raise ValueError(f"impossible counts: {' and '.join(map(str, parts))} of {n}")
