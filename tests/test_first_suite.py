"""The suite that `assay init` writes: it fits the answers, and has samples enough to decide."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from numpy.random import default_rng
from scipy.stats import binom

from assay.cli.commands.first_spec import FirstSpec, write_first_spec
from assay.engines.data.profile import answers_in
from assay.loader.load import load_spec, load_suite
from assay.rules.planning.first_suite import SCORE_GAIN, AnswerProfile, Form, first_suite
from assay.rules.planning.power import (
    ASSUMED_SPREAD,
    _items_for_gap,
    score_difference_limit,
    score_limit,
)
from assay.rules.planning.recommend import Template
from assay.rules.statistics.means import mean_bounds
from assay.rules.statistics.proportions import clopper_pearson_lower
from assay.spec.data import HeldOut
from assay.spec.gate import Limit

Line = dict[str, object]


def profile(
    form: Form = "answers",
    n: int = 5000,
    *,
    commonest: float = 0.001,
    words: int = 2,
    in_json: float = 0,
) -> AnswerProfile:
    return AnswerProfile(form, n, commonest, words, in_json)


@pytest.mark.parametrize("commonest", [0.2, 0.5, 0.675, 0.9])
@pytest.mark.parametrize("n", [1_000, 3_000, 100_000])
def test_a_limit_on_labels_is_above_the_commonest_and_can_be_shown(
    commonest: float, n: int
) -> None:
    suite = first_suite(profile("labels", n, commonest=commonest))
    limit = demanded(suite.limits[0])
    assert commonest < limit <= commonest + (1 - commonest) / 2 + 0.01
    num_samples = int(suite.share * n)
    if "too few" in suite.reason:
        assert (commonest, n) == (0.9, 1_000)
        return
    truth = limit + (1 - limit) / 2
    passing = [
        k for k in range(num_samples + 1) if clopper_pearson_lower(k, num_samples, 0.95) >= limit
    ]
    assert binom.sf(passing[0] - 1, num_samples, truth) >= 0.8


def demanded(limit: str) -> float:
    assert "exact_match" in limit
    return float(limit.rpartition("at_least: ")[2].rstrip("%}")) / 100


def test_too_few_labels_are_said_to_be_too_few_and_the_limit_can_still_be_met() -> None:
    suite = first_suite(profile("labels", 40, commonest=0.5))
    assert "8 samples are too few" in suite.reason
    assert clopper_pearson_lower(8, 8, 0.95) >= demanded(suite.limits[0])


@pytest.mark.parametrize(
    ("data", "limits"),
    [
        (profile(words=2), ["{metric: exact_match, better_than: base}"]),
        (profile(words=40), ["{metric: rougeL, better_than: base}"]),
        (profile("labels", commonest=0.99), ["{metric: exact_match, better_than: base}"]),
        (profile("preferences"), ["{metric: rougeL, no_worse_than: base, margin: 5%}"]),
        (
            profile(in_json=1),
            ["{metric: json_valid, at_least: 90%}", "{metric: rougeL, better_than: base}"],
        ),
        (None, ["{metric: auto, better_than: base}"]),
    ],
)
def test_the_metric_fits_the_answers(data: AnswerProfile | None, limits: list[str]) -> None:
    suite = first_suite(data)
    assert list(suite.limits) == limits
    assert suite.wants_judge == (data is not None and "rougeL" in limits[0])


def test_large_data_is_not_sealed_by_the_tenth() -> None:
    shares = [first_suite(profile(n=n, words=40)).share for n in (100, 1_000, 10_000, 1_000_000)]
    assert shares == [0.2, 0.2, 0.02, 0.001]


def test_the_samples_that_a_plan_names_show_a_mean_in_four_of_five_cases() -> None:
    """Against the bounds that decide, for the spread that is assumed. 300 draws of a power of 0.8
    give 0.73 or less with 0.2 % chance; far more than 0.8 would be samples for nothing."""
    rng = default_rng(5)
    for gap in (SCORE_GAIN, 0.1):
        n = _items_for_gap(gap, 0.95)
        differences = rng.normal(gap, ASSUMED_SPREAD, (300, n)).clip(-1, 1)
        shown = [
            mean_bounds(row.tolist(), None, 0.95, lowest=-1.0).lower > 0 for row in differences
        ]
        assert 0.73 < sum(shown) / 300 < 0.995
        plan = score_difference_limit("t", "", num_items=n, margin=0.0, confidence=0.95)
        assert plan.detectable == pytest.approx(gap, rel=0.01)
    on_limit = score_limit("t", "", num_items=100, limit=0.5, confidence=0.95, direction="at_least")
    assert on_limit.detectable is not None
    assert 0.55 < on_limit.detectable < 0.6
    impossible = score_limit(
        "t", "", num_items=10, limit=0.9, confidence=0.95, direction="at_least"
    )
    assert impossible.detectable is None


def label(number: int) -> Line:
    return {"text": f"mail {number}", "label": "spam" if number % 3 else "ham"}


def answer(number: int) -> Line:
    return {
        "prompt": f"question {number}",
        "completion": f"{number} is a number, and it has a good many properties.",
    }


def pair(number: int) -> Line:
    return {"prompt": f"question {number}", "chosen": f"good {number}", "rejected": "no"}


def order(number: int) -> Line:
    return {"prompt": f"question {number}", "completion": json.dumps({"id": number})}


@pytest.mark.parametrize(
    ("template", "line", "metrics"),
    [
        ("classify", label, ["exact_match"]),
        ("lora", answer, ["rougeL"]),
        ("dpo", pair, ["rougeL"]),
        ("lora", order, ["json_valid", "rougeL"]),
    ],
)
def test_init_writes_a_suite_for_the_data_that_it_is_shown(
    template: Template,
    line: Callable[[int], Line],
    metrics: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.jsonl").write_text(
        "".join(json.dumps(line(number)) + "\n" for number in range(2000))
    )
    write_first_spec(
        Path("spec.yaml"),
        FirstSpec(
            template=template,
            model="hf:Qwen/Qwen3-8B",
            data="train.jsonl",
            name="bot",
            reviewer="anna",
            user="ben",
        ),
    )
    suite = load_suite(Path("evals/bot.yaml"))
    limits: tuple[Limit, ...] = suite.limits["heldout"]
    assert [limit.metric for limit in limits] == metrics
    gate = load_spec(Path("spec.yaml")).data.gate
    assert not isinstance(gate, HeldOut)
    assert gate in (0.1, 0.15)
    if template == "classify":
        assert limits[0].at_least == pytest.approx(
            0.84
        )  # two thirds are spam; half of the rest must be right


def test_answers_are_counted_once_and_plain_text_has_none(tmp_path: Path) -> None:
    lines = [label(number) for number in range(30)] * 2
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = answers_in("a.jsonl", tmp_path)
    assert found is not None
    assert (found.num_examples, found.median_words, found.json_share) == (30, 1, 0)
    assert found.commonest == pytest.approx(2 / 3)
    (tmp_path / "text.jsonl").write_text('{"text": "once upon a time"}\n')
    assert answers_in("text.jsonl", tmp_path) is None
    assert answers_in("missing.jsonl", tmp_path) is None
    (tmp_path / "broken.jsonl").write_text("{\n")
    assert answers_in("broken.jsonl", tmp_path) is None
