"""One limit against the evidence: met, missed, or open."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from assay.records.gate import Outcome, Reference, SliceResult
from assay.rules.gate.bounds import (
    Bounds,
    End,
    bounds_of,
    difference_bounds,
    pairs_wanted,
    score_bounds,
    slices,
)
from assay.rules.gate.early_stopping import can_stop
from assay.rules.gate.evidence import (
    CANDIDATE,
    Claim,
    NoEvidence,
    Pair,
    Scored,
    means_beside,
    read,
    read_pair,
)
from assay.rules.gate.wording import NAMES, more_items, percents
from assay.rules.statistics.means import items_needed_for_mean
from assay.rules.statistics.power import Direction, items_needed
from assay.spec.values.metrics import CORPUS_WIDE


@dataclass(frozen=True)
class Finding:
    """What a limit comes to."""

    outcome: Outcome
    reason: str
    bounds: Bounds | None
    num_items: int
    shown: End = "lower"
    means: Mapping[Reference, float | None] | None = None
    slices: tuple[SliceResult, ...] = ()
    without_floor: Outcome | None = None
    """What the comparison alone would say."""


def evaluate(claim: Claim) -> Finding:
    """Decides a limit on all samples of its task; NoEvidence where nothing can be read."""
    if claim.limit.reference is None:
        return _evaluate_score(claim)
    return _evaluate_difference(claim)


def evaluate_part(claim: Claim) -> Finding:
    """A task that was stopped early. It is decided by what it comes to with the worst and with the
    best answers to the rest; where these differ, nothing is."""
    case, task, metric = claim.case, claim.task, claim.limit.metric
    rest = f"{case.num_unasked(task)} items were not asked"
    asked = replace(claim, case=case.asked_alone(task))
    if not can_stop(case.suite, task) or not read(asked, asked.case.candidate, CANDIDATE).is_share:
        raise NoEvidence(f"{rest}, and nothing shows that they could not matter")
    finding = evaluate(asked)
    worst = evaluate(replace(claim, case=case.completed(task, metric, 0.0)))
    best = evaluate(replace(claim, case=case.completed(task, metric, 1.0)))
    if (worst.outcome, worst.without_floor) != (best.outcome, best.without_floor):
        raise NoEvidence(f"{rest}, and the answers to them decide")
    # What has no bounds was raised as NoEvidence.
    assert finding.bounds is not None
    assert worst.bounds is not None
    assert best.bounds is not None
    lower = min(worst.bounds.lower, best.bounds.lower)
    upper = max(worst.bounds.upper, best.bounds.upper)
    sign = "+" if claim.limit.reference else ""
    reason = (
        f"{finding.bounds.seen}; {rest}: whatever the answers, {100 * claim.confidence:g}% "
        "confidence bounds lie between "
        f"{lower:{sign}.1%} and {upper:{sign}.1%}, and the outcome is the same"
    )
    bounds = replace(finding.bounds, lower=lower, upper=upper)
    return replace(finding, outcome=worst.outcome, reason=reason, bounds=bounds)


def _evaluate_score(claim: Claim) -> Finding:
    """Bounds of one share or mean score against a fixed limit."""
    scored = read(claim, claim.case.candidate, CANDIDATE)
    bounds, threshold = score_bounds(claim, scored), claim.threshold
    if claim.limit.at_most is not None:
        outcome = _outcome(met=bounds.upper <= threshold, excluded=bounds.lower > threshold)
        shown: End = "upper"
        words, wish = "at most", "allowed"
    else:
        outcome = _outcome(met=bounds.lower >= threshold, excluded=bounds.upper < threshold)
        shown = "lower"
        words, wish = "at least", "required"
    value = bounds.end(shown)
    # What failed is told by the bound that proves it: "at most 71%, required 80%".
    if outcome == "FAIL" and shown == "upper":
        words, value = "at least", bounds.lower
    elif outcome == "FAIL":
        words, value = "at most", bounds.upper
    shown_text, limit_text = percents(value, threshold)
    reason = (
        f"{bounds.seen}; with {100 * claim.confidence:g}% confidence {words} {shown_text}, {wish} "
        f"{limit_text}"
    )
    if outcome == "INCONCLUSIVE":
        reason += more_items(_items_wanted(claim, scored, bounds, shown))
    means = means_beside(claim, scored)
    # What is made of all samples together has no method for a part of them.
    parts = () if claim.limit.metric in CORPUS_WIDE else slices(claim, scored)
    return Finding(outcome, reason, bounds, len(scored.values), shown, means, parts)


def _items_wanted(claim: Claim, scored: Scored, bounds: Bounds, shown: End) -> int | None:
    threshold = claim.threshold
    if scored.is_share and claim.limit.metric not in CORPUS_WIDE:
        direction: Direction = "at_most" if shown == "upper" else "at_least"
        return items_needed(bounds.observed, threshold, claim.confidence, direction)
    n = len(scored.values)
    return items_needed_for_mean(n, bounds.observed, bounds.end(shown), threshold)


def _evaluate_difference(claim: Claim) -> Finding:
    """Bounds of the difference to a reference, item by item."""
    pair, limit = read_pair(claim), claim.limit
    bounds, threshold = difference_bounds(pair, claim.confidence), claim.threshold
    # From here on more is better: what less is better of is looked at with its sign turned.
    sign = 1
    worst, best = bounds.lower, bounds.upper
    shown: End = "lower"
    if pair.ours.lower_is_better:
        sign = -1
        worst, best = -bounds.upper, -bounds.lower
        shown = "upper"
    wanted = sign * threshold
    if limit.better_than is not None:
        outcome = _outcome(met=worst > wanted, excluded=best <= wanted)
    else:
        outcome = _outcome(met=worst >= wanted, excluded=best < wanted)
    failed = outcome == "FAIL"
    value = sign * (best if failed else worst)
    words = "at most" if failed != pair.ours.lower_is_better else "at least"
    shown_text, limit_text = percents(value, threshold, sign="+")
    reason = (
        f"{bounds.seen}; with {100 * claim.confidence:g}% confidence the difference is {words} "
        f"{shown_text}, {_wish(claim)} {limit_text}"
    )
    if outcome == "INCONCLUSIVE":
        reason += more_items(pairs_wanted(pair, bounds, wanted, claim.confidence))
    finding = Finding(
        outcome,
        reason,
        bounds,
        len(pair.ours.values),
        shown,
        means_beside(claim, pair.ours),
        without_floor=outcome,
    )
    # A candidate that is proven to be no worse at all needs no look at what the reference can do.
    must_stand_alone = limit.floor is not None or worst < 0
    if outcome == "PASS" and limit.no_worse_than is not None and must_stand_alone:
        return _in_itself(claim, pair, finding)
    return finding


def _wish(claim: Claim) -> str:
    if claim.limit.no_worse_than:
        return "allowed"
    if claim.lower_is_better:
        return "required is less than"
    return "required is more than"


def _in_itself(claim: Claim, pair: Pair, finding: Finding) -> Finding:
    """Whether "no worse, but for a margin" says anything. With a floor the candidate must reach it
    on its own. Without one, the margin must be no more than half of what the reference can do, or
    losing most of it would count as no loss: a margin is to preserve half of the control's effect,
    FDA, Non-Inferiority Clinical Trials (2016), IV.B."""
    limit = claim.limit
    if limit.floor is not None:
        return _against_floor(claim, pair.ours, finding, limit.floor)
    for other in claim.case.suite.limits[claim.task]:
        # An absolute hard limit of the same metric says already what the candidate can do.
        if other.metric == limit.metric and other.reference is None and other.level == "hard":
            return finding
    theirs = pair.theirs
    bounds = bounds_of(theirs, claim.confidence)
    able = bounds.lower - theirs.lowest
    if claim.lower_is_better:
        able = theirs.highest - bounds.upper
    assert limit.margin is not None  # worse than 0 passes only within a margin
    if able >= 2 * limit.margin:
        return finding
    name = NAMES[limit.no_worse_than or "base"]
    reason = (
        f"the {name} is itself so bad ({bounds.seen}) that being no worse by {limit.margin:.1%} "
        "means little; "
        "give the limit a `floor`, or the task an absolute limit"
    )
    return replace(finding, outcome="INCONCLUSIVE", reason=reason)


def _against_floor(claim: Claim, ours: Scored, finding: Finding, floor: float) -> Finding:
    own = bounds_of(ours, claim.confidence)
    if claim.lower_is_better:
        outcome = _outcome(met=own.upper <= floor, excluded=own.lower > floor)
        words, value = "at most", own.upper
    else:
        outcome = _outcome(met=own.lower >= floor, excluded=own.upper < floor)
        words, value = "at least", own.lower
    shown, floor_text = percents(value, floor)
    reason = f"{finding.reason}; in itself {words} {shown}, floor {floor_text}"
    return replace(finding, outcome=outcome, reason=reason)


def _outcome(*, met: bool, excluded: bool) -> Outcome:
    if excluded:
        return "FAIL"
    if met:
        return "PASS"
    return "INCONCLUSIVE"
