"""The gate's decision: every limit of a suite against what was seen.

A limit is decided by bounds. It is PASS when the one-sided confidence bound meets it, FAIL when even the
opposite bound cannot, and INCONCLUSIVE otherwise, which never lets a candidate through.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from assay.records.gate import Item, LimitResult, Outcome, TaskResult, Weighing
from assay.rules.intervals import clopper_pearson_lower, clopper_pearson_upper, tango_lower
from assay.rules.power import Direction, items_needed, pairs_needed
from assay.spec.gate import Limit, SuiteSpec

LOWER_IS_BETTER = ("hallucination_rate", "over_abstention")
"""Metrics counted from the per-item score `abstained`. Every other metric is the share of items whose
score of that name is 1, and higher is better."""


def weigh_limits(suite: SuiteSpec, candidate: Weighing, base: Weighing | None) -> tuple[LimitResult, ...]:
    """Decide every limit of the suite, in its order. What cannot be read (a task that was not weighed, a
    score that is missing or neither 0 nor 1, items that differ) is INCONCLUSIVE, with the reason.

    For `no_worse_than`, `observed`, `bound` and `limit` are differences, candidate minus base: the bound
    must reach -margin, or stay under +margin where lower is better.
    """
    return tuple(
        _decide(task, limit, suite.confidence, candidate, base)
        for task, limits in suite.limits.items()
        for limit in limits
    )


def overall(results: Sequence[LimitResult]) -> Outcome:
    """The verdict: hard limits alone decide, and without any there is nothing to pass."""
    outcomes = {result.outcome for result in results if result.level == "hard"}
    if "FAIL" in outcomes:
        return "FAIL"
    return "PASS" if outcomes == {"PASS"} else "INCONCLUSIVE"


class _NoEvidence(Exception):
    """There is nothing to decide on; the message says why."""


@dataclass(frozen=True)
class _Marks:
    """One task on one model: for each item whether the event that the metric counts happened."""

    events: dict[str, bool]
    task_digest: str

    @property
    def count(self) -> int:
        return sum(self.events.values())

    @property
    def share(self) -> float:
        return self.count / len(self.events)


@dataclass(frozen=True)
class _Finding:
    """What a limit comes to."""

    outcome: Outcome
    reason: str
    num_items: int = 0
    observed: float | None = None
    bound: float | None = None
    base_observed: float | None = None


def _decide(task: str, limit: Limit, confidence: float, candidate: Weighing, base: Weighing | None) -> LimitResult:
    weigh = _weigh_share if limit.no_worse_than is None else _weigh_difference
    try:
        finding = weigh(task, limit, confidence, candidate, base)
    except _NoEvidence as why:
        num_items = sum(len(_distinct(found)) for found in candidate.tasks if found.task == task)
        finding = _Finding("INCONCLUSIVE", str(why), num_items)
    return LimitResult(
        task=task,
        metric=limit.metric,
        requirement=_requirement(limit),
        level=limit.level,
        outcome=finding.outcome,
        num_items=finding.num_items,
        observed=finding.observed,
        bound=finding.bound,
        limit=_threshold(limit),
        base_observed=finding.base_observed,
        reason=finding.reason,
    )


def _requirement(limit: Limit) -> str:
    """The limit in words."""
    if limit.margin is not None:
        return f"<= base + {limit.margin:.1%}" if limit.metric in LOWER_IS_BETTER else f">= base - {limit.margin:.1%}"
    return f"<= {limit.at_most:.1%}" if limit.at_most is not None else f">= {limit.at_least:.1%}"


def _threshold(limit: Limit) -> float:
    """The number that the bound is compared with."""
    if limit.margin is not None:
        return limit.margin if limit.metric in LOWER_IS_BETTER else 0.0 - limit.margin
    threshold = limit.at_most if limit.at_most is not None else limit.at_least
    assert threshold is not None  # the spec sees to it
    return threshold


def _weigh_share(task: str, limit: Limit, confidence: float, candidate: Weighing, base: Weighing | None) -> _Finding:
    """Clopper-Pearson bounds of one proportion against a fixed limit."""
    marks = _read(candidate, task, limit.metric, "the candidate")
    threshold = _threshold(limit)
    direction: Direction = "at_most" if limit.at_most is not None else "at_least"
    k, n = marks.count, len(marks.events)
    lower, upper = clopper_pearson_lower(k, n, confidence), clopper_pearson_upper(k, n, confidence)
    if direction == "at_most":
        outcome = _outcome(met=upper <= threshold, excluded=lower > threshold)
        bound, opposite, wish = upper, ("at least", lower), "allowed"
    else:
        outcome = _outcome(met=lower >= threshold, excluded=upper < threshold)
        bound, opposite, wish = lower, ("at most", upper), "required"
    words, shown = opposite if outcome == "FAIL" else (direction.replace("_", " "), bound)
    shown_text, limit_text = _percents(shown, threshold)
    reason = f"{k} of {n} items; with {100 * confidence:g}% confidence {words} {shown_text}, {wish} {limit_text}"
    if outcome == "INCONCLUSIVE":
        reason += _more_items(items_needed(marks.share, threshold, confidence, direction))
    return _Finding(outcome, reason, n, marks.share, bound, _base_share(base, task, limit.metric, marks))


def _weigh_difference(
    task: str, limit: Limit, confidence: float, candidate: Weighing, base: Weighing | None
) -> _Finding:
    """Tango's bounds of the difference to the base model, item by item."""
    ours = _read(candidate, task, limit.metric, "the candidate")
    if base is None:
        raise _NoEvidence("the base model was not weighed, so there is nothing to compare with")
    theirs = _read(base, task, limit.metric, "the base model")
    _check_pairing(ours, theirs)
    threshold, lower_is_better = _threshold(limit), limit.metric in LOWER_IS_BETTER
    n = len(ours.events)
    more = sum(event and not theirs.events[item] for item, event in ours.events.items())
    fewer = sum(theirs.events[item] and not event for item, event in ours.events.items())
    better, worse = (fewer, more) if lower_is_better else (more, fewer)

    lower, upper = tango_lower(better, worse, n, confidence), -tango_lower(worse, better, n, confidence)
    margin = abs(threshold)
    outcome = _outcome(met=lower >= -margin, excluded=upper < -margin)
    sign = -1 if lower_is_better else 1
    shown = sign * (upper if outcome == "FAIL" else lower)
    words = "at most" if (outcome == "FAIL") != lower_is_better else "at least"
    shown_text, limit_text = _percents(shown, threshold, sign="+")
    reason = (
        f"{ours.count} of {n} items, base model {theirs.count} ({better} better, {worse} worse); with "
        f"{100 * confidence:g}% confidence the difference is {words} {shown_text}, allowed {limit_text}"
    )
    if outcome == "INCONCLUSIVE":
        reason += _more_items(pairs_needed(better, worse, n, margin, confidence))
    return _Finding(outcome, reason, n, (more - fewer) / n, sign * lower, theirs.share)


def _outcome(*, met: bool, excluded: bool) -> Outcome:
    if excluded:
        return "FAIL"
    return "PASS" if met else "INCONCLUSIVE"


def _read(weighing: Weighing, task: str, metric: str, whose: str) -> _Marks:
    """The marks of a task; _NoEvidence when there are none to trust."""
    found = [result for result in weighing.tasks if result.task == task]
    if len(found) != 1:
        raise _NoEvidence(f"task {task} was {'weighed twice' if found else 'not weighed'} on {whose}")
    items = _distinct(found[0])
    if not items:
        raise _NoEvidence(f"task {task} has no items on {whose}")
    score = "abstained" if metric in LOWER_IS_BETTER else metric
    values = [item.scores[score] for item in items if score in item.scores]
    if len(values) < len(items):
        known = ", ".join(sorted({name for item in items for name in item.scores})) or "none"
        missing = len(items) - len(values)
        raise _NoEvidence(f"{missing} of {len(items)} items have no score {score} on {whose}; there is: {known}")
    if strange := sum(value not in (0, 1) for value in values):  # NaN is in no tuple of numbers
        raise _NoEvidence(f"{strange} of {len(items)} items have a score {score} on {whose} that is neither 0 nor 1")
    counted = 0 if metric == "hallucination_rate" else 1
    events = {item.id: value == counted for item, value in zip(items, values, strict=True)}
    return _Marks(events, found[0].digest)


def _distinct(result: TaskResult) -> list[Item]:
    """The items, each once: a question asked twice is no more evidence than asked once. Its first
    answer counts."""
    return list({item.id: item for item in reversed(result.items)}.values())[::-1]


def _check_pairing(ours: _Marks, theirs: _Marks) -> None:
    """Pairs need the same task and the same items on both sides."""
    if ours.task_digest != theirs.task_digest:
        raise _NoEvidence("the base model was weighed on another version of the task")
    lacking, surplus = ours.events.keys() - theirs.events.keys(), theirs.events.keys() - ours.events.keys()
    if lacking or surplus:
        raise _NoEvidence(
            f"the items differ: {len(lacking)} of the candidate's {len(ours.events)} are missing on the base model, "
            f"{len(surplus)} of the base model's {len(theirs.events)} on the candidate"
        )


def _base_share(base: Weighing | None, task: str, metric: str, ours: _Marks) -> float | None:
    """The base model's share, where it was weighed on the same items."""
    if base is None:
        return None
    try:
        theirs = _read(base, task, metric, "the base model")
        _check_pairing(ours, theirs)
    except _NoEvidence:
        return None
    return theirs.share


def _percents(shown: float, threshold: float, sign: Literal["", "+"] = "") -> tuple[str, str]:
    """Both as percentages, with as many digits as it takes to tell them apart."""
    for digits in (1, 2, 3, 4):
        texts = f"{shown:{sign}.{digits}%}", f"{threshold:{sign}.{digits}%}"
        if texts[0] != texts[1] or shown == threshold:
            break
    return texts


def _more_items(needed: int | None) -> str:
    if needed is None:
        return "; more items would not settle it at this share"
    return f"; about {needed:,} items would settle it at this share"
