"""Stopping early without an error of its own: curtailment.

A task is asked in blocks, and no further when every possible answer to the rest gives the same
outcome for each of its limits. The outcome is then exactly the one that all items would have given,
so no confidence is spent on having looked (on curtailment and its stochastic kin: Jennison &
Turnbull, Group Sequential Methods (2000), chapter 10). What it saves is therefore little for a
model that passes: `at_least: 80%` of 90 items takes 79 right answers, and they have to be asked
for. A model that is clearly too bad is known after half of the items (`make bench-gate` prints the
shares).

It takes scores that are 0 or 1 and items that stand alone: then a limit's outcome rises with each
right answer, and only the two ends, all of the rest right and all wrong, have to be looked at.
"""

from assay.records.gate import Sample, TaskResult
from assay.spec.gate import Limit, SuiteSpec
from assay.spec.values.metrics import METRICS

ABSTENTION_METRICS = tuple(metric.name for metric in METRICS if metric.needs == "abstention")
"""Metrics counted from the per-item score `abstained`."""

ZERO_OR_ONE = (
    "exact_match",
    "acc",
    "acc_norm",
    *(metric.name for metric in METRICS if metric.needs == "text" and metric.is_zero_or_one),
)
"""Scores of lm-eval's own, and of the gate's, that are nothing in between."""


def can_stop(suite: SuiteSpec, task: str) -> bool:
    """Whether the task may be stopped early: the suite says so, and each of its limits can be
    settled before the last item. A judge is asked at the end, Python of the task's own may give any
    score, and limits that stand for each other are decided together."""
    settings = suite.settings(task)
    # What is not asked can be counted with its worst and its best score where a sample stands
    # alone and both are known.
    if not suite.stop_early or settings.cluster_by is not None:
        return False
    if settings.abstention != "matcher":
        return False
    return all(_is_zero_or_one(suite, task, limit) for limit in suite.limits[task])


def completed(result: TaskResult, metric: str, value: float) -> TaskResult:
    """The task as it would be if every item that was not asked had this score."""
    score = "abstained" if metric in ABSTENTION_METRICS else metric
    items = list(result.items)
    for name in result.unasked:
        scores = {score: value}
        items.append(Sample(id=name, prompt="", target="", response="", scores=scores))
    return result.model_copy(update={"items": tuple(items), "unasked": ()})


def _is_zero_or_one(suite: SuiteSpec, task: str, limit: Limit) -> bool:
    if suite.improvements == "any" and limit.better_than is not None:
        return False
    if limit.metric in ABSTENTION_METRICS:
        return True
    return limit.metric in ZERO_OR_ONE and not suite.settings(task).functions
