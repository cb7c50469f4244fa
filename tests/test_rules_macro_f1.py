import random

import pytest

from assay.rules.statistics.macro_f1 import macro_f1_bounds


def draw(
    draws: random.Random, number: int, right: float, classes: str = "abc"
) -> tuple[list[str], list[str]]:
    """Targets of which the first class is as frequent as all others, and answers of which a share
    is right."""
    targets = [draws.choice((classes[0], draws.choice(classes[1:]))) for _ in range(number)]
    answers = [
        target
        if draws.random() < right
        else draws.choice([name for name in classes if name != target])
        for target in targets
    ]
    return targets, answers


def test_the_observed_value_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    targets, answers = draw(random.Random(0), 200, 0.7)
    found = macro_f1_bounds(targets, answers, 0.95)
    assert found.observed == pytest.approx(metrics.f1_score(targets, answers, average="macro"))


def test_the_true_value_lies_below_the_lower_bound_in_no_more_than_one_in_twenty() -> None:
    draws = random.Random(1)
    truth = macro_f1_bounds(*draw(draws, 200_000, 0.8), 0.95).observed
    bounds = [macro_f1_bounds(*draw(draws, 120, 0.8), 0.95) for _ in range(600)]
    assert sum(found.lower > truth for found in bounds) <= 0.05 * len(bounds)
    assert sum(found.upper < truth for found in bounds) <= 0.05 * len(bounds)
    assert sum(found.lower for found in bounds) / len(bounds) > truth - 0.2  # and says something


def test_a_class_that_is_never_right_counts_as_nothing() -> None:
    found = macro_f1_bounds(["a"] * 50 + ["b"] * 50, ["a"] * 100, 0.95)
    assert found.observed == pytest.approx(1 / 3)
    assert found.lower < 1 / 3 < found.upper


def test_without_samples_there_is_nothing_to_bound() -> None:
    with pytest.raises(ValueError, match="no samples"):
        macro_f1_bounds([], [], 0.95)
