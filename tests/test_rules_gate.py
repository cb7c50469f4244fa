import math
import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.records.gate import Evaluation, LimitResult, Sample, TaskResult
from assay.rules.gate.attempts import attempt_of
from assay.rules.gate.verdict import evaluate_limits, overall
from assay.rules.statistics.proportions import clopper_pearson_lower, clopper_pearson_upper
from assay.spec.gate import SuiteSpec


def task_of(
    values: Sequence[float], metric: str = "exact_match", task: str = "facts", first: int = 0
) -> TaskResult:
    items = tuple(
        Sample(id=f"item-{first + i}", prompt="?", target="!", response="", scores={metric: value})
        for i, value in enumerate(values)
    )
    return TaskResult(task=task, digest="task", items=items)


def evaluation(*tasks: TaskResult) -> Evaluation:
    return Evaluation(artifact_digest="a", model_name="m", tasks=tasks, seconds=1.0)


def share(hits: int, n: int, metric: str = "exact_match") -> Evaluation:
    return evaluation(task_of([1.0] * hits + [0.0] * (n - hits), metric))


def decide(
    candidate: Evaluation, base: Evaluation | None = None, confidence: float = 0.95, **limit: Any
) -> LimitResult:
    suite = SuiteSpec.model_validate({"confidence": confidence, "limits": {"facts": limit}})
    (result,) = evaluate_limits(suite, candidate, base)
    return result


@pytest.mark.parametrize(
    ("hits", "n", "limit", "outcome"),
    [
        (87, 90, {"at_least": 0.85}, "PASS"),
        (78, 90, {"at_least": 0.85}, "INCONCLUSIVE"),  # 86.7% observed, but not proven
        (74, 90, {"at_least": 0.85}, "INCONCLUSIVE"),  # 82.2% observed, but 85% is not excluded
        (60, 90, {"at_least": 0.85}, "FAIL"),
        (5, 5, {"at_least": 0.85}, "INCONCLUSIVE"),
        (0, 5, {"at_least": 0.85}, "FAIL"),
        (90, 90, {"at_least": 0.85}, "PASS"),
        (90, 90, {"at_least": 1.0}, "INCONCLUSIVE"),  # no sample proves perfection
        (89, 90, {"at_least": 1.0}, "FAIL"),
        (0, 1, {"at_least": 0.0}, "PASS"),
        (0, 120, {"at_most": 0.05}, "PASS"),
        (2, 120, {"at_most": 0.05}, "INCONCLUSIVE"),
        (2, 120, {"at_most": 0.10}, "PASS"),
        (30, 120, {"at_most": 0.10}, "FAIL"),
        (0, 5, {"at_most": 0.10}, "INCONCLUSIVE"),
        (0, 120, {"at_most": 0.0}, "INCONCLUSIVE"),
        (1, 120, {"at_most": 0.0}, "FAIL"),
        (1, 1, {"at_most": 1.0}, "PASS"),
    ],
)
def test_a_proportion_is_decided_by_its_bounds(
    hits: int, n: int, limit: dict[str, float], outcome: str
) -> None:
    result = decide(share(hits, n), **limit)
    assert (result.outcome, result.num_items, result.observed) == (outcome, n, hits / n)
    upper, lower = clopper_pearson_upper(hits, n, 0.95), clopper_pearson_lower(hits, n, 0.95)
    assert result.bound == (upper if "at_most" in limit else lower)


@given(
    st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.floats(0, 1),
    st.booleans(),
)
@settings(max_examples=50, deadline=None)
def test_a_pass_always_has_its_bound_and_a_fail_its_opposite(
    kn: tuple[int, int], limit: float, most: bool
) -> None:
    k, n = kn
    lower, upper = clopper_pearson_lower(k, n, 0.95), clopper_pearson_upper(k, n, 0.95)
    result = decide(share(k, n), **{"at_most" if most else "at_least": limit})
    met, excluded = (upper <= limit, lower > limit) if most else (lower >= limit, upper < limit)
    assert (result.outcome == "PASS") == met
    assert (result.outcome == "FAIL") == excluded


@pytest.mark.parametrize(
    ("candidate", "limit", "reason"),
    [
        (
            share(2, 120),
            {"at_most": 0.10},
            "2 of 120 items; with 95% confidence at most 5.2%, allowed 10.0%",
        ),
        (
            share(30, 120),
            {"at_most": 0.10},
            "30 of 120 items; with 95% confidence at least 18.6%, allowed 10.0%",
        ),
        (
            share(2, 120),
            {"at_most": 0.05},
            "2 of 120 items; with 95% confidence at most 5.2%, allowed 5.0%; "
            "about 153 items would settle it at this share",
        ),
        (
            share(74, 90),
            {"at_least": 0.85},
            "74 of 90 items; with 95% confidence at least 74.3%, required 85.0%; "
            "more items would not settle it at this share",
        ),
    ],
)
def test_the_reason_is_a_sentence_with_numbers(
    candidate: Evaluation, limit: dict[str, float], reason: str
) -> None:
    assert decide(candidate, **limit).reason == reason


@pytest.mark.parametrize("n", range(20, 140, 20))
def test_the_reason_never_shows_a_bound_equal_to_the_limit_that_it_misses(n: int) -> None:
    reason = decide(share(0, n), at_most=clopper_pearson_upper(0, n, 0.95) - 1e-5).reason
    bound, allowed = re.findall(r"([\d.]+)%[,;]", reason)
    assert float(bound) > float(allowed)


@pytest.mark.parametrize(
    ("metric", "abstained", "observed", "outcome"),
    [
        ("hallucination_rate", 118, 2 / 120, "PASS"),
        ("hallucination_rate", 0, 1.0, "FAIL"),
        ("over_abstention", 118, 118 / 120, "FAIL"),
        ("over_abstention", 0, 0.0, "PASS"),
    ],
)
def test_abstentions_are_counted_for_and_against(
    metric: str, abstained: int, observed: float, outcome: str
) -> None:
    result = decide(share(abstained, 120, "abstained"), metric=metric, at_most=0.10)
    assert (result.observed, result.outcome) == (pytest.approx(observed), outcome)


def test_a_model_that_always_abstains_fails() -> None:
    suite = SuiteSpec.model_validate(
        {
            "limits": {
                "unanswerable": {"metric": "hallucination_rate", "at_most": 0.05},
                "answerable": {"metric": "over_abstention", "at_most": 0.10},
            }
        }
    )
    silent = evaluation(
        *(task_of([1.0] * 100, "abstained", task) for task in ("unanswerable", "answerable"))
    )
    results = evaluate_limits(suite, silent, None)
    assert [result.outcome for result in results] == ["PASS", "FAIL"]
    assert overall(results) == "FAIL"


@pytest.mark.parametrize(
    ("candidate", "limit", "num_items", "reason"),
    [
        (evaluation(), {"at_least": 0.0}, 0, "task facts was not evaluated on the candidate"),
        (
            evaluation(task_of([1.0]), task_of([1.0])),
            {"at_least": 0.0},
            2,
            "evaluated twice on the candidate",
        ),
        (share(0, 0), {"at_most": 1.0}, 0, "has no items on the candidate"),
        (
            share(9, 9),
            {"metric": "exact_mtach", "at_least": 0.0},
            9,
            "9 of 9 items have no score exact_mtach .*: exact_match",
        ),
        (share(9, 9), {"metric": "over_abstention", "at_most": 1.0}, 9, "have no score abstained"),
        (
            evaluation(task_of([1.0, math.nan])),
            {"at_least": 0.0},
            2,
            "1 of 2 items .* not within 0 to 1",
        ),
        (evaluation(task_of([1.0, math.inf])), {"at_least": 0.0}, 2, "not within 0 to 1"),
        (
            evaluation(task_of([1.0, 0.5, -1.0])),
            {"at_least": 0.0},
            3,
            "1 of 3 items .* not within 0 to 1",
        ),
        (
            evaluation(task_of([1.0, 0.5], "abstained")),
            {"metric": "over_abstention", "at_most": 1.0},
            2,
            "1 of 2 items .* not 0 or 1",
        ),
    ],
)
def test_what_cannot_be_read_never_passes(
    candidate: Evaluation, limit: dict[str, Any], num_items: int, reason: str
) -> None:
    result = decide(candidate, **limit)
    assert (result.outcome, result.num_items, result.observed, result.bound) == (
        "INCONCLUSIVE",
        num_items,
        None,
        None,
    )
    assert re.search(reason, result.reason)


def test_a_question_asked_many_times_is_evidence_once() -> None:
    one = task_of([1.0]).items
    repeated = evaluation(TaskResult(task="facts", digest="task", items=one * 200))
    result = decide(repeated, at_least=0.85)
    assert (result.outcome, result.num_items) == ("INCONCLUSIVE", 1)
    assert decide(repeated, repeated, no_worse_than="base", margin=0.01).outcome == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("ours", "theirs", "margin", "outcome"),
    [
        (
            [1.0] * 10,
            [1.0] * 10,
            0.01,
            "INCONCLUSIVE",
        ),  # ten items that agree cannot show one point
        ([0.0] * 10, [0.0] * 10, 0.01, "INCONCLUSIVE"),
        ([1.0] * 300, [1.0] * 300, 0.01, "PASS"),
        ([1.0] * 93 + [0.0] * 7, [1.0] * 100, 0.10, "INCONCLUSIVE"),
        ([1.0] * 98 + [0.0] * 2, [1.0] * 100, 0.10, "PASS"),
        ([1.0] * 60 + [0.0] * 40, [1.0] * 100, 0.10, "FAIL"),
        ([0.0] * 100, [1.0] * 100, 0.10, "FAIL"),
        ([1.0] * 100, [0.0] * 100, 0.0, "PASS"),
        ([1.0] * 100, [1.0] * 100, 0.0, "INCONCLUSIVE"),  # equal is not proven better
    ],
)
def test_a_comparison_is_decided_item_by_item(
    ours: list[float], theirs: list[float], margin: float, outcome: str
) -> None:
    result = decide(
        evaluation(task_of(ours)), evaluation(task_of(theirs)), no_worse_than="base", margin=margin
    )
    assert result.outcome == outcome
    assert result.observed == pytest.approx((sum(ours) - sum(theirs)) / len(ours))
    assert result.base_observed == sum(theirs) / len(theirs)
    assert (result.requirement, result.limit) == (f">= base - {margin:.1%}", -margin)
    assert result.bound is not None
    assert (result.bound >= result.limit) == (outcome == "PASS")


@pytest.mark.parametrize("metric", ["hallucination_rate", "over_abstention"])
def test_fewer_is_better_where_the_metric_counts_faults(metric: str) -> None:
    kept, dropped = [1.0] * 100, [1.0] * 40 + [0.0] * 60
    fewer, more = (kept, dropped) if metric == "hallucination_rate" else (dropped, kept)

    def compare(ours: list[float], theirs: list[float]) -> LimitResult:
        candidate, base = (
            evaluation(task_of(ours, "abstained")),
            evaluation(task_of(theirs, "abstained")),
        )
        return decide(candidate, base, metric=metric, no_worse_than="base", margin=0.10)

    better, worse = compare(fewer, more), compare(more, fewer)
    assert (better.outcome, worse.outcome) == ("PASS", "FAIL")
    assert (better.observed, worse.observed) == (pytest.approx(-0.6), pytest.approx(0.6))
    assert better.bound is not None
    assert worse.bound is not None
    assert better.bound < better.limit == 0.10 < worse.bound
    assert better.requirement == "<= base + 10.0%"


def test_the_reason_of_a_comparison() -> None:
    base = evaluation(task_of([1.0] * 100))
    equal = decide(evaluation(task_of([1.0] * 100)), base, no_worse_than="base", margin=0.02)
    assert equal.reason == (
        "100 of 100 items, base model 100 (0 better, 0 worse); with 95% confidence the difference "
        "is at least "
        "-3.0%, allowed -2.0%; about 149 items would settle it at this share"
    )
    worse = decide(
        evaluation(task_of([1.0] * 60 + [0.0] * 40)), base, no_worse_than="base", margin=0.1
    )
    assert "the difference is at most -31.8%, allowed -10.0%" in worse.reason


@pytest.mark.parametrize(
    ("base", "reason"),
    [
        (None, "the base model was not evaluated"),
        (evaluation(), "task facts was not evaluated on the base model"),
        (
            evaluation(task_of([1.0] * 99)),
            "1 of the candidate's 100 are missing on the base model, 0 of",
        ),
        (
            evaluation(task_of([1.0] * 101)),
            "0 of the candidate's 100 are missing on the base model, 1 of",
        ),
        (
            evaluation(task_of([1.0] * 100, first=1)),
            "1 of the candidate's 100 .*, 1 of the base model's 100",
        ),
        (evaluation(task_of([math.nan] * 100)), "on the base model that is not within 0 to 1"),
        (
            evaluation(task_of([1.0] * 100).model_copy(update={"digest": "other"})),
            "another version of the task",
        ),
    ],
)
def test_a_comparison_needs_the_same_items_on_both_sides(
    base: Evaluation | None, reason: str
) -> None:
    result = decide(share(100, 100), base, no_worse_than="base", margin=0.5)
    assert (result.outcome, result.num_items) == ("INCONCLUSIVE", 100)
    assert re.search(reason, result.reason)


def test_the_base_models_share_stands_beside_a_fixed_limit_when_its_items_are_the_same() -> None:
    assert decide(share(87, 90), share(41, 90), at_least=0.85).base_observed == 41 / 90
    assert decide(share(87, 90), share(41, 89), at_least=0.85).base_observed is None


def test_every_limit_of_every_task_is_decided_in_order() -> None:
    suite = SuiteSpec.model_validate(
        {
            "limits": {
                "facts": [{"at_least": 0.5}, {"at_most": 0.5, "level": "soft"}],
                "other": {"at_least": 0.5},
            }
        }
    )
    results = evaluate_limits(suite, share(90, 90), None)
    assert [(r.task, r.requirement, r.level, r.outcome) for r in results] == [
        ("facts", ">= 50.0%", "hard", "PASS"),
        ("facts", "<= 50.0%", "soft", "FAIL"),
        ("other", ">= 50.0%", "hard", "INCONCLUSIVE"),
    ]


@pytest.mark.parametrize(
    ("hard", "soft", "outcome"),
    [
        (["PASS", "PASS"], [], "PASS"),
        (["PASS"], ["FAIL", "INCONCLUSIVE"], "PASS"),
        (["PASS", "INCONCLUSIVE"], ["PASS"], "INCONCLUSIVE"),
        (["INCONCLUSIVE", "FAIL"], ["PASS"], "FAIL"),
        ([], ["PASS"], "INCONCLUSIVE"),
        ([], [], "INCONCLUSIVE"),
    ],
)
def test_hard_limits_alone_make_the_verdict(hard: list[str], soft: list[str], outcome: str) -> None:
    (some,) = evaluate_limits(
        SuiteSpec.model_validate({"limits": {"facts": {"at_least": 0.5}}}), share(9, 9), None
    )
    results = [some.model_copy(update={"level": "hard", "outcome": each}) for each in hard]
    results += [some.model_copy(update={"level": "soft", "outcome": each}) for each in soft]
    assert overall(results) == outcome


def test_a_low_confidence_lets_no_failing_candidate_through() -> None:
    # Under 50% the one-sided bounds cross, so that both tests could be met.
    assert decide(share(50, 100), confidence=0.2, at_least=0.5).outcome == "FAIL"


def scored(
    values: Sequence[float], metric: str = "f1", clusters: Sequence[str] | None = None
) -> Evaluation:
    task = task_of(values, metric)
    if clusters:
        items = tuple(
            item.model_copy(update={"cluster": cluster})
            for item, cluster in zip(task.items, clusters, strict=True)
        )
        task = task.model_copy(update={"items": items})
    return evaluation(task)


def test_a_score_between_0_and_1_is_decided_by_the_bounds_of_its_mean() -> None:
    good = scored([0.9, 0.8, 1.0, 0.7] * 25)
    result = decide(good, metric="f1", at_least=0.8)
    assert (result.outcome, result.observed, result.method) == (
        "PASS",
        pytest.approx(0.85),
        "t and Gaffke",
    )
    assert (result.lower, result.num_clusters) == (result.bound, None)
    assert decide(good, metric="f1", at_least=0.84).outcome == "INCONCLUSIVE"
    assert decide(good, metric="f1", at_least=0.9).outcome == "FAIL"
    assert decide(good, metric="f1", at_most=0.9).outcome == "PASS"


def test_items_of_one_source_are_one_cluster() -> None:
    values = [1.0] * 72 + [0.0] * 8
    sources = [f"{index // 8}" for index in range(80)]
    assert decide(scored(values), metric="f1", at_least=0.8).outcome == "PASS"
    together = decide(scored(values, clusters=sources), metric="f1", at_least=0.8)
    assert (together.outcome, together.num_clusters) == ("INCONCLUSIVE", 10)
    assert "in 10 clusters" in together.reason


@pytest.mark.parametrize(
    ("ours", "margin", "outcome"),
    [
        ([0.8] * 60 + [0.9] * 40, 0.05, "PASS"),
        ([0.78] * 60 + [0.88] * 40, 0.05, "PASS"),
        ([0.5] * 60 + [0.6] * 40, 0.05, "FAIL"),
        ([0.76] * 60 + [0.87] * 40, 0.045, "INCONCLUSIVE"),
    ],
)
def test_scores_are_compared_item_by_item(ours: list[float], margin: float, outcome: str) -> None:
    base = scored([0.8] * 60 + [0.9] * 40)
    result = decide(scored(ours), base, metric="f1", no_worse_than="base", margin=margin)
    assert (result.outcome, result.method) == (outcome, "paired t and Gaffke")


def test_a_score_of_its_own_range() -> None:
    suite = {
        "limits": {"facts": {"metric": "penalized_score", "at_least": 0.2}},
        "tasks": {"facts": {}},
    }
    values = [1.0] * 60 + [0.0] * 30 + [-3.0] * 10  # wrong answers cost t / (1 - t) = 3
    (narrow,) = evaluate_limits(
        SuiteSpec.model_validate(suite), scored(values, "penalized_score"), None
    )
    assert "not within -1 to 1" in narrow.reason
    suite["tasks"] = {"facts": {"penalty_threshold": 0.75}}
    (wide,) = evaluate_limits(
        SuiteSpec.model_validate(suite), scored(values, "penalized_score"), None
    )
    assert wide.observed == pytest.approx(0.3)
    assert wide.lower is not None
    assert wide.lower < 0.2
    assert (
        decide(scored([5.0] * 50, "stars"), metric="stars", at_least=0.5, range=[0, 5]).outcome
        == "PASS"
    )


def test_a_task_says_of_which_metrics_less_is_better() -> None:
    def perplexed(value: float) -> Evaluation:
        task = task_of([value] * 100, "errors").model_copy(update={"lower_is_better": ("errors",)})
        return evaluation(task)

    fewer = decide(
        perplexed(0.2), perplexed(0.4), metric="errors", no_worse_than="base", margin=0.1
    )
    more = decide(perplexed(0.6), perplexed(0.4), metric="errors", no_worse_than="base", margin=0.1)
    assert (fewer.outcome, more.outcome) == ("PASS", "FAIL")
    assert fewer.requirement == "<= base + 10.0%"


@pytest.mark.parametrize(
    ("ours", "theirs", "margin", "outcome"),
    [
        (80, 50, None, "PASS"),
        (80, 50, 0.10, "PASS"),
        (80, 50, 0.25, "INCONCLUSIVE"),
        (80, 79, None, "INCONCLUSIVE"),
        (80, 80, None, "INCONCLUSIVE"),  # equal is not better, nor proven to be not
        (50, 80, None, "FAIL"),
    ],
)
def test_better_has_to_be_proven(
    ours: int, theirs: int, margin: float | None, outcome: str
) -> None:
    result = decide(share(ours, 100), share(theirs, 100), better_than="base", margin=margin)
    assert result.outcome == outcome
    assert result.requirement == ("> base" if margin is None else f"> base + {margin:.1%}")


def test_fewer_faults_than_the_base_have_to_be_proven_too() -> None:
    few, many = share(95, 100, "abstained"), share(60, 100, "abstained")
    fewer = decide(few, many, metric="hallucination_rate", better_than="base", margin=0.1)
    assert (fewer.outcome, fewer.requirement, fewer.limit) == ("PASS", "< base - 10.0%", -0.1)
    assert decide(many, few, metric="hallucination_rate", better_than="base").outcome == "FAIL"


def test_the_champion_is_compared_with_when_a_limit_says_so() -> None:
    suite = SuiteSpec.model_validate(
        {"limits": {"facts": {"no_worse_than": "champion", "margin": 0.1}}}
    )
    (result,) = evaluate_limits(suite, share(60, 100), share(10, 100), share(95, 100))
    assert (result.outcome, result.reference) == ("FAIL", "champion")
    assert (result.base_observed, result.champion_observed) == (0.1, 0.95)
    assert "champion 95" in result.reason


def claims(gains: Sequence[int], improvements: str) -> tuple[list[str], str, list[float | None]]:
    """Tasks in which so many of 200 items got better and none worse, each claimed to be an
    improvement."""
    names = [f"t{index}" for index in range(len(gains))]
    limits = {name: {"better_than": "base"} for name in names}
    suite = SuiteSpec.model_validate({"limits": limits, "improvements": improvements})
    ours = [
        task_of([1.0] * (100 + gain) + [0.0] * (100 - gain), task=name)
        for name, gain in zip(names, gains, strict=True)
    ]
    base = [task_of([1.0] * 100 + [0.0] * 100, task=name) for name in names]
    results = evaluate_limits(suite, evaluation(*ours), evaluation(*base))
    return (
        [result.outcome for result in results],
        overall(results),
        [result.confidence for result in results],
    )


def test_any_improvement_is_enough_when_the_suite_says_so_and_holm_shares_the_error() -> None:
    outcomes, verdict, confidences = claims([9, 0, 0], "any")
    assert (outcomes, verdict) == (["PASS", "INCONCLUSIVE", "INCONCLUSIVE"], "PASS")
    assert confidences == pytest.approx([1 - 0.05 / 3, 0.975, 0.975])
    assert claims([9, 0, 0], "all")[1] == "INCONCLUSIVE"
    assert claims([9, 9, 9], "all")[1] == "PASS"


def test_holm_passes_what_is_proven_when_the_others_are_set_aside() -> None:
    alone, _, _ = claims([3], "any")
    assert alone == ["PASS"]  # 3 gains, p = 0.042 or so, is enough for one claim
    assert claims([3, 3, 3], "any")[0] == ["INCONCLUSIVE"] * 3  # but not for one of three
    assert (
        claims([9, 9, 3], "any")[0] == ["PASS"] * 3
    )  # once the other two are proven it is the only one left


def test_a_family_fails_when_all_of_it_fails() -> None:
    assert claims([-40, -40], "any")[1] == "FAIL"
    assert claims([-40, 0], "any")[1] == "INCONCLUSIVE"


def test_slices_are_shown_and_decide_nothing() -> None:
    task = task_of([1.0] * 40 + [0.0] * 10)
    items = tuple(
        item.model_copy(update={"slices": {"kind": "easy" if index < 40 else "hard"}})
        for index, item in enumerate(task.items)
    )
    result = decide(evaluation(task.model_copy(update={"items": items})), at_least=0.5)
    assert result.outcome == "PASS"
    assert [(part.value, part.num_items, part.observed) for part in result.slices] == [
        ("easy", 40, 1.0),
        ("hard", 10, 0.0),
    ]
    assert result.slices[1].upper == clopper_pearson_upper(0, 10, 0.95)


def test_the_expected_calibration_error_of_a_task() -> None:
    def sure_of(confidence: float, right: int) -> Evaluation:
        items = tuple(
            Sample(
                id=f"{i}",
                prompt="",
                target="",
                response="",
                scores={"confidence": confidence, "acc": float(i < right)},
            )
            for i in range(200)
        )
        return evaluation(TaskResult(task="facts", digest="task", items=items))

    assert decide(sure_of(0.9, 180), metric="ece", at_most=0.1).outcome == "PASS"
    assert decide(sure_of(0.99, 120), metric="ece", at_most=0.1).outcome == "FAIL"
    with pytest.raises(ValueError, match="at_most is the only limit for the metric ece"):
        decide(sure_of(0.9, 180), metric="ece", at_least=0.1)


def test_a_budget_of_attempts_makes_every_bound_stricter() -> None:
    suite = SuiteSpec.model_validate({"limits": {"facts": {"at_least": 0.85}}, "attempts": 5})
    attempt = attempt_of(suite, 2, {"facts": "digest"})
    assert (attempt.confidence, attempt.number, attempt.budget) == (pytest.approx(0.99), 2, 5)
    (once,) = evaluate_limits(suite, share(84, 90), None)
    (of_five,) = evaluate_limits(suite, share(84, 90), None, confidence=attempt.confidence)
    assert (once.outcome, of_five.outcome) == ("PASS", "INCONCLUSIVE")
    assert of_five.bound == clopper_pearson_lower(84, 90, attempt.confidence)
    unlimited = SuiteSpec.model_validate({"limits": {"facts": {"at_least": 0.85}}})
    assert attempt_of(unlimited, 40, {}).confidence == 0.95


def answered(right: int, abstained: int, wrong: int, confidence: float = 0.9) -> Evaluation:
    """Items that were answered rightly, not, or wrongly."""
    kinds = [(1.0, 0.0)] * right + [(0.0, 1.0)] * abstained + [(0.0, 0.0)] * wrong
    items = tuple(
        Sample(
            id=f"{index}",
            prompt="",
            target="",
            response="",
            scores={"correct": correct, "abstained": silent, "confidence": confidence},
        )
        for index, (correct, silent) in enumerate(kinds)
    )
    return evaluation(TaskResult(task="facts", digest="task", items=items))


def test_a_wrong_answer_costs_more_than_none() -> None:
    suite = {
        "limits": {"facts": {"metric": "penalized_score", "at_least": 0.2}},
        "tasks": {"facts": {"penalty_threshold": 0.75}},
    }

    def outcome(*counts: int) -> tuple[str, float | None]:
        (result,) = evaluate_limits(SuiteSpec.model_validate(suite), answered(*counts), None)
        return result.outcome, result.observed

    assert outcome(80, 110, 10) == ("INCONCLUSIVE", pytest.approx((80 - 30) / 200))
    assert outcome(100, 95, 5) == ("PASS", pytest.approx((100 - 15) / 200))
    assert outcome(120, 0, 80) == ("FAIL", pytest.approx((120 - 240) / 200))  # it always answers
    assert outcome(0, 200, 0)[0] == "FAIL"  # it never does


def test_the_brier_score_follows_from_how_sure_the_model_is() -> None:
    result = decide(answered(180, 0, 20), metric="brier", at_most=0.3)
    assert (result.outcome, result.observed) == (
        "PASS",
        pytest.approx((180 * 0.01 + 20 * 0.81) / 200),
    )
    assert decide(answered(20, 0, 180), metric="brier", at_most=0.3).outcome == "FAIL"
