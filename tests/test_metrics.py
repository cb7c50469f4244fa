"""The table of metrics, and which of them a task has."""

import re

import pytest
from pydantic import ValidationError

from assay.loader.annotations import meanings
from assay.records.record import digest_of
from assay.rules.gate.early_stopping import ABSTENTION_METRICS, ZERO_OR_ONE
from assay.rules.gate.evidence import LOWER_IS_BETTER
from assay.spec.block import Block
from assay.spec.gate import Limit, SuiteSpec, TaskSettings
from assay.spec.suite.judge import JudgeSpec
from assay.spec.values.metrics import HELD_OUT_CONFIG, METRICS, metric_fault, metrics_of, own_scores
from assay.spec.values.patterns import check_pattern

PLAIN = TaskSettings()
CHOICES = {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}, {"metric": "f1"}]}
JUDGE = JudgeSpec(
    url="http://judge/v1", model="j", rubric="Be kind.", labels="l.jsonl", min_agreement=0.7
)


def test_every_metric_stands_in_the_help_of_limits() -> None:
    said = meanings(Limit)["metric"]
    assert [metric.name for metric in METRICS if f"`{metric.name}`" not in said] == []


def test_what_the_rules_know_of_metrics_is_the_table() -> None:
    assert set(ABSTENTION_METRICS) == {"hallucination_rate", "over_abstention"}
    assert set(LOWER_IS_BETTER) == {"hallucination_rate", "over_abstention", "brier", "ece"}
    assert {"exact_match", "acc", "contains", "regex", "json_valid", "json_schema"} <= set(
        ZERO_OR_ONE
    )
    assert "rougeL" not in ZERO_OR_ONE


def test_a_task_that_generates_has_the_text_metrics_and_no_others() -> None:
    has = metrics_of(HELD_OUT_CONFIG, PLAIN, None)
    assert has is not None
    assert {"exact_match", "rougeL", "bleu", "chrf", "token_f1", "contains", "auto"} <= has
    assert {"penalized_score", "brier", "ece", "over_abstention"} <= has
    assert not {"judge", "regex", "json_schema", "acc", "hallucination"} & has


def test_settings_and_a_judge_bring_metrics() -> None:
    settings = TaskSettings(regex="x", json_schema={"type": "object"})
    has = metrics_of(HELD_OUT_CONFIG, settings, JUDGE)
    assert has is not None
    assert {"regex", "json_schema", "judge"} <= has


def test_a_choice_has_no_text_to_compare() -> None:
    has = metrics_of(CHOICES, PLAIN, JUDGE)
    assert has == {"acc", *ABSTENTION_METRICS, "penalized_score", "brier", "ece"}
    fault = metric_fault("rougeL", CHOICES, PLAIN, None)
    assert fault is not None
    assert "multiple_choice" in fault[0]


def test_scores_of_the_tasks_own_python_are_not_known() -> None:
    assert metrics_of({"process_results": object()}, PLAIN, None) is None
    assert metric_fault("rougeL", {"process_results": object()}, PLAIN, None) is None


def test_a_task_without_a_list_has_what_lm_eval_gives_it() -> None:
    assert own_scores({"output_type": "multiple_choice"}) == {"acc", "acc_norm"}
    assert own_scores({}) == {"exact_match"}


def test_heldout_takes_the_metric_that_fits_its_answers() -> None:
    suite = SuiteSpec.model_validate(
        {"limits": {"heldout": {"at_least": 0.5}, "facts": {"at_least": 0.5}}}
    )
    assert [suite.limits[task][0].metric for task in ("heldout", "facts")] == [
        "auto",
        "exact_match",
    ]
    assert SuiteSpec.model_validate_json(suite.model_dump_json()) == suite


@pytest.mark.parametrize(
    ("judge", "wrong"),
    [
        (None, "write `judge:"),
        ({"url": "http://j/v1", "model": "j"}, "write `judge:"),
        ({"url": "http://j/v1", "model": "j", "rubric": "r"}, "judge.labels"),
        ({"url": "http://j/v1", "model": "j", "rubric": "r", "labels": "l"}, "judge.min_agreement"),
        ({"url": "http://j/v1", "model": "j", "labels": "l"}, "go with a rubric"),
        ({"url": "http://j/v1", "model": "j", "rubric": "r", "scale": [5, 1]}, "lowest, highest"),
        ({"url": "http://j/v1", "model": "j", "rubric": "r", "agreement_within": 4}, "as wide"),
    ],
)
def test_a_judge_that_nobody_has_measured_decides_nothing(judge: object, wrong: str) -> None:
    suite = {"limits": {"facts": {"metric": "judge", "at_least": 0.5}}, "judge": judge}
    with pytest.raises(ValidationError, match=re.escape(wrong)):
        SuiteSpec.model_validate(suite)


def test_what_nobody_uses_does_not_change_the_digests_of_earlier_suites() -> None:
    said: dict[str, object] = {"url": "http://j/v1", "model": "j", "api_key_env": None}
    blocks: list[tuple[Block, set[str]]] = [
        (JudgeSpec.model_validate(said), set(said)),
        (
            PLAIN,
            set(TaskSettings.model_fields)
            - {"contains", "regex", "json_schema", "max_reasoning_toks"},
        ),
    ]
    for block, names in blocks:
        assert block.model_dump(mode="json").keys() == names
    assert digest_of(JUDGE.model_dump()) != digest_of(
        JUDGE.model_copy(update={"rubric": "x"}).model_dump()
    )


@pytest.mark.parametrize(
    "pattern", [r"^ORD-\d{6}$", r"(?i)\bsorry\b", r"\p{Lu}{2}(?:-\w+){1,9}", r"[^)(]*\)", ""]
)
def test_patterns_that_people_write(pattern: str) -> None:
    assert check_pattern(pattern) == pattern


@pytest.mark.parametrize(
    "pattern",
    [
        "((a{999}){999}){999}",
        "(?:" * 50 + "a" + ")+" * 50,
        "(" * 5000 + "a" + ")" * 5000,
        "a" * 3000,
        "(",
        "[z-a]",
    ],
)
def test_patterns_that_cannot_be_compiled_or_only_with_all_memory(pattern: str) -> None:
    with pytest.raises(ValueError, match="regular expression"):
        check_pattern(pattern)
