"""Limits on what is measured beside the tasks: what all have in common, contamination, parity."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from assay.records.gate import (
    ContaminationHit,
    ContaminationRecord,
    Level,
    LimitKind,
    LimitResult,
    Outcome,
    ParityPair,
    ParityRecord,
)
from assay.records.record import digest_of
from assay.rules.statistics.means import mean_bounds
from assay.rules.statistics.power import Direction
from assay.rules.statistics.proportions import clopper_pearson_lower, clopper_pearson_upper
from assay.spec.suite.measured import ContaminationSpec, ParitySpec

Unit = Literal["share", "score", "seconds", "tokens/s", "nats"]


@dataclass(frozen=True)
class Seen:
    """What was measured, and how far it can be trusted; infinite bounds know nothing."""

    observed: float
    lower: float
    upper: float
    num_items: int
    method: str
    words: str
    more: str = ""
    """What would settle an undecided limit."""


class NotMeasured(Exception):
    """There is nothing to decide on; the message says why."""


@dataclass(frozen=True)
class Asked:
    """What a measurement is held against."""

    metric: str
    limit: float
    confidence: float
    """Of each bound; of no meaning where everything was looked at."""


@dataclass(frozen=True)
class Measure:
    """A metric that is measured: its unit, which side of a limit is good, and how it is read."""

    kind: LimitKind
    metric: str
    unit: Unit
    direction: Direction
    look: Callable[[Any, Asked], Seen]
    """Of what was measured; NotMeasured where it says nothing."""


def evaluate_contamination(
    spec: ContaminationSpec, found: ContaminationRecord | None, task_digests: dict[str, str]
) -> tuple[LimitResult, ...]:
    """Decide on the items that stand in the training data; nothing where no training data is known.
    A check of other items than `task_digests` names is INCONCLUSIVE."""
    if found is None:
        return ()
    results = []
    if spec.exact == "fail":
        hits = _Hits(found, found.exact, "", task_digests)
        results.append(decide(_EXACT, 0.0, "hard", None, hits))
    if spec.near == "fail":
        hits = _Hits(found, found.near, "nearly ", task_digests)
        results.append(decide(_NEAR, 0.0, "hard", None, hits))
    return tuple(results)


def joined_contamination(found: Sequence[ContaminationRecord]) -> ContaminationRecord:
    """What was found in several sets of training data, as if they were one. All are of the same
    tasks, or the join says of which they are not."""
    if len(found) == 1:
        return found[0]
    digests: dict[str, str] = {}
    for record in found:
        for task, digest in record.task_digests.items():
            if digests.get(task, digest) == digest:
                digests[task] = digest
            else:
                # No digest at all, so that it matches none and the limits stay open.
                digests[task] = "compared in several versions"
    num_items = num_examples = 0
    exact: list[ContaminationHit] = []
    near: list[ContaminationHit] = []
    for record in found:
        # The same samples were looked for in the data of each training run.
        num_items = max(num_items, record.num_items)
        num_examples += record.num_examples
        exact += record.exact
        near += record.near
    return ContaminationRecord(
        train_digest=digest_of([record.train_digest for record in found]),
        task_digests=digests,
        num_items=num_items,
        num_examples=num_examples,
        exact=tuple(exact),
        near=tuple(near),
        ngram=found[0].ngram,
        similarity=found[0].similarity,
    )


def evaluate_parity(
    spec: ParitySpec, found: ParityRecord | None, artifact_digest: str, confidence: float
) -> tuple[LimitResult, ...]:
    """Decide on what was lost from the first form of the model that was probed to the served one;
    probes are the units of evidence."""
    pair = None
    if found is not None and found.artifact_digest == artifact_digest:
        pair = _whole_way(found.pairs)
    results = []
    if spec.top1_agreement is not None:
        results.append(decide(_AGREEMENT, spec.top1_agreement, spec.level, confidence, pair))
    if spec.logprob_difference is not None:
        results.append(decide(_DISTANCE, spec.logprob_difference, spec.level, confidence, pair))
    return tuple(results)


def in_unit(value: float, unit: Unit) -> str:
    """A measured value as a person would write it."""
    if math.isinf(value):
        return "unknown"
    if unit == "share":
        return f"{value:.2%}"
    if unit == "seconds":
        if value < 10:
            return f"{1000 * value:.0f} ms"
        return f"{value:.1f} s"
    if unit == "tokens/s":
        return f"{value:.1f} tokens/s"
    return f"{value:.4g} {unit}"


def decide(
    measure: Measure, limit: float, level: Level, confidence: float | None, measured: object | None
) -> LimitResult:
    """One limit decided on what the measure sees in `measured`; INCONCLUSIVE where that is
    nothing. `confidence` is None where everything was looked at."""
    seen: Seen | None = None
    outcome: Outcome = "INCONCLUSIVE"
    reason = "this was not measured"
    if measured is not None:
        try:
            seen = measure.look(measured, Asked(measure.metric, limit, confidence or 1.0))
            outcome, reason = _outcome(measure, seen, limit)
        except NotMeasured as why:
            reason = str(why)
    sign = "<=" if measure.direction == "at_most" else ">="
    return LimitResult(
        task=measure.kind,
        metric=measure.metric,
        requirement=f"{sign} {in_unit(limit, measure.unit)}",
        level=level,
        outcome=outcome,
        limit=limit,
        base_observed=None,
        reason=reason,
        kind=measure.kind,
        confidence=confidence,
        unit=measure.unit,
        **_fields(measure, seen),
    )


def _fields(measure: Measure, seen: Seen | None) -> dict[str, Any]:
    """The fields of a result that say what was seen, and how sure it is."""
    if seen is None:
        return {"num_items": 0, "observed": None, "bound": None}
    return {
        "num_items": seen.num_items,
        "observed": _finite(seen.observed),
        "bound": _finite(seen.upper if measure.direction == "at_most" else seen.lower),
        "method": seen.method,
        "lower": _finite(seen.lower),
        "upper": _finite(seen.upper),
    }


def check_measured(values: Sequence[float]) -> None:
    """NotMeasured unless all are numbers, and none is less than nothing."""
    if not values:
        raise NotMeasured("nothing was measured")
    if any(math.isnan(value) or value < 0 for value in values):
        raise NotMeasured("a measured value is no number, or less than nothing")


def _outcome(measure: Measure, seen: Seen, limit: float) -> tuple[Outcome, str]:
    if measure.direction == "at_most":
        is_met, is_missed = seen.upper <= limit, seen.lower > limit
        words, shown, wish = "at most", seen.upper, "allowed"
        opposite = "at least", seen.lower
    else:
        is_met, is_missed = seen.lower >= limit, seen.upper < limit
        words, shown, wish = "at least", seen.lower, "required"
        opposite = "at most", seen.upper
    # What failed is told by the bound that proves it.
    if is_missed:
        words, shown = opposite
    unit = measure.unit
    reason = f"{seen.words}; {words} {in_unit(shown, unit)}, {wish} {in_unit(limit, unit)}"
    if is_missed:
        return "FAIL", reason
    if is_met:
        return "PASS", reason
    return "INCONCLUSIVE", reason + seen.more


@dataclass(frozen=True)
class _Hits:
    """The samples that one way of looking has found in the training data."""

    found: ContaminationRecord
    hits: tuple[ContaminationHit, ...]
    nearly: str
    task_digests: dict[str, str]
    """Of the tasks that are decided on."""


def _count(it: _Hits, _: Asked) -> Seen:
    if it.found.task_digests != it.task_digests:
        raise NotMeasured("the training data was compared with another version of the tasks")
    n, share = it.found.num_items, 0.0
    if n:
        # A sample may stand in several examples, and is one sample all the same.
        share = len({(hit.task, hit.item) for hit in it.hits}) / n
    words = f"{len(it.hits)} of {n} items are {it.nearly}in the training data"
    if it.hits:
        words += f", such as {it.hits[0].item[:80]!r}"
    return Seen(share, share, share, n, "exhaustive search", words)


def _whole_way(pairs: Sequence[ParityPair]) -> ParityPair | None:
    """From the earliest form that was compared with the served one."""
    order = ("base", "adapter", "merged", "compressed", "served")
    served = [pair for pair in pairs if pair.second == "served"]
    return min(served, key=lambda pair: order.index(pair.first), default=None)


def _agreement(pair: ParityPair, asked: Asked) -> Seen:
    """Tokens of one probe agree or differ together, so the share is counted as if a probe were one
    token."""
    n = pair.num_probes
    if n == 0:
        raise NotMeasured("there were no probes")
    # A share of tokens is seldom a whole number of probes: the lower bound is taken from the count
    # below it, the upper from the one above.
    k = min(n, math.floor(pair.top1_agreement * n))
    words = (
        f"{pair.top1_agreed} of {pair.num_tokens} tokens in {n} probes, {pair.first} against "
        f"{pair.second}"
    )
    return Seen(
        pair.top1_agreement,
        clopper_pearson_lower(k, n, asked.confidence),
        clopper_pearson_upper(min(n, k + 1), n, asked.confidence),
        n,
        "Clopper-Pearson over probes",
        words,
    )


def _distance(pair: ParityPair, asked: Asked) -> Seen:
    """A distance has no greatest value; the bound reckons with twice the greatest that was seen or
    is allowed."""
    probes = list(pair.probe_abs_logprob)
    check_measured(probes)
    if len(probes) < 2:
        raise NotMeasured("a bound takes two probes or more")
    most = max(asked.limit, *probes)
    found = mean_bounds(probes, None, asked.confidence, lowest=0.0, highest=2 * most)
    words = (
        f"mean {found.mean:.4f} nats over {len(probes)} probes, {pair.first} against {pair.second}"
    )
    return Seen(found.mean, found.lower, found.upper, len(probes), "t and Gaffke", words)


def _finite(value: float) -> float | None:
    if math.isfinite(value):
        return value
    return None


# Below the functions that they name: Python runs a module from its top.
_EXACT = Measure("contamination", "exact", "share", "at_most", _count)
_NEAR = Measure("contamination", "near", "share", "at_most", _count)
_AGREEMENT = Measure("parity", "top1_agreement", "share", "at_least", _agreement)
_DISTANCE = Measure("parity", "logprob_difference", "nats", "at_most", _distance)
