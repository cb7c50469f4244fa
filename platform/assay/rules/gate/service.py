"""Limits on the service under load: how long answers take, how many fail, what memory it takes."""

import math

from assay.records.gate import LimitResult, ServiceMeasurement
from assay.rules.gate.measurements import (
    Asked,
    Measure,
    NotMeasured,
    Seen,
    check_measured,
    decide,
    in_unit,
)
from assay.rules.statistics.power import Direction, items_needed
from assay.rules.statistics.proportions import clopper_pearson_lower, clopper_pearson_upper
from assay.rules.statistics.quantiles import quantile, quantile_lower, quantile_upper
from assay.spec.suite.measured import ServiceSpec

# Parts of a measurement from which on a throughput has bounds.
FEWEST_WINDOWS = 5


def evaluate_service(
    service: ServiceSpec, measured: ServiceMeasurement | None, confidence: float
) -> tuple[LimitResult, ...]:
    """Decide every service limit. Percentiles have bounds from order statistics, in which a request
    without an answer counts as one that takes for ever; rates have exact ones; throughput those of
    the mean over windows. Peak memory is the highest that was seen, and is compared as it is."""
    results = []
    for measure in _SERVICE:
        limit = getattr(service, measure.metric)
        if limit is not None:
            results.append(decide(measure, limit, service.level, confidence, measured))
    return tuple(results)


def _percentile(measured: ServiceMeasurement, asked: Asked) -> Seen:
    share = int(asked.metric[-2:]) / 100
    if asked.metric.startswith("ttft"):
        # Without an answer it has waited for ever; left out, failures would make a service faster.
        num_lost = measured.num_requests - len(measured.ttft_s)
        values = [*measured.ttft_s, *[math.inf] * num_lost]
    else:
        values = list(measured.inter_token_s)
    check_measured(values)
    upper = quantile_upper(values, share, asked.confidence)
    lower = quantile_lower(values, share, asked.confidence)
    # With fewer, even the slowest of them may lie under the percentile by chance.
    needed = math.ceil(math.log(1 - asked.confidence) / math.log(share))
    more = ""
    if len(values) < needed:
        more = f"; it takes {needed} requests or more to bound this percentile"
    seen = quantile(values, share)
    words = (
        f"{in_unit(seen, 'seconds')} over {len(values)} requests, "
        f"{100 * asked.confidence:g}% confidence"
    )
    return Seen(seen, lower, upper, len(values), "order statistics", words, more)


def _throughput(measured: ServiceMeasurement, asked: Asked) -> Seen:
    from scipy.stats import t as student

    windows = []
    for rate in measured.window_tokens_per_s:
        windows.append(rate / max(1, measured.num_engines))
    check_measured(windows)
    n = len(windows)
    if n < FEWEST_WINDOWS:
        raise NotMeasured(
            f"the load lasted {n} windows; {FEWEST_WINDOWS} give a bound: send more requests"
        )
    mean = math.fsum(windows) / n
    error = math.sqrt(math.fsum((rate - mean) ** 2 for rate in windows) / (n - 1) / n)
    reach = float(student.ppf(asked.confidence, n - 1)) * error
    words = f"mean {mean:.1f} tokens/s over {n} windows, {100 * asked.confidence:g}% confidence"
    return Seen(mean, mean - reach, mean + reach, n, "t over windows", words)


def _rate(measured: ServiceMeasurement, asked: Asked) -> Seen:
    n = measured.num_requests
    if n == 0:
        raise NotMeasured("no requests were sent")
    if asked.metric == "error_rate":
        k = measured.num_failed
        direction: Direction = "at_most"
    else:
        k = measured.num_completed
        direction = "at_least"
    if not 0 <= k <= n:
        raise NotMeasured(f"{k} of {n} requests is impossible")
    needed = items_needed(k / n, asked.limit, asked.confidence, direction)
    more = ""
    if needed:
        more = f"; about {needed:,} requests would settle it at this rate"
    lower = clopper_pearson_lower(k, n, asked.confidence)
    upper = clopper_pearson_upper(k, n, asked.confidence)
    words = f"{k} of {n} requests, {100 * asked.confidence:g}% confidence"
    return Seen(k / n, lower, upper, n, "Clopper-Pearson", words, more)


def _memory(measured: ServiceMeasurement, _: Asked) -> Seen:
    if not measured.peak_memory_bytes or not measured.memory_bytes:
        raise NotMeasured("the engine's memory cannot be read here")
    share = measured.peak_memory_bytes / measured.memory_bytes
    words = (
        f"{measured.peak_memory_bytes / 1e9:.1f} of {measured.memory_bytes / 1e9:.1f} GB at the "
        "highest"
    )
    return Seen(share, share, share, measured.num_requests, "highest value", words)


# Below the functions that it names: Python runs a module from its top.
_SERVICE = (
    Measure("service", "ttft_p50", "seconds", "at_most", _percentile),
    Measure("service", "ttft_p95", "seconds", "at_most", _percentile),
    Measure("service", "ttft_p99", "seconds", "at_most", _percentile),
    Measure("service", "inter_token_p95", "seconds", "at_most", _percentile),
    Measure("service", "output_tokens_per_s", "tokens/s", "at_least", _throughput),
    Measure("service", "error_rate", "share", "at_most", _rate),
    Measure("service", "completion_rate", "share", "at_least", _rate),
    Measure("service", "peak_memory", "share", "at_most", _memory),
)
