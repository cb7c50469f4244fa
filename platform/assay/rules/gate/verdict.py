"""The gate's decision: every limit of a suite against what was seen.

A limit is decided by bounds. It is PASS when the one-sided confidence bound meets it, FAIL when
even the opposite bound cannot, and INCONCLUSIVE otherwise, which never lets a candidate through.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from assay.records.gate import (
    Evaluation,
    LimitResult,
    Outcome,
    Reference,
    Sample,
    SliceResult,
    TaskResult,
)
from assay.rules.gate.answers import is_right, score_of
from assay.rules.gate.early_stopping import ABSTENTION_METRICS, can_stop, completed
from assay.rules.statistics.calibration import calibration_bounds
from assay.rules.statistics.macro_f1 import macro_f1_bounds
from assay.rules.statistics.means import items_needed_for_mean, mean_bounds
from assay.rules.statistics.paired import paired_lower
from assay.rules.statistics.power import Direction, items_needed, pairs_needed
from assay.rules.statistics.proportions import clopper_pearson_lower, clopper_pearson_upper
from assay.spec.gate import Limit, SuiteSpec
from assay.spec.values.metrics import CORPUS_WIDE, METRICS, RIGHT
from assay.text import normalized, without_punctuation

MADE_OF = {"ece": "confidence", "macro_f1": "exact_match"}
"""The score of each sample that a metric of all samples is made of."""
LOWER_IS_BETTER = tuple(metric.name for metric in METRICS if metric.lower_is_better)
"""Metrics of which less is better; a task's file may name others. Of every other one more is
better."""

IMPROVEMENTS = "improvements"
"""The family of the `better_than` limits of which any one is enough."""

NAMES: dict[Reference, str] = {"base": "base model", "champion": "champion"}

References = Mapping[Reference, Evaluation]


def evaluate_limits(
    suite: SuiteSpec,
    candidate: Evaluation,
    base: Evaluation | None,
    champion: Evaluation | None = None,
    *,
    confidence: float | None = None,
) -> tuple[LimitResult, ...]:
    """Decide every limit of the suite's tasks, in its order; `confidence` is the suite's when not
    said. What cannot be read (a task that was not evaluated, an item without an answer, a score
    that is missing or no number, items that differ) is INCONCLUSIVE, with the reason.

    For `no_worse_than` and `better_than`, `observed`, `bound` and `limit` are differences,
    candidate minus the other: the bound must reach -margin (exceed +margin), or, where lower is
    better, stay under +margin (-margin).
    """
    evaluated: dict[Reference, Evaluation] = {}
    if base is not None:
        evaluated["base"] = base
    if champion is not None:
        evaluated["champion"] = champion
    case = _Case(suite, candidate, evaluated)
    level = suite.confidence if confidence is None else confidence
    claims = [(task, limit) for task, limit in case.limits if _stands_for_others(suite, limit)]
    confidences = _holm(
        claims, level, lambda claim, at: _decide(case, *claim, at).outcome == "PASS"
    )
    return tuple(
        _decide(case, task, limit, confidences[id(limit)], IMPROVEMENTS)
        if id(limit) in confidences
        else _decide(case, task, limit, level)
        for task, limit in case.limits
    )


def overall(results: Sequence[LimitResult]) -> Outcome:
    """The verdict: hard limits alone decide, and without any there is nothing to pass. Of a family,
    one limit that is met is enough, and it fails only when all of it fails."""
    hard = [result for result in results if result.level == "hard"]
    outcomes = {result.outcome for result in hard if result.family is None}
    for family in {result.family for result in hard if result.family is not None}:
        of_family = {result.outcome for result in hard if result.family == family}
        outcomes.add(
            "PASS" if "PASS" in of_family else "FAIL" if of_family == {"FAIL"} else "INCONCLUSIVE"
        )
    if "FAIL" in outcomes:
        return "FAIL"
    if outcomes == {"PASS"}:
        return "PASS"
    return "INCONCLUSIVE"


def is_settled(
    suite: SuiteSpec,
    result: TaskResult,
    base: Evaluation | None,
    champion: Evaluation | None,
    *,
    confidence: float,
) -> bool:
    """Whether every limit of a task, which the candidate has answered in part, has the same outcome
    whatever the other answers are. A task that may not be stopped early, or with an item that the
    server has failed, is never settled."""
    if not can_stop(suite, result.task) or any(item.error is not None for item in result.items):
        return False
    candidate = Evaluation.model_construct(
        artifact_digest="", model_name="", tasks=(result,), seconds=0.0
    )
    alone = suite.model_copy(update={"limits": {result.task: suite.limits[result.task]}})
    decided = evaluate_limits(alone, candidate, base, champion, confidence=confidence)
    return all(
        limit.bound is not None for limit in decided
    )  # without a bound there was no evidence


@dataclass(frozen=True)
class _Case:
    """All that a decision is made of."""

    suite: SuiteSpec
    candidate: Evaluation
    references: References

    @property
    def limits(self) -> list[tuple[str, Limit]]:
        return [(task, limit) for task, limits in self.suite.limits.items() for limit in limits]

    def unasked(self, task: str) -> int:
        """How many of the task's items the candidate was not asked."""
        return sum(len(found.unasked) for found in self.candidate.tasks if found.task == task)

    def asked_alone(self, task: str) -> "_Case":
        """As if there were no other items than those that the candidate was asked."""
        ids = {
            item.id for found in self.candidate.tasks if found.task == task for item in found.items
        }

        def cut(evaluation: Evaluation) -> Evaluation:
            tasks = (
                found.model_copy(
                    update={
                        "items": tuple(item for item in found.items if item.id in ids),
                        "unasked": (),
                    }
                )
                for found in evaluation.tasks
                if found.task == task
            )
            return evaluation.model_copy(update={"tasks": tuple(tasks)})

        return _Case(
            self.suite,
            cut(self.candidate),
            {name: cut(found) for name, found in self.references.items()},
        )

    def completed(self, task: str, metric: str, value: float) -> "_Case":
        """As if every other answer had this score."""
        tasks = tuple(
            completed(found, metric, value) for found in self.candidate.tasks if found.task == task
        )
        return replace(self, candidate=self.candidate.model_copy(update={"tasks": tasks}))


class _NoEvidence(Exception):
    """There is nothing to decide on; the message says why."""


@dataclass(frozen=True)
class _Scored:
    """One task on one model: each item's score, and what it counts as evidence together with."""

    values: dict[str, float]
    clusters: dict[str, str]
    task_digest: str
    lowest: float
    highest: float
    lower_is_better: bool

    @property
    def is_share(self) -> bool:
        """Whether every item stands alone and its score is 0 or 1: then there are exact counts."""
        return len(set(self.clusters.values())) == len(self.values) and set(
            self.values.values()
        ) <= {0.0, 1.0}

    @property
    def total(self) -> float:
        return sum(self.values.values())

    @property
    def mean(self) -> float:
        return self.total / len(self.values)


@dataclass(frozen=True)
class _Bounds:
    """What was seen of a share, a score or a difference, and how far it can be trusted."""

    observed: float
    lower: float
    upper: float
    method: str
    seen: str
    """In words, such as `87 of 90 items`."""
    num_clusters: int | None = None
    unit: Literal["share", "score"] = "score"


@dataclass(frozen=True)
class _Finding:
    """What a limit comes to."""

    outcome: Outcome
    reason: str
    bounds: _Bounds | None
    num_items: int
    shown: Literal["lower", "upper"] = "lower"
    means: Mapping[Reference, float | None] | None = None
    slices: tuple[SliceResult, ...] = ()
    without_floor: Outcome | None = None
    """What the comparison alone would say."""


def _stands_for_others(suite: SuiteSpec, limit: Limit) -> bool:
    return suite.improvements == "any" and limit.better_than is not None and limit.level == "hard"


def _holm(
    claims: Sequence[tuple[str, Limit]],
    confidence: float,
    passes: Callable[[tuple[str, Limit], float], bool],
) -> dict[int, float]:
    """The confidence at which each claim is decided, by the limit's identity: the whole error is
    shared by the claims that are not proven yet, until no more of them pass.

    Source: Holm, Scandinavian Journal of Statistics 6 (1979), 65-70.
    """
    confidences: dict[int, float] = {}
    left = list(claims)
    while left:
        at = 1 - (1 - confidence) / len(left)
        proven = [claim for claim in left if passes(claim, at)]
        confidences |= {id(limit): at for _, limit in proven or left}
        left = [claim for claim in left if claim not in proven] if proven else []
    return confidences


def _decide(
    case: _Case, task: str, limit: Limit, confidence: float, family: str | None = None
) -> LimitResult:
    num_unasked = case.unasked(task)
    try:
        finding = (_evaluate_part if num_unasked else _evaluate)(case, task, limit, confidence)
    except _NoEvidence as why:
        num_items = sum(
            len(_distinct(found)) for found in case.candidate.tasks if found.task == task
        )
        finding = _Finding("INCONCLUSIVE", str(why), None, num_items)
    bounds, means = finding.bounds, finding.means or {}
    lower_is_better = _lower_is_better(case, task, limit.metric)
    note = next(
        (found.notes.get(limit.metric) for found in case.candidate.tasks if found.task == task),
        None,
    )
    return LimitResult(
        task=task,
        metric=limit.metric,
        requirement=_requirement(limit, lower_is_better),
        level=limit.level,
        outcome=finding.outcome,
        num_items=finding.num_items,
        observed=bounds.observed if bounds else None,
        bound=getattr(bounds, finding.shown) if bounds else None,
        limit=_threshold(limit, lower_is_better),
        base_observed=means.get("base"),
        champion_observed=means.get("champion"),
        reason=f"{finding.reason}; {note}" if note else finding.reason,
        method=bounds.method if bounds else "",
        lower=bounds.lower if bounds else None,
        upper=bounds.upper if bounds else None,
        confidence=confidence,
        reference=limit.reference,
        num_clusters=bounds.num_clusters if bounds else None,
        unit=bounds.unit if bounds else "share",
        family=family,
        num_unasked=num_unasked,
        slices=finding.slices,
    )


def _evaluate(case: _Case, task: str, limit: Limit, confidence: float) -> _Finding:
    return (_evaluate_score if limit.reference is None else _evaluate_difference)(
        case, task, limit, confidence
    )


def _evaluate_part(case: _Case, task: str, limit: Limit, confidence: float) -> _Finding:
    """A task that was stopped early. It is decided by what it comes to with the worst and with the
    best answers to the rest; where these differ, nothing is."""
    rest = f"{case.unasked(task)} items were not asked"
    asked = case.asked_alone(task)
    if (
        not can_stop(case.suite, task)
        or not _read(asked, asked.candidate, task, limit, "the candidate").is_share
    ):
        raise _NoEvidence(f"{rest}, and nothing shows that they could not matter")
    finding = _evaluate(asked, task, limit, confidence)
    ends = [
        _evaluate(case.completed(task, limit.metric, value), task, limit, confidence)
        for value in (0.0, 1.0)
    ]
    if len({(end.outcome, end.without_floor) for end in ends}) > 1:
        raise _NoEvidence(f"{rest}, and the answers to them decide")
    found = [end.bounds for end in ends if end.bounds is not None]
    assert finding.bounds is not None  # what has no bounds was raised as _NoEvidence
    lower = min(bounds.lower for bounds in found)
    upper = max(bounds.upper for bounds in found)
    ways = " and ".join(f"{value:{'+' if limit.reference else ''}.1%}" for value in (lower, upper))
    reason = (
        f"{finding.bounds.seen}; {rest}: whatever the answers, {100 * confidence:g}% confidence "
        "bounds lie between "
        f"{ways}, and the outcome is the same"
    )
    bounds = replace(finding.bounds, lower=lower, upper=upper)
    return replace(finding, outcome=ends[0].outcome, reason=reason, bounds=bounds)


def _requirement(limit: Limit, lower_is_better: bool) -> str:
    """The limit in words."""
    if limit.reference is None:
        if limit.at_most is not None:
            return f"<= {limit.at_most:.1%}"
        return f">= {limit.at_least:.1%}"
    margin, better = limit.margin or 0.0, limit.better_than is not None
    sign = "<" if lower_is_better else ">"
    said = f"{sign}{'' if better else '='} {limit.reference}"
    if margin or not better:
        said += f" {'+' if lower_is_better != better else '-'} {margin:.1%}"
    if limit.floor is not None:
        said += f", {sign}= {limit.floor:.1%}"
    return said


def _threshold(limit: Limit, lower_is_better: bool) -> float:
    """The number that the bound is compared with."""
    if limit.reference is not None:
        margin = limit.margin or 0.0
        if lower_is_better != (limit.better_than is not None):
            return margin
        return 0.0 - margin
    threshold = limit.at_most if limit.at_most is not None else limit.at_least
    assert threshold is not None  # the spec sees to it
    return threshold


def _evaluate_score(case: _Case, task: str, limit: Limit, confidence: float) -> _Finding:
    """Bounds of one share or mean score against a fixed limit."""
    scored = _read(case, case.candidate, task, limit, "the candidate")
    threshold = _threshold(limit, scored.lower_is_better)
    direction: Direction = "at_most" if limit.at_most is not None else "at_least"
    of_all = {"ece": _ece_bounds, "macro_f1": _macro_f1_bounds}.get(limit.metric)
    if of_all:
        bounds = of_all(case, task, scored, confidence)
    else:
        bounds = _bounds(scored, confidence)
    if direction == "at_most":
        outcome = _outcome(met=bounds.upper <= threshold, excluded=bounds.lower > threshold)
        opposite, wish = ("at least", bounds.lower), "allowed"
    else:
        outcome = _outcome(met=bounds.lower >= threshold, excluded=bounds.upper < threshold)
        opposite, wish = ("at most", bounds.upper), "required"
    shown: Literal["lower", "upper"] = "upper" if direction == "at_most" else "lower"
    own = (direction.replace("_", " "), bounds.upper if direction == "at_most" else bounds.lower)
    words, value = opposite if outcome == "FAIL" else own
    shown_text, limit_text = _percents(value, threshold)
    reason = (
        f"{bounds.seen}; with {100 * confidence:g}% confidence {words} {shown_text}, {wish} "
        f"{limit_text}"
    )
    if outcome == "INCONCLUSIVE":
        if scored.is_share and not of_all:
            needed = items_needed(bounds.observed, threshold, confidence, direction)
        else:
            needed = items_needed_for_mean(len(scored.values), bounds.observed, own[1], threshold)
        reason += _more_items(needed)
    means = {name: _mean_beside(case, name, task, limit, scored) for name in case.references}
    slices = () if of_all else _slices(case, task, scored, confidence)
    return _Finding(outcome, reason, bounds, len(scored.values), shown, means, slices)


def _evaluate_difference(case: _Case, task: str, limit: Limit, confidence: float) -> _Finding:
    """Bounds of the difference to a reference, item by item."""
    reference = limit.reference
    assert reference is not None
    ours = _read(case, case.candidate, task, limit, "the candidate")
    if reference not in case.references:
        raise _NoEvidence(
            f"the {NAMES[reference]} was not evaluated, so there is nothing to compare with"
        )
    theirs = _read(case, case.references[reference], task, limit, f"the {NAMES[reference]}")
    _check_pairing(ours, theirs, NAMES[reference])
    threshold, lower_is_better = _threshold(limit, ours.lower_is_better), ours.lower_is_better
    bounds = _difference(ours, theirs, confidence, NAMES[reference])
    sign = -1 if lower_is_better else 1
    if lower_is_better:
        worst, best = -bounds.upper, -bounds.lower
    else:
        worst, best = bounds.lower, bounds.upper
    wanted = sign * threshold
    if limit.better_than is not None:
        outcome = _outcome(met=worst > wanted, excluded=best <= wanted)
    else:
        outcome = _outcome(met=worst >= wanted, excluded=best < wanted)
    shown: Literal["lower", "upper"] = "upper" if lower_is_better else "lower"
    value = sign * (best if outcome == "FAIL" else worst)
    words = "at most" if (outcome == "FAIL") != lower_is_better else "at least"
    shown_text, limit_text = _percents(value, threshold, sign="+")
    reason = (
        f"{bounds.seen}; with {100 * confidence:g}% confidence the difference is {words} "
        f"{shown_text}, "
        f"{'allowed' if limit.no_worse_than else 'required is more than' if sign > 0 else 'required is less than'} "
        f"{limit_text}"
    )
    if outcome == "INCONCLUSIVE":
        reason += _more_items(_pairs_needed(ours, theirs, bounds, wanted, confidence))
    without_floor = outcome
    if (
        outcome == "PASS"
        and limit.no_worse_than is not None
        and (limit.floor is not None or worst < 0)
    ):
        outcome, reason = _in_itself(case, task, limit, ours, theirs, confidence, reason)
    means = {name: _mean_beside(case, name, task, limit, ours) for name in case.references}
    return _Finding(
        outcome, reason, bounds, len(ours.values), shown, means, without_floor=without_floor
    )


def _in_itself(
    case: _Case,
    task: str,
    limit: Limit,
    ours: _Scored,
    theirs: _Scored,
    confidence: float,
    reason: str,
) -> tuple[Outcome, str]:
    """Whether "no worse, but for a margin" says anything. With a floor the candidate must reach it
    on its own. Without one, the margin must be no more than half of what the reference can do, or
    losing most of it would count as no loss: a margin is to preserve half of the control's effect,
    FDA, Non-Inferiority Clinical Trials (2016), IV.B."""
    lower_is_better = ours.lower_is_better
    if limit.floor is not None:
        own = _bounds(ours, confidence)
        if lower_is_better:
            met = own.upper <= limit.floor
        else:
            met = own.lower >= limit.floor
        if lower_is_better:
            missed = own.lower > limit.floor
        else:
            missed = own.upper < limit.floor
        if lower_is_better:
            words, value = "at most", own.upper
        else:
            words, value = "at least", own.lower
        shown, floor = _percents(value, limit.floor)
        return _outcome(
            met=met, excluded=missed
        ), f"{reason}; in itself {words} {shown}, floor {floor}"
    limits = case.suite.limits[task]
    if any(
        other.metric == limit.metric and other.reference is None and other.level == "hard"
        for other in limits
    ):
        return "PASS", reason
    bounds = _bounds(theirs, confidence)
    assert limit.margin is not None
    if lower_is_better:
        able = theirs.highest - bounds.upper
    else:
        able = bounds.lower - theirs.lowest
    if able >= 2 * limit.margin:
        return "PASS", reason
    name = NAMES[limit.no_worse_than or "base"]
    return "INCONCLUSIVE", (
        f"the {name} is itself so bad ({bounds.seen}) that being no worse by {limit.margin:.1%} "
        "means little; "
        "give the limit a `floor`, or the task an absolute limit"
    )


def _bounds(scored: _Scored, confidence: float) -> _Bounds:
    """Of a share by Clopper and Pearson, of any other mean by `rules.scores`."""
    n = len(scored.values)
    if scored.is_share:
        k = round(scored.total)
        return _Bounds(
            k / n,
            clopper_pearson_lower(k, n, confidence),
            clopper_pearson_upper(k, n, confidence),
            "Clopper-Pearson",
            f"{k} of {n} items",
            unit="share",
        )
    found = mean_bounds(
        list(scored.values.values()),
        [scored.clusters[item] for item in scored.values],
        confidence,
        lowest=scored.lowest,
        highest=scored.highest,
    )
    clustered = found.num_clusters < n
    seen = f"mean {found.mean:.3f} of {n} items" + (
        f" in {found.num_clusters} clusters" if clustered else ""
    )
    method = "clustered t and Gaffke" if clustered else "t and Gaffke"
    return _Bounds(
        found.mean,
        found.lower,
        found.upper,
        method,
        seen,
        found.num_clusters if clustered else None,
    )


def _difference(ours: _Scored, theirs: _Scored, confidence: float, name: str) -> _Bounds:
    """Of the difference, candidate minus reference: exact for shares, by paired scores
    otherwise."""
    n = len(ours.values)
    differences = {item: value - theirs.values[item] for item, value in ours.values.items()}
    if ours.is_share and theirs.is_share:
        more, fewer = (
            sum(difference == way for difference in differences.values()) for way in (1, -1)
        )
        better, worse = (fewer, more) if ours.lower_is_better else (more, fewer)
        seen = (
            f"{ours.total:g} of {n} items, {name} {theirs.total:g} ({better} better, {worse} worse)"
        )
        lower, upper = (
            paired_lower(more, fewer, n, confidence),
            -paired_lower(fewer, more, n, confidence),
        )
        return _Bounds(
            (more - fewer) / n, lower, upper, "exact, ordered by Tango's score", seen, unit="share"
        )
    widest = ours.highest - ours.lowest
    clusters = [ours.clusters[item] for item in differences]
    found = mean_bounds(
        list(differences.values()), clusters, confidence, lowest=-widest, highest=widest
    )
    clustered = found.num_clusters < n
    seen = f"mean {ours.mean:.3f} of {n} items, {name} {theirs.mean:.3f}"
    seen += f", in {found.num_clusters} clusters" if clustered else ""
    if clustered:
        method = "paired clustered t and Gaffke"
    else:
        method = "paired t and Gaffke"
    return _Bounds(
        found.mean,
        found.lower,
        found.upper,
        method,
        seen,
        found.num_clusters if clustered else None,
    )


def _pairs_needed(
    ours: _Scored, theirs: _Scored, bounds: _Bounds, wanted: float, confidence: float
) -> int | None:
    n, lower_is_better = len(ours.values), ours.lower_is_better
    if ours.is_share and theirs.is_share:
        more = sum(value > theirs.values[item] for item, value in ours.values.items())
        fewer = sum(value < theirs.values[item] for item, value in ours.values.items())
        better, worse = (fewer, more) if lower_is_better else (more, fewer)
        return pairs_needed(better, worse, n, -wanted, confidence)
    sign, worst = (-1, -bounds.upper) if lower_is_better else (1, bounds.lower)
    return items_needed_for_mean(n, sign * bounds.observed, worst, wanted)


def _ece_bounds(case: _Case, task: str, scored: _Scored, confidence: float) -> _Bounds:
    """Of the expected calibration error, from each item's confidence and whether it was right."""
    items = _distinct(next(found for found in case.candidate.tasks if found.task == task))
    rights = [right for item in items if (right := is_right(item)) is not None]
    if len(rights) < len(items):
        raise _NoEvidence(
            f"nothing says which items are right: there is no score {' or '.join(RIGHT)}"
        )
    clusters = [scored.clusters[item.id] for item in items]
    found = calibration_bounds(list(scored.values.values()), rights, clusters, confidence)
    seen = (
        f"{sum(rights):g} of {len(items)} items right, with a mean confidence of {scored.mean:.1%}"
    )
    return _Bounds(
        found.mean, found.lower, found.upper, "signed calibration gaps, t and Gaffke", seen
    )


def _macro_f1_bounds(case: _Case, task: str, scored: _Scored, confidence: float) -> _Bounds:
    """Of the mean F1 over the classes. A right answer is its target, whatever its case and marks;
    any other is a class by its own wording, so that what is no class at all counts as one that is
    never right."""
    items = _distinct(next(found for found in case.candidate.tasks if found.task == task))
    if any(scored.clusters[item.id] != item.id for item in items):
        raise _NoEvidence(
            "macro_f1 has bounds where every sample stands for itself; take cluster_by out"
        )
    targets = [_class(item.target) for item in items]
    answers = [
        target if scored.values[item.id] == 1 else _class(item.response)
        for item, target in zip(items, targets, strict=True)
    ]
    found = macro_f1_bounds(targets, answers, confidence)
    seen = (
        f"a mean F1 of {found.observed:.1%} over {found.num_classes} classes in {len(items)} "
        "samples"
    )
    return _Bounds(
        found.observed, found.lower, found.upper, "Clopper and Pearson for each class", seen
    )


def _class(text: str) -> str:
    return without_punctuation(normalized(text)).casefold().strip()


def _outcome(*, met: bool, excluded: bool) -> Outcome:
    if excluded:
        return "FAIL"
    if met:
        return "PASS"
    return "INCONCLUSIVE"


def _read(case: _Case, evaluation: Evaluation, task: str, limit: Limit, whose: str) -> _Scored:
    """The scores of a task; _NoEvidence when there are none to trust."""
    found = [result for result in evaluation.tasks if result.task == task]
    if len(found) != 1:
        raise _NoEvidence(
            f"task {task} was {'evaluated twice' if found else 'not evaluated'} on {whose}"
        )
    items, metric = _distinct(found[0]), limit.metric
    if not items:
        raise _NoEvidence(f"task {task} has no items on {whose}")
    if unanswered := [item for item in items if item.error is not None]:
        raise _NoEvidence(
            f"{len(unanswered)} of {len(items)} items got no answer on {whose} "
            f"({unanswered[0].error}); they are no "
            "wrong answers, and evaluating again asks for them alone"
        )
    score = MADE_OF.get(metric, "abstained" if metric in ABSTENTION_METRICS else metric)
    t = case.suite.settings(task).penalty_threshold
    values = [value for item in items if (value := score_of(item, score, t)) is not None]
    if unscored := [item.unscored[score] for item in items if score in item.unscored]:
        raise _NoEvidence(
            f"{len(unscored)} of {len(items)} items have no score {score} on {whose}: {unscored[0]}"
        )
    if len(values) < len(items):
        known = ", ".join(sorted({name for item in items for name in item.scores})) or "none"
        missing = len(items) - len(values)
        raise _NoEvidence(
            f"{missing} of {len(items)} items have no score {score} on {whose}; there is: {known}"
        )
    lowest, highest = _range(case, task, limit)
    if metric in ABSTENTION_METRICS:
        if strange := sum(value not in (0, 1) for value in values):  # NaN is in no tuple of numbers
            raise _NoEvidence(
                f"{strange} of {len(items)} items have a score {score} on {whose} that is not 0 or "
                "1"
            )
    elif strange := sum(not lowest <= value <= highest for value in values):
        raise _NoEvidence(
            f"{strange} of {len(items)} items have a score {score} on {whose} that is not within "
            f"{lowest:g} to {highest:g}; a limit's `range` says what is possible"
        )
    if metric == "hallucination_rate":
        values = [1 - value for value in values]
    return _Scored(
        {item.id: float(value) for item, value in zip(items, values, strict=True)},
        {item.id: item.id if item.cluster is None else f"cluster {item.cluster}" for item in items},
        found[0].digest,
        lowest,
        highest,
        _lower_is_better(case, task, metric),
    )


def _range(case: _Case, task: str, limit: Limit) -> tuple[float, float]:
    if limit.range is not None:
        return limit.range
    if limit.metric == "penalized_score":
        t = case.suite.settings(task).penalty_threshold
        return -t / (1 - t), 1.0
    return 0.0, 1.0


def _lower_is_better(case: _Case, task: str, metric: str) -> bool:
    named = (
        name
        for found in case.candidate.tasks
        if found.task == task
        for name in found.lower_is_better
    )
    return metric in LOWER_IS_BETTER or metric in named


def _distinct(result: TaskResult) -> list[Sample]:
    """The items, each once: a question asked twice is no more evidence than asked once. Its first
    answer counts."""
    return list({item.id: item for item in reversed(result.items)}.values())[::-1]


def _check_pairing(ours: _Scored, theirs: _Scored, name: str) -> None:
    """Pairs need the same task and the same items on both sides."""
    if ours.task_digest != theirs.task_digest:
        raise _NoEvidence(f"the {name} was evaluated on another version of the task")
    lacking, surplus = (
        ours.values.keys() - theirs.values.keys(),
        theirs.values.keys() - ours.values.keys(),
    )
    if lacking or surplus:
        raise _NoEvidence(
            f"the items differ: {len(lacking)} of the candidate's {len(ours.values)} are missing "
            f"on the {name}, "
            f"{len(surplus)} of the {name}'s {len(theirs.values)} on the candidate"
        )


def _mean_beside(
    case: _Case, reference: Reference, task: str, limit: Limit, ours: _Scored
) -> float | None:
    """A reference's share or mean, where it was evaluated on the same items."""
    try:
        theirs = _read(case, case.references[reference], task, limit, f"the {NAMES[reference]}")
        _check_pairing(ours, theirs, NAMES[reference])
    except _NoEvidence:
        return None
    if limit.metric in CORPUS_WIDE:
        return None
    return theirs.mean


def _slices(case: _Case, task: str, scored: _Scored, confidence: float) -> tuple[SliceResult, ...]:
    """The same bounds for each part of the items."""
    items = _distinct(next(found for found in case.candidate.tasks if found.task == task))
    parts = sorted({(field, value) for item in items for field, value in item.slices.items()})
    found = []
    for field, value in parts:
        ids = [item.id for item in items if item.slices.get(field) == value]
        part = _Scored(
            {item: scored.values[item] for item in ids},
            {item: scored.clusters[item] for item in ids},
            scored.task_digest,
            scored.lowest,
            scored.highest,
            scored.lower_is_better,
        )
        bounds = _bounds(part, confidence)
        found.append(
            SliceResult(
                field=field,
                value=value,
                num_items=len(ids),
                observed=bounds.observed,
                lower=bounds.lower,
                upper=bounds.upper,
            )
        )
    return tuple(found)


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
