"""Limits that their items can never meet, however well the model does."""

from collections.abc import Iterator
from pathlib import Path

from assay.errors import Problem
from assay.flow.preflight.places import Places
from assay.flow.preflight.tasks import limit_location, num_items
from assay.loader.references import SuiteFile
from assay.loader.yaml.reader import Location
from assay.rules.gate.attempts import corrected_confidence
from assay.rules.planning.power import (
    comparison_needs,
    quantile_needs,
    share_needs,
)
from assay.spec.gate import HELD_OUT, LM_EVAL, Limit, SuiteSpec, TaskSettings
from assay.spec.suite.measured import ServiceSpec
from assay.spec.values.metrics import CORPUS_WIDE


def check_power(file: SuiteFile, root: Path, num_held_out: int | None) -> Iterator[Problem]:
    """Every limit that can only end inconclusive; nothing where the suite says `underpowered:
    allow`. `num_held_out` are the samples of the sealed split, as far as known."""
    suite = file.suite
    if suite.underpowered == "allow":
        return
    places = Places(file.positions)
    confidence = corrected_confidence(suite)
    for task, limits in suite.limits.items():
        settings = suite.settings(task)
        if task == HELD_OUT:
            count = num_held_out
        else:
            count = _num_items(file, task, settings, root)
        if count is None:
            continue
        count = min(count, settings.max_items or count)
        for index, limit in enumerate(limits):
            key, needed = _needs(limit, confidence, settings)
            if key and (needed is None or needed > count):
                at = limit_location(file, task, index, key)
                yield places.problem(at, "underpowered", *_words(count, needed, "samples", task))
    if suite.service is not None:
        yield from _service(suite, suite.service, places)


def _num_items(file: SuiteFile, task: str, settings: TaskSettings, root: Path) -> int | None:
    source = settings.source or f"{task}.yaml"
    if source.startswith(LM_EVAL):
        return None
    folder = (root / file.path).with_suffix("")
    named = TaskSettings.model_validate({**settings.model_dump(), "source": str(folder / source)})
    return num_items(task, named, Path())


def _needs(limit: Limit, confidence: float, settings: TaskSettings) -> tuple[str, int | None]:
    """The key of the bound that asks for the most samples, and how many could meet it, all being
    right; None when no number could. The key is empty where that is not known."""
    if limit.metric in CORPUS_WIDE:  # their bound is no mean's
        return "", None
    lowest, highest = limit.range or (0.0, 1.0)
    if limit.metric == "penalized_score" and limit.range is None:
        threshold = settings.penalty_threshold
        lowest = -threshold / (1 - threshold)

    def share(bound: float, *, at_most: bool) -> int | None:
        distance = (bound - lowest) if at_most else (highest - bound)
        return share_needs(distance / (highest - lowest), confidence)

    if limit.at_least is not None:
        return "at_least", share(limit.at_least, at_most=False)
    if limit.at_most is not None:
        return "at_most", share(limit.at_most, at_most=True)
    margin = limit.margin or 0.0
    is_better = limit.better_than is not None
    needed = comparison_needs(-margin if is_better else margin, confidence)
    return "better_than" if is_better else "no_worse_than", needed


def _service(suite: SuiteSpec, service: ServiceSpec, places: Places) -> Iterator[Problem]:
    count = service.load.num_requests
    wanted: dict[str, int | None] = {}
    for name in ("ttft_p50", "ttft_p95", "ttft_p99", "inter_token_p95"):
        if getattr(service, name) is not None:
            wanted[name] = quantile_needs(int(name[-2:]) / 100, suite.confidence)
    if service.error_rate is not None:
        wanted["error_rate"] = share_needs(service.error_rate, suite.confidence)
    if service.completion_rate is not None:
        wanted["completion_rate"] = share_needs(1 - service.completion_rate, suite.confidence)
    for name, needed in wanted.items():
        if needed is None or needed > count:
            at: Location = ("service", name)
            yield places.problem(at, "underpowered", *_words(count, needed, "requests", "the load"))


def _words(count: int, needed: int | None, what: str, whose: str) -> tuple[str, str]:
    allow = "or say `underpowered: allow` in the suite to try things out"
    if needed is None:
        return (
            f"no number of {what} can show this with confidence",
            f"leave some room in the limit, {allow}",
        )
    more = f"give {whose} {needed} {what} or more"
    return (
        f"{count} {what} can never meet it; {needed} without a single miss could",
        f"{more}, {allow}",
    )
