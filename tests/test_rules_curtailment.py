"""Stopping early: the outcome is the one that all items would have given, or there is none yet."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.records.gate import Evaluation, LimitResult, Sample, TaskResult
from assay.rules.gate.verdict import evaluate_limits, is_settled
from assay.rules.statistics.paired import paired_lower
from assay.spec.gate import SuiteSpec

LIMITS: tuple[dict[str, Any], ...] = (
    {"metric": "exact_match", "at_least": 0.7},
    {"metric": "exact_match", "at_most": 0.4},
    {"metric": "over_abstention", "at_most": 0.3},
    {"metric": "hallucination_rate", "at_most": 0.5},
    {"metric": "exact_match", "no_worse_than": "base", "margin": 0.2},
    {"metric": "exact_match", "no_worse_than": "base", "margin": 0.2, "floor": 0.4},
    {"metric": "hallucination_rate", "no_worse_than": "champion", "margin": 0.2},
    {"metric": "exact_match", "better_than": "base"},
)


def suite(*limits: dict[str, Any], **said: Any) -> SuiteSpec:
    return SuiteSpec.model_validate({"stop_early": True, "limits": {"facts": list(limits)}, **said})


def evaluation(result: TaskResult) -> Evaluation:
    return Evaluation(artifact_digest="a", model_name="m", tasks=(result,), seconds=1.0)


def task(marks: list[float], num_asked: int | None = None, **more: Any) -> TaskResult:
    """Items that are right, and no abstentions, where the mark is 1; all but the first so many were
    not asked."""
    items = tuple(
        Sample(
            id=f"{i:03}",
            prompt="?",
            target="!",
            response="",
            scores={"exact_match": m, "abstained": 1 - m},
            **more,
        )
        for i, m in enumerate(marks)
    )
    asked = items[:num_asked]
    return TaskResult(
        task="facts", digest="all", items=asked, unasked=tuple(i.id for i in items[len(asked) :])
    )


def decide(wanted: SuiteSpec, result: TaskResult, base: Evaluation | None = None) -> LimitResult:
    (found,) = evaluate_limits(wanted, evaluation(result), base, base)
    return found


Marks = st.lists(st.sampled_from([0.0, 1.0]), min_size=24, max_size=24)


@given(st.sampled_from(LIMITS), Marks, Marks, st.integers(1, 23), st.booleans())
@settings(max_examples=100, deadline=None)
def test_what_is_settled_is_what_all_items_say(
    limit: dict[str, Any], ours: list[float], theirs: list[float], num_asked: int, same: bool
) -> None:
    base = evaluation(task(ours if same else theirs))
    wanted, part = suite(limit), task(ours, num_asked)
    whole, early = decide(wanted, task(ours), base), decide(wanted, part, base)
    if is_settled(wanted, part, base, base, confidence=0.95):
        assert early.outcome == whole.outcome
        assert (early.num_items, early.num_unasked) == (num_asked, 24 - num_asked)
        assert isinstance(early.lower, float)
        assert isinstance(early.upper, float)
        assert isinstance(whole.lower, float)
        assert isinstance(whole.upper, float)
        assert early.lower <= whole.lower <= whole.upper <= early.upper
    else:
        assert early.outcome == "INCONCLUSIVE"
        assert early.bound is None


@pytest.mark.parametrize("limit", LIMITS, ids=str)
@pytest.mark.parametrize("right", [0.0, 1.0])
def test_every_kind_of_limit_can_be_settled_early(limit: dict[str, Any], right: float) -> None:
    base = evaluation(task([1.0, 0.0] * 30))
    candidate = [right] * 60
    num_asked = next(
        n
        for n in range(5, 61, 5)
        if is_settled(suite(limit), task(candidate, n), base, base, confidence=0.95)
    )
    assert num_asked < 60
    assert (
        decide(suite(limit), task(candidate, num_asked), base).outcome
        == decide(suite(limit), task(candidate), base).outcome
    )


def test_a_settled_limit_says_how_many_items_were_asked_and_why_no_more() -> None:
    found = decide(suite({"at_least": 0.8}), task([0.0] * 30 + [1.0] * 60, 30))
    assert (found.outcome, found.num_items, found.num_unasked, found.observed) == (
        "FAIL",
        30,
        60,
        0.0,
    )
    assert "60 items were not asked: whatever the answers" in found.reason


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ([{"metric": "penalized_score", "at_least": 0.2}], {}),
        ([{"metric": "brier", "at_most": 0.3}], {}),
        ([{"at_least": 0.8}], {"stop_early": False}),
        ([{"at_least": 0.8}], {"tasks": {"facts": {"cluster_by": "source"}}}),
        ([{"at_least": 0.8}], {"tasks": {"facts": {"functions": {"score.py": "0" * 64}}}}),
        (
            [{"at_least": 0.8}],
            {
                "tasks": {"facts": {"abstention": "judge"}},
                "judge": {"url": "http://x", "model": "y"},
            },
        ),
        ([{"better_than": "base"}], {"improvements": "any"}),
        ([{"at_least": 0.8}, {"metric": "ece", "at_most": 0.2}], {}),
    ],
)
def test_what_cannot_be_settled_is_asked_whole(
    limits: list[dict[str, Any]], said: dict[str, Any]
) -> None:
    part = task([0.0] * 100, 99)
    assert not is_settled(suite(*limits, **said), part, evaluation(part), None, confidence=0.95)


def test_items_that_are_missing_without_a_reason_never_pass() -> None:
    part = task([1.0] * 100, 99)
    assert decide(suite({"at_least": 0.5}, stop_early=False), part).outcome == "INCONCLUSIVE"
    assert decide(suite({"at_least": 0.98}), part).outcome == "INCONCLUSIVE"


def test_a_failed_item_settles_nothing() -> None:
    part = task([0.0] * 100, 90)
    failed = part.items[0].model_copy(update={"scores": {}, "error": "HTTP 500"})
    broken = part.model_copy(update={"items": (failed, *part.items[1:])})
    assert not is_settled(suite({"at_least": 0.8}), broken, None, None, confidence=0.95)


def test_a_score_in_between_settles_nothing() -> None:
    assert not is_settled(
        suite({"at_least": 0.8}), task([0.5] + [0.0] * 99, 90), None, None, confidence=0.95
    )


@pytest.mark.parametrize("n", [8, 15])
def test_the_paired_bound_rises_with_every_better_answer(n: int) -> None:
    """What curtailment of comparisons rests on, for every possible result."""
    for b in range(n + 1):
        for c in range(n - b + 1):
            bound = paired_lower(b, c, n, 0.95)
            if b + c < n:
                assert paired_lower(b + 1, c, n, 0.95) >= bound
                assert paired_lower(b, c + 1, n, 0.95) <= bound
