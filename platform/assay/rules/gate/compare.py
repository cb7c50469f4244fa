"""Two models that answered the same items: who is better, by how much, and how sure that is.

The bounds are those of the gate's own comparisons (`rules.gate`): exact for shares and ordered by
Tango's score, and of paired and clustered means for other scores. They are made two-sided, so that
two equal models are told apart in 1 - confidence of all cases and not in twice as many.
"""

from assay.records.evaluations.comparison import ComparedLimit, Side
from assay.records.gate import Evaluation, LimitResult
from assay.rules.gate.verdict import evaluate_limits
from assay.spec.gate import Limit, SuiteSpec
from assay.spec.values.metrics import CORPUS_WIDE

# Confidence is not told beyond this.
SUREST = 0.9999

SEARCH_STEPS = 12


def compare(
    suite: SuiteSpec, first: Evaluation, second: Evaluation, confidence: float
) -> tuple[ComparedLimit, ...]:
    """Every metric that the suite limits, each once, in its order."""
    metrics = {}
    for task, limits in suite.limits.items():
        for limit in limits:
            metrics[(task, limit.metric)] = limit
    compared = []
    for (task, _), limit in metrics.items():
        compared.append(_compare(suite, task, limit, first, second, confidence))
    return tuple(compared)


def _compare(
    suite: SuiteSpec,
    task: str,
    limit: Limit,
    first: Evaluation,
    second: Evaluation,
    confidence: float,
) -> ComparedLimit:
    if limit.metric in CORPUS_WIDE:
        return _incomparable(task, limit.metric, f"{limit.metric} belongs to no single sample")
    one_sided = (1 + confidence) / 2
    found = _better(suite, task, limit, first, second, one_sided)
    if found.observed is None or found.lower is None or found.upper is None:
        return _incomparable(task, limit.metric, found.reason)
    back = _better(suite, task, limit, second, first, one_sided)
    sides: tuple[tuple[Side, LimitResult, Evaluation, Evaluation], ...] = (
        ("A", found, first, second),
        ("B", back, second, first),
    )
    winner = next((side for side, result, _, _ in sides if result.outcome == "PASS"), None)
    sure = max(_sureness(suite, task, limit, ours, theirs) for _, _, ours, theirs in sides)
    return ComparedLimit(
        task=task,
        metric=limit.metric,
        num_items=found.num_items,
        first=back.base_observed,
        second=found.base_observed,
        difference=found.observed,
        lower=found.lower,
        upper=found.upper,
        method=found.method,
        winner=winner,
        confidence=sure or None,
        reason="",
    )


def _better(
    suite: SuiteSpec,
    task: str,
    limit: Limit,
    ours: Evaluation,
    theirs: Evaluation,
    confidence: float,
) -> LimitResult:
    """The gate's finding on the claim that `ours` is better than `theirs`."""
    claim = Limit(metric=limit.metric, better_than="base", range=limit.range)
    alone = suite.model_copy(update={"limits": {task: (claim,)}, "improvements": "all"})
    return evaluate_limits(alone, ours, theirs, confidence=confidence)[0]


def _sureness(
    suite: SuiteSpec, task: str, limit: Limit, ours: Evaluation, theirs: Evaluation
) -> float:
    """The highest two-sided confidence of that claim; 0 where there is none."""

    def holds(two_sided: float) -> bool:
        return _better(suite, task, limit, ours, theirs, (1 + two_sided) / 2).outcome == "PASS"

    if holds(SUREST):
        return SUREST
    low, high = 0.0, SUREST
    for _ in range(SEARCH_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _incomparable(task: str, metric: str, reason: str) -> ComparedLimit:
    return ComparedLimit(
        task=task,
        metric=metric,
        num_items=0,
        first=None,
        second=None,
        difference=None,
        lower=None,
        upper=None,
        method="",
        winner=None,
        confidence=None,
        reason=reason,
    )
