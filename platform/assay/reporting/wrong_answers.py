"""The answers that count against a limit, what to show first before the others."""

from typing import TYPE_CHECKING

from assay.records.gate import GateRecord, Sample, TaskResult
from assay.records.report import (
    Example,
    WrongAnswers,
)
from assay.spec.values.metrics import GRADED
from assay.stages.gate import read_evaluation

if TYPE_CHECKING:
    pass


def wrong_answers(gate: GateRecord, num_examples: int) -> tuple[WrongAnswers, ...]:
    """For each limit on a task the answers that count against it, those that the base model had
    right first."""
    ours = {result.task: result for result in read_evaluation(gate.candidate).tasks}
    base: dict[str, TaskResult] = {}
    if gate.base:
        base = {result.task: result for result in read_evaluation(gate.base).tasks}
    found = []
    for limit in gate.scorecard.limits:
        if limit.kind != "task" or limit.task not in ours:
            continue
        examples = _bad_examples(ours[limit.task], base.get(limit.task), limit.metric)
        if examples:
            shown = tuple(examples[:num_examples])
            wrong = WrongAnswers(
                task=limit.task, metric=limit.metric, count=len(examples), examples=shown
            )
            found.append(wrong)
    return tuple(found)


def _bad_examples(task: TaskResult, base: TaskResult | None, metric: str) -> list[Example]:
    """The answers to a task that are not as good as they could be, what to show first before the
    others."""
    theirs: dict[str, Sample] = {}
    if base is not None:
        theirs = {item.id: item for item in base.items}
    lower_is_better = metric in task.lower_is_better
    examples = []
    for item in task.items:
        if counts_against(item, metric, lower_is_better=lower_is_better):
            examples.append(_example(item, theirs.get(item.id), metric, lower_is_better))
    examples.sort(key=_urgency)
    return examples


def counts_against(item: Sample, metric: str, *, lower_is_better: bool) -> bool:
    """Whether an answer is not as good as it could be in the sense of a limit's metric. An item
    without an answer counts for nothing."""
    if item.error is not None:
        return False
    if metric == "hallucination_rate":
        return not item.scores.get("abstained")
    if metric == "over_abstention":
        return bool(item.scores.get("abstained"))
    score = item.scores.get(metric, item.scores.get("exact_match"))
    return score is not None and score != (0 if lower_is_better else 1)


def _urgency(example: Example) -> tuple[bool, float]:
    """What to show first comes first."""
    if example.score is None:
        return example.base_was_right is not True, 0.0
    best = 1.0 if example.base_score is None else example.base_score
    return False, example.score - best


def _example(item: Sample, base: Sample | None, metric: str, lower_is_better: bool) -> Example:
    is_graded = metric in (*GRADED, "auto")
    base_was_right = base_score = None
    if base is not None:
        base_was_right = not counts_against(base, metric, lower_is_better=lower_is_better)
        if is_graded:
            base_score = base.scores.get(metric)
    return Example(
        id=item.id,
        prompt=item.prompt,
        target=item.target,
        response=item.response,
        base_response=base.response if base else None,
        base_was_right=base_was_right,
        score=item.scores.get(metric) if is_graded else None,
        base_score=base_score,
        remark=item.remarks.get(metric, ""),
    )
