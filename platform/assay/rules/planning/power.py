"""What a suite can show before anything is evaluated. scipy is not imported: `assay plan` has to be
quick."""

import math
from statistics import NormalDist

from assay.records.plan import LimitPlan
from assay.rules.statistics.power import Direction

# A limit is called shown when it is met in this share of all cases.
POWER = 0.8

# Share of the items that one of two models answers rightly and the other does not. It is not
# known before both have answered; the margin that can be shown grows with its square root.
ASSUMED_DISCORDANCE = 0.2

# The gain over another model that the items needed for `better_than` are counted for.
WORTHWHILE = 0.05

# Standard deviation of scores such as ROUGE-L, and of their differences between two models. It is
# not known before both have answered.
ASSUMED_SPREAD = 0.2

MOST_ITEMS = 1_000_000


def share_limit(
    task: str,
    requirement: str,
    *,
    num_items: int | None,
    limit: float,
    confidence: float,
    direction: Direction,
) -> LimitPlan:
    """A share against a fixed limit, decided by Clopper and Pearson's bound."""
    errors = limit if direction == "at_most" else 1 - limit
    half = errors / 2
    detectable, note = None, ""
    if num_items is not None:
        detectable = _detectable_errors(num_items, errors, confidence)
        if detectable is None:
            note = _too_few(num_items, errors, confidence)
        elif direction == "at_least":
            detectable = 1 - detectable
    return LimitPlan(
        task=task,
        requirement=requirement,
        num_items=num_items,
        detectable=detectable,
        num_items_needed=_items_for(half, errors, confidence) if 0 < errors < 1 else None,
        example=f"a true {half if direction == 'at_most' else 1 - half:.1%}",
        note=note,
    )


def difference_limit(
    task: str,
    requirement: str,
    *,
    num_items: int | None,
    margin: float,
    confidence: float,
    truth: float = 0.0,
) -> LimitPlan:
    """A difference to another model, item by item. `margin` is how far the bound may lie below 0
    (negative: must lie above it), `truth` the true difference that the items needed are counted
    for.

    Of n pairs of which a share q disagrees, the difference has a standard error of sqrt(q / n)
    where it is small: Connor, Biometrics 43 (1987), 207-211."""
    z = NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(POWER)
    gap = truth + margin
    return LimitPlan(
        task=task,
        requirement=requirement,
        num_items=num_items,
        detectable=z * math.sqrt(ASSUMED_DISCORDANCE / num_items) if num_items else None,
        num_items_needed=math.ceil(z**2 * ASSUMED_DISCORDANCE / gap**2) if gap > 0 else None,
        example="a true difference of 0" if truth == 0 else f"a true difference of {truth:+.1%}",
        note=f"if {ASSUMED_DISCORDANCE:.0%} of the items tell the two models apart",
    )


def score_limit(
    task: str,
    requirement: str,
    *,
    num_items: int | None,
    limit: float,
    confidence: float,
    direction: Direction,
) -> LimitPlan:
    """A mean score between 0 and 1, such as ROUGE-L, against a fixed limit."""
    sign = -1 if direction == "at_most" else 1
    gap = _score_gap(num_items, confidence) if num_items else None
    detectable = limit + sign * gap if gap is not None else None
    is_possible = detectable is not None and 0 <= detectable <= 1
    return LimitPlan(
        task=task,
        requirement=requirement,
        num_items=num_items,
        detectable=detectable if is_possible else None,
        num_items_needed=_items_for_gap(WORTHWHILE, confidence),
        example=f"a true mean of {min(1.0, max(0.0, limit + sign * WORTHWHILE)):.1%}",
        note=f"if scores spread by {ASSUMED_SPREAD:g}",
    )


def score_difference_limit(
    task: str,
    requirement: str,
    *,
    num_items: int | None,
    margin: float,
    confidence: float,
    truth: float = 0.0,
) -> LimitPlan:
    """The same for a difference of scores to another model; `margin` and `truth` as for
    `difference_limit`."""
    gap = truth + margin
    return LimitPlan(
        task=task,
        requirement=requirement,
        num_items=num_items,
        detectable=_score_gap(num_items, confidence) if num_items else None,
        num_items_needed=_items_for_gap(gap, confidence) if gap > 0 else None,
        example="a true difference of 0" if truth == 0 else f"a true difference of {truth:+.1%}",
        note=f"if the differences spread by {ASSUMED_SPREAD:g}",
    )


def unknown_limit(task: str, requirement: str, *, num_items: int | None, note: str) -> LimitPlan:
    """A limit of which nothing can be said before it is evaluated."""
    return LimitPlan(
        task=task,
        requirement=requirement,
        num_items=num_items,
        detectable=None,
        num_items_needed=None,
        example="",
        note=note,
    )


def share_needs(errors: float, confidence: float) -> int | None:
    """The fewest samples whose bound can come within a share of `errors` of the best, all of them
    being the best: (1 - errors)^n must not exceed 1 - confidence. None when no number can.

    Clopper and Pearson's bound, and so Gaffke's for scores between 0 and 1
    (`rules.statistics.means`)."""
    if errors <= 0:
        return None
    if errors >= 1:
        return 1
    return math.ceil(math.log(1 - confidence) / math.log(1 - errors))


def comparison_needs(margin: float, confidence: float) -> int | None:
    """The fewest pairs that can show a difference above -`margin`, every one of them being for the
    candidate: where the difference is -`margin`, at most a share of (1 - margin) / 2 of the pairs
    is. None when no number can."""
    most = (1 - margin) / 2
    if most >= 1:
        return None
    if most <= 0:
        return 1
    return math.ceil(math.log(1 - confidence) / math.log(most))


def quantile_needs(share: float, confidence: float) -> int:
    """The fewest measurements whose largest bounds a quantile from above: share^n <= 1 -
    confidence."""
    return math.ceil(math.log(1 - confidence) / math.log(share))


def binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) of n tries with chance p each: the regularized incomplete beta function I(1 - p; n
    - k, k + 1)."""
    if k < 0:
        return 0.0
    if k >= n:
        return 1.0
    return _beta_share(n - k, k + 1, 1 - p)


def _items_for_gap(gap: float, confidence: float) -> int:
    """Samples with which the bound of a mean lies within `gap` of it in `POWER` of all cases: as
    many as Student's bound takes, and ln(1/(1 - confidence)) / gap for Gaffke's, which reckons with
    one more sample, the worst there can be. `tests/test_plan_power.py` compares it with the bounds
    themselves."""
    z = NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(POWER)
    return math.ceil((z * ASSUMED_SPREAD / gap) ** 2 - math.log(1 - confidence) / gap)


def _score_gap(num_items: int, confidence: float) -> float:
    """The gap that so many samples bridge: the inverse of `_items_for_gap`."""
    z = NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(POWER)
    worst, spread = -math.log(1 - confidence), z * ASSUMED_SPREAD
    return (worst + math.sqrt(worst**2 + 4 * num_items * spread**2)) / (2 * num_items)


def _detectable_errors(n: int, limit: float, confidence: float) -> float | None:
    """The true share of errors at which so few are seen, in `POWER` of all cases, that their upper
    bound is within `limit`; None when even none would be too many."""
    allowed = _most_allowed(n, limit, confidence)
    if allowed is None:
        return None
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        if binomial_cdf(allowed, n, middle) > POWER:
            low, high = middle, high
        else:
            low, high = low, middle
    return low


def _most_allowed(n: int, limit: float, confidence: float) -> int | None:
    """Errors of n items whose upper Clopper-Pearson bound is within `limit`, at most: those with
    P(X <= k | limit) <= 1 - confidence."""
    if limit >= 1:
        return n
    low, high = -1, n  # `low` is allowed, `high` is not
    while high - low > 1:
        middle = (low + high) // 2
        if binomial_cdf(middle, n, limit) <= 1 - confidence:
            low, high = middle, high
        else:
            low, high = low, middle
    if low >= 0:
        return low
    return None


def _items_for(truth: float, limit: float, confidence: float) -> int | None:
    """About how many items show with `POWER` that a share of errors that is truly `truth` is within
    `limit`."""

    def is_enough(n: int) -> bool:
        shown = _detectable_errors(n, limit, confidence)
        return shown is not None and shown >= truth

    high = 1
    while not is_enough(high):
        high *= 2
        if high > MOST_ITEMS:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def _too_few(n: int, errors: float, confidence: float) -> str:
    """Why nothing can be shown: all n right still leaves too much doubt."""
    if errors <= 0:
        return "no number of items shows that there is no error at all"
    return (
        f"{n} items can never meet it; {share_needs(errors, confidence)} without a single error "
        "could"
    )


def _beta_share(a: float, b: float, x: float) -> float:
    """I(x; a, b) by Lentz's continued fraction (Press et al., Numerical Recipes, section 6.4)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _beta_share(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    total = d
    for m in range(1, 10_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + numerator * d or tiny)
            c = 1 + numerator / c or tiny
            total *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return front * total / a
