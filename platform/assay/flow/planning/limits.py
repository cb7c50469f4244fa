"""What each limit of a suite could show, before anything is asked."""

from collections.abc import Iterator
from pathlib import Path

from assay.flow.preflight.tasks import num_items as samples_of
from assay.records.plan import DataPlan, LimitPlan
from assay.rules.gate.attempts import corrected_confidence
from assay.rules.planning.power import (
    WORTHWHILE,
    difference_limit,
    score_difference_limit,
    score_limit,
    share_limit,
    unknown_limit,
)
from assay.rules.statistics.power import Direction
from assay.spec.gate import HELD_OUT, Limit, SuiteSpec
from assay.spec.values.metrics import CORPUS_WIDE, GRADED

NO_SHARES = ("penalized_score", "brier", *CORPUS_WIDE)
"""Metrics whose power is not known before the answers are."""


def limit_plans(suite: SuiteSpec, root: Path, data: DataPlan | None) -> Iterator[LimitPlan]:
    """Every limit of a suite that was loaded from `root`. Attempts that share the items share the
    confidence."""
    confidence = corrected_confidence(suite)
    for task, limits in suite.limits.items():
        task_settings = suite.settings(task)
        if task != HELD_OUT:
            num_items = samples_of(task, task_settings, root)
        else:
            num_items = data.num_gate if data else None
        if task_settings.max_items and num_items:
            num_items = min(num_items, task_settings.max_items)
        for limit in limits:
            metric = limit.metric
            if metric == "auto" and task == HELD_OUT and data is not None and data.gate_metric:
                metric = data.gate_metric
            named = Limit.model_validate({**limit.model_dump(), "metric": metric})
            yield _limit(task, named, num_items, confidence)


def _limit(task: str, limit: Limit, num_items: int | None, confidence: float) -> LimitPlan:
    if limit.metric in NO_SHARES:
        return unknown_limit(
            task, limit.metric, num_items=num_items, note=f"{limit.metric} is no share of the items"
        )
    if limit.reference is not None:
        margin, is_better = limit.margin or 0.0, limit.better_than is not None
        words, truth = f"no worse than {limit.reference} within", 0.0
        signed = margin
        if is_better:
            # A model that is better by just the margin would pass by chance alone.
            words, truth = f"better than {limit.reference} by", margin + WORTHWHILE
            signed = -margin
        plan_difference = difference_limit
        if limit.metric in GRADED:
            plan_difference = score_difference_limit
        return plan_difference(
            task,
            f"{limit.metric} {words} {margin:.1%}",
            num_items=num_items,
            margin=signed,
            confidence=confidence,
            truth=truth,
        )
    bound, sign = limit.at_least, ">="
    direction: Direction = "at_least"
    if limit.at_most is not None:
        bound, sign, direction = limit.at_most, "<=", "at_most"
    assert bound is not None  # the spec sees to it
    plan_limit = score_limit if limit.metric in GRADED else share_limit
    return plan_limit(
        task,
        f"{limit.metric} {sign} {bound:.1%}",
        num_items=num_items,
        limit=bound,
        confidence=confidence,
        direction=direction,
    )
