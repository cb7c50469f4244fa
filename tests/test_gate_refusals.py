"""What must never pass for a proof: each of these ends in INCONCLUSIVE or is refused."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from assay.errors import InvalidInput
from assay.loader.load import load_suite
from assay.records.gate import Evaluation, LimitResult, Sample, TaskResult
from assay.rules.gate.verdict import evaluate_limits, overall
from assay.spec.gate import SuiteSpec

Scores = Sequence[float]


def evaluation(scores: Scores, metric: str = "exact_match", **more: Any) -> Evaluation:
    items = tuple(
        Sample(
            id=f"{index}",
            prompt="?",
            target="!",
            response="",
            scores={metric: score},
            **_each(more, index),
        )
        for index, score in enumerate(scores)
    )
    task = TaskResult(task="facts", digest="facts", items=items)
    return Evaluation(artifact_digest="model", model_name="bot", tasks=(task,), seconds=1.0)


def _each(more: dict[str, Any], index: int) -> dict[str, Any]:
    return {name: values[index] for name, values in more.items()}


def decide(candidate: Evaluation, base: Evaluation | None = None, **limit: Any) -> LimitResult:
    (result,) = evaluate_limits(
        SuiteSpec.model_validate({"limits": {"facts": limit}}), candidate, base
    )
    return result


def undecided(candidate: Evaluation, base: Evaluation | None, said: str, **limit: Any) -> None:
    result = decide(candidate, base, **limit)
    assert result.outcome == "INCONCLUSIVE", result.reason
    assert said in result.reason
    assert overall([result]) == "INCONCLUSIVE"


def test_ten_identical_items_do_not_certify_a_margin_of_one_point() -> None:
    same = evaluation([1.0] * 10)
    undecided(same, same, "-25.9%", no_worse_than="base", margin="1%")


def test_a_candidate_that_answered_10_of_the_bases_200_items() -> None:
    undecided(
        evaluation([1.0] * 10),
        evaluation([1.0] * 200),
        "the items differ",
        no_worse_than="base",
        margin="20%",
    )


def test_five_pairs() -> None:
    undecided(
        evaluation([1.0] * 5), evaluation([1.0] * 5), "45", no_worse_than="base", margin="10%"
    )
    undecided(
        evaluation([0.9] * 5), evaluation([0.9] * 5), "5 items", no_worse_than="base", margin="10%"
    )


def test_empty_results() -> None:
    undecided(evaluation([]), None, "has no items", at_least="1%")
    nothing = Evaluation(artifact_digest="model", model_name="bot", tasks=(), seconds=0.0)
    undecided(nothing, None, "was not evaluated", at_least="1%")
    assert overall([]) == "INCONCLUSIVE"


@pytest.mark.parametrize(
    "text", ["limits: {}\n", "confidence: 0.95\n", "{}\n", "", "limits: {facts: []}\n"]
)
def test_an_empty_suite_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "suite.yaml").write_text(text)
    with pytest.raises(InvalidInput):
        load_suite(tmp_path / "suite.yaml")


def test_symmetric_clusters_whose_naive_interval_has_no_width() -> None:
    ours, theirs = [1.0, 0.0] * 15, [0.0, 1.0] * 15  # each source: one item won, one lost
    sources = {"cluster": [f"source {index // 2}" for index in range(30)]}
    candidate, base = evaluation(ours, **sources), evaluation(theirs, **sources)
    undecided(candidate, base, "in 15 clusters", no_worse_than="base", margin="5%")


def test_a_base_so_bad_that_no_worse_means_nothing() -> None:
    bad, as_bad = [1.0] * 10 + [0.0] * 190, [1.0] * 9 + [0.0] * 191
    undecided(
        evaluation(as_bad), evaluation(bad), "itself so bad", no_worse_than="base", margin="10%"
    )
    # With a floor the candidate must reach it on its own, and a good one does.
    result = decide(
        evaluation(as_bad), evaluation(bad), no_worse_than="base", margin="10%", floor="50%"
    )
    assert result.outcome == "FAIL"
    good = evaluation([1.0] * 180 + [0.0] * 20)
    assert (
        decide(good, evaluation(bad), no_worse_than="base", margin="10%", floor="50%").outcome
        == "PASS"
    )
    assert decide(good, good, no_worse_than="base", margin="10%").outcome == "PASS"


def test_an_absolute_limit_beside_it_stands_for_the_floor() -> None:
    limits = {"facts": [{"no_worse_than": "base", "margin": "10%"}, {"at_least": "50%"}]}
    bad, as_bad = evaluation([1.0] * 10 + [0.0] * 190), evaluation([1.0] * 9 + [0.0] * 191)
    results = evaluate_limits(SuiteSpec.model_validate({"limits": limits}), as_bad, bad)
    assert [result.outcome for result in results] == ["PASS", "FAIL"]
    assert overall(results) == "FAIL"


def test_one_flip_in_twenty_judged_by_a_point_estimate() -> None:
    ours, theirs = [1.0] * 19 + [0.0], [1.0] * 20
    result = decide(evaluation(ours), evaluation(theirs), no_worse_than="base", margin="5%")
    assert result.observed == -0.05  # the point estimate meets the margin
    assert result.outcome == "INCONCLUSIVE"


def test_a_misspelt_metric() -> None:
    undecided(
        evaluation([1.0] * 50), None, "no score exact_macth", metric="exact_macth", at_least="1%"
    )


def test_a_misspelt_task_is_refused_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite/facts.yaml").write_text("task: facts\n")
    (tmp_path / "suite.yaml").write_text("limits: {fatcs: {at_least: 50%}}\n")
    with pytest.raises(InvalidInput, match="did you mean `facts`"):
        load_suite(tmp_path / "suite.yaml")


@pytest.mark.parametrize("strange", [math.nan, math.inf, -math.inf, 2.0])
def test_scores_that_are_no_scores(strange: float) -> None:
    for metric in ("exact_match", "f1"):
        scores = evaluation([1.0] * 99 + [strange], metric)
        undecided(scores, None, "not within 0 to 1", metric=metric, at_least="1%")
        undecided(evaluation([1.0] * 100, metric), scores, "on the base model", metric=metric, no_worse_than="base",
                  margin="50%")  # fmt: skip
    result = decide(
        evaluation([1.0] * 99 + [strange], "abstained"), metric="over_abstention", at_most="100%"
    )
    assert result.outcome == "INCONCLUSIVE"


def test_a_request_that_failed_is_no_wrong_answer_and_no_right_one() -> None:
    whole = evaluation([1.0] * 100)
    (task,) = whole.tasks
    lost = task.items[0].model_copy(update={"scores": {}, "error": "HTTP 503"})
    tasks = (task.model_copy(update={"items": (lost, *task.items[1:])}),)
    some = whole.model_copy(update={"tasks": tasks})
    undecided(some, None, "1 of 100 items got no answer on the candidate (HTTP 503)", at_least="1%")
    undecided(whole, some, "on the base model", no_worse_than="base", margin="50%")


def test_a_champion_that_was_not_weighed() -> None:
    undecided(
        evaluation([1.0] * 100),
        None,
        "the champion was not evaluated",
        no_worse_than="champion",
        margin="50%",
    )
