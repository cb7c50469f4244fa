"""Limits on what is measured beside the tasks: the service under load, contamination, parity."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from assay.records.gate import (
    ContaminationHit,
    ContaminationRecord,
    Level,
    LimitKind,
    LimitResult,
    Outcome,
    ParityPair,
    ParityRecord,
    ServiceMeasurement,
)
from assay.records.record import digest_of
from assay.rules.statistics.means import mean_bounds
from assay.rules.statistics.power import Direction, items_needed
from assay.rules.statistics.proportions import clopper_pearson_lower, clopper_pearson_upper
from assay.rules.statistics.quantiles import quantile, quantile_lower, quantile_upper
from assay.spec.gate import ContaminationSpec, ParitySpec, ServiceSpec

Unit = Literal["share", "score", "seconds", "tokens/s", "nats"]

FEWEST_WINDOWS = 5
"""Parts of a measurement from which on a throughput has bounds."""


def evaluate_service(
    service: ServiceSpec, measured: ServiceMeasurement | None, confidence: float
) -> tuple[LimitResult, ...]:
    """Decide every service limit. Percentiles have bounds from order statistics, in which a request
    without an answer counts as one that takes for ever; rates have exact ones; throughput those of
    the mean over windows. Peak memory is the highest that was seen, and is compared as it is."""
    return tuple(
        _result(
            "service", metric, limit, unit, direction, service.level, confidence, decide, measured
        )
        for metric, unit, direction, decide in _SERVICE
        if (limit := getattr(service, metric)) is not None
    )


def evaluate_contamination(
    spec: ContaminationSpec, found: ContaminationRecord | None, task_digests: dict[str, str]
) -> tuple[LimitResult, ...]:
    """Decide on the items that stand in the training data; nothing where no training data is known.
    A check of other items than `task_digests` names is INCONCLUSIVE."""
    if found is None:
        return ()
    results = []
    for metric, action, hits in (
        ("exact", spec.exact, found.exact),
        ("near", spec.near, found.near),
    ):
        if action == "fail":
            result = _result(
                "contamination",
                metric,
                0.0,
                "share",
                "at_most",
                "hard",
                None,
                _count,
                (found, hits, task_digests),
            )
            results.append(result)
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
                digests[task] = "compared in several versions"
    return ContaminationRecord(
        train_digest=digest_of([record.train_digest for record in found]),
        task_digests=digests,
        num_items=max(record.num_items for record in found),
        num_examples=sum(record.num_examples for record in found),
        exact=tuple(hit for record in found for hit in record.exact),
        near=tuple(hit for record in found for hit in record.near),
        ngram=found[0].ngram,
        similarity=found[0].similarity,
    )


def evaluate_parity(
    spec: ParitySpec, found: ParityRecord | None, artifact_digest: str, confidence: float
) -> tuple[LimitResult, ...]:
    """Decide on what was lost from the first form of the model that was probed to the served one;
    probes are the units of evidence."""
    if found is not None and found.artifact_digest == artifact_digest:
        own = found
    else:
        own = None
    pair = _whole_way(own.pairs if own else ())
    results = []
    if (least := spec.top1_agreement) is not None:
        result = _result(
            "parity",
            "top1_agreement",
            least,
            "share",
            "at_least",
            spec.level,
            confidence,
            _agreement,
            pair,
        )
        results.append(result)
    if (most := spec.logprob_difference) is not None:
        result = _result(
            "parity",
            "logprob_difference",
            most,
            "nats",
            "at_most",
            spec.level,
            confidence,
            _distance,
            pair,
        )
        results.append(result)
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


@dataclass(frozen=True)
class _Seen:
    """What was measured, and how far it can be trusted; infinite bounds know nothing."""

    observed: float
    lower: float
    upper: float
    num_items: int
    method: str
    words: str
    more: str = ""
    """What would settle an undecided limit."""


class _NotMeasured(Exception):
    """There is nothing to decide on; the message says why."""


def _result(
    kind: LimitKind,
    metric: str,
    limit: float,
    unit: Unit,
    direction: Direction,
    level: Level,
    confidence: float | None,
    look: "Callable[..., _Seen]",
    measured: object,
) -> LimitResult:
    """One limit decided on what `look` sees in `measured`."""
    seen: _Seen | None = None
    outcome: Outcome = "INCONCLUSIVE"
    try:
        if measured is None:
            raise _NotMeasured("this was not measured")
        seen = look(measured, metric, limit, confidence)
        outcome, reason = _decided(seen, limit, direction, unit)
    except _NotMeasured as why:
        reason = str(why)
    sign = "<=" if direction == "at_most" else ">="
    if seen:
        if direction == "at_most":
            bound = seen.upper
        else:
            bound = seen.lower
    else:
        bound = None
    return LimitResult(
        task=kind,
        metric=metric,
        requirement=f"{sign} {in_unit(limit, unit)}",
        level=level,
        outcome=outcome,
        num_items=seen.num_items if seen else 0,
        observed=_finite(seen.observed) if seen else None,
        bound=_finite(bound),
        limit=limit,
        base_observed=None,
        reason=reason,
        kind=kind,
        method=seen.method if seen else "",
        lower=_finite(seen.lower) if seen else None,
        upper=_finite(seen.upper) if seen else None,
        confidence=confidence,
        unit=unit,
    )


def _decided(seen: _Seen, limit: float, direction: Direction, unit: Unit) -> tuple[Outcome, str]:
    if direction == "at_most":
        met, excluded, bound, opposite = (
            seen.upper <= limit,
            seen.lower > limit,
            seen.upper,
            seen.lower,
        )
    else:
        met, excluded, bound, opposite = (
            seen.lower >= limit,
            seen.upper < limit,
            seen.lower,
            seen.upper,
        )
    outcome: Outcome = "FAIL" if excluded else "PASS" if met else "INCONCLUSIVE"
    if excluded:
        if direction == "at_most":
            words = "at least"
        else:
            words = "at most"
    else:
        words = direction.replace("_", " ")
    shown = opposite if excluded else bound
    wish = "allowed" if direction == "at_most" else "required"
    reason = f"{seen.words}; {words} {in_unit(shown, unit)}, {wish} {in_unit(limit, unit)}"
    return outcome, reason + (seen.more if outcome == "INCONCLUSIVE" else "")


def _percentile(measured: ServiceMeasurement, metric: str, _: float, confidence: float) -> _Seen:
    share = int(metric[-2:]) / 100
    if metric.startswith("ttft"):
        values = [*measured.ttft_s, *[math.inf] * (measured.num_requests - len(measured.ttft_s))]
    else:
        values = list(measured.inter_token_s)
    _check(values)
    upper, lower = (
        quantile_upper(values, share, confidence),
        quantile_lower(values, share, confidence),
    )
    needed = math.ceil(math.log(1 - confidence) / math.log(share))
    if len(values) < needed:
        more = f"; it takes {needed} requests or more to bound this percentile"
    else:
        more = ""
    seen = quantile(values, share)
    words = (
        f"{in_unit(seen, 'seconds')} over {len(values)} requests, {100 * confidence:g}% confidence"
    )
    return _Seen(seen, lower, upper, len(values), "order statistics", words, more)


def _throughput(measured: ServiceMeasurement, _: str, limit: float, confidence: float) -> _Seen:
    from scipy.stats import t as student

    windows = [rate / max(1, measured.num_engines) for rate in measured.window_tokens_per_s]
    _check(windows)
    n = len(windows)
    if n < FEWEST_WINDOWS:
        raise _NotMeasured(
            f"the load lasted {n} windows; {FEWEST_WINDOWS} give a bound: send more requests"
        )
    mean = math.fsum(windows) / n
    error = math.sqrt(math.fsum((rate - mean) ** 2 for rate in windows) / (n - 1) / n)
    reach = float(student.ppf(confidence, n - 1)) * error
    words = f"mean {mean:.1f} tokens/s over {n} windows, {100 * confidence:g}% confidence"
    return _Seen(mean, mean - reach, mean + reach, n, "t over windows", words)


def _rate(measured: ServiceMeasurement, metric: str, limit: float, confidence: float) -> _Seen:
    n = measured.num_requests
    if n == 0:
        raise _NotMeasured("no requests were sent")
    k = measured.num_failed if metric == "error_rate" else measured.num_completed
    direction: Direction = "at_most" if metric == "error_rate" else "at_least"
    if not 0 <= k <= n:
        raise _NotMeasured(f"{k} of {n} requests is impossible")
    needed = items_needed(k / n, limit, confidence, direction)
    if needed:
        more = f"; about {needed:,} requests would settle it at this rate"
    else:
        more = ""
    lower, upper = clopper_pearson_lower(k, n, confidence), clopper_pearson_upper(k, n, confidence)
    words = f"{k} of {n} requests, {100 * confidence:g}% confidence"
    return _Seen(k / n, lower, upper, n, "Clopper-Pearson", words, more)


def _memory(measured: ServiceMeasurement, _: str, __: float, ___: float) -> _Seen:
    if not measured.peak_memory_bytes or not measured.memory_bytes:
        raise _NotMeasured("the engine's memory cannot be read here")
    share = measured.peak_memory_bytes / measured.memory_bytes
    words = (
        f"{measured.peak_memory_bytes / 1e9:.1f} of {measured.memory_bytes / 1e9:.1f} GB at the "
        "highest"
    )
    return _Seen(share, share, share, measured.num_requests, "highest value", words)


_SERVICE: tuple[tuple[str, Unit, Direction, Callable[..., _Seen]], ...] = (
    ("ttft_p50", "seconds", "at_most", _percentile),
    ("ttft_p95", "seconds", "at_most", _percentile),
    ("ttft_p99", "seconds", "at_most", _percentile),
    ("inter_token_p95", "seconds", "at_most", _percentile),
    ("output_tokens_per_s", "tokens/s", "at_least", _throughput),
    ("error_rate", "share", "at_most", _rate),
    ("completion_rate", "share", "at_least", _rate),
    ("peak_memory", "share", "at_most", _memory),
)


def _count(
    measured: tuple[ContaminationRecord, tuple[ContaminationHit, ...], dict[str, str]],
    metric: str,
    _: float,
    __: None,
) -> _Seen:
    found, hits, task_digests = measured
    if found.task_digests != task_digests:
        raise _NotMeasured("the training data was compared with another version of the tasks")
    n = found.num_items
    share = len({(hit.task, hit.item) for hit in hits}) / n if n else 0.0
    worst = f", such as {hits[0].item[:80]!r}" if hits else ""
    words = (
        f"{len(hits)} of {n} items are {'' if metric == 'exact' else 'nearly '}in the training "
        f"data{worst}"
    )
    return _Seen(share, share, share, n, "exhaustive search", words)


def _whole_way(pairs: Sequence[ParityPair]) -> ParityPair | None:
    """From the earliest form that was compared with the served one."""
    order = ("base", "adapter", "merged", "compressed", "served")
    served = [pair for pair in pairs if pair.second == "served"]
    return min(served, key=lambda pair: order.index(pair.first), default=None)


def _agreement(pair: ParityPair, _: str, __: float, confidence: float) -> _Seen:
    """Tokens of one probe agree or differ together, so the share is counted as if a probe were one
    token."""
    n = pair.num_probes
    if n == 0:
        raise _NotMeasured("there were no probes")
    k = min(n, math.floor(pair.top1_agreement * n))
    words = (
        f"{pair.top1_agreed} of {pair.num_tokens} tokens in {n} probes, {pair.first} against "
        f"{pair.second}"
    )
    return _Seen(
        pair.top1_agreement,
        clopper_pearson_lower(k, n, confidence),
        clopper_pearson_upper(min(n, k + 1), n, confidence),
        n,
        "Clopper-Pearson over probes",
        words,
    )


def _distance(pair: ParityPair, _: str, limit: float, confidence: float) -> _Seen:
    """A distance has no greatest value; the bound reckons with twice the greatest that was seen or
    is allowed."""
    probes = list(pair.probe_abs_logprob)
    _check(probes)
    if len(probes) < 2:
        raise _NotMeasured("a bound takes two probes or more")
    most = max(limit, *probes)
    found = mean_bounds(probes, None, confidence, lowest=0.0, highest=2 * most)
    words = (
        f"mean {found.mean:.4f} nats over {len(probes)} probes, {pair.first} against {pair.second}"
    )
    return _Seen(found.mean, found.lower, found.upper, len(probes), "t and Gaffke", words)


def _check(values: Sequence[float]) -> None:
    if not values:
        raise _NotMeasured("nothing was measured")
    if any(math.isnan(value) or value < 0 for value in values):
        raise _NotMeasured("a measured value is no number, or less than nothing")


def _finite(value: float | None) -> float | None:
    if value is not None and math.isfinite(value):
        return value
    return None
