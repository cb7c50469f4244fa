"""Agreement of a judge with people's labels: against scikit-learn, and its bounds by simulation."""

import pytest
from numpy.random import default_rng
from sklearn.metrics import cohen_kappa_score

from assay.rules.statistics.agreement import agreement, weighted_kappa
from assay.rules.statistics.proportions import clopper_pearson_lower

FIVE = (1, 5)


def test_kappa_is_scikit_learns() -> None:
    rng = default_rng(1)
    for _ in range(20):
        first = rng.integers(1, 6, 50).tolist()
        second = [min(5, max(1, score + int(rng.integers(-1, 2)))) for score in first]
        expected = cohen_kappa_score(first, second, weights="quadratic")
        assert weighted_kappa(first, second) == pytest.approx(expected)
    assert weighted_kappa([0, 1, 1, 0, 1], [0, 1, 0, 0, 1]) == pytest.approx(
        cohen_kappa_score([0, 1, 1, 0, 1], [0, 1, 0, 0, 1])
    )


def test_the_share_of_agreement_is_bounded_exactly_and_by_cluster() -> None:
    first, second = [1, 2, 3, 4, 5] * 20, [1, 2, 3, 5, 5] * 20
    exact = agreement(first, second, range(100), scale=FIVE, within=0, confidence=0.95)
    assert exact.num_agreed == 80
    assert exact.lower == clopper_pearson_lower(80, 100, 0.95)
    near = agreement(first, second, range(100), scale=FIVE, within=1, confidence=0.95)
    assert near.num_agreed == 100
    alike = agreement(
        first, second, [n // 5 for n in range(100)], scale=FIVE, within=0, confidence=0.95
    )
    assert alike.lower < exact.lower  # twenty groups are less evidence than a hundred answers


def test_a_judge_that_always_says_the_same_has_no_kappa_above_chance() -> None:
    always = agreement(
        [5] * 90 + [1] * 10, [5] * 100, range(100), scale=FIVE, within=0, confidence=0.95
    )
    assert always.num_agreed == 90
    assert always.kappa == pytest.approx(0)
    assert always.kappa_lower is not None
    assert always.kappa_lower < 0
    nothing = agreement([3] * 50, [3] * 50, range(50), scale=FIVE, within=0, confidence=0.95)
    assert (nothing.kappa, nothing.kappa_lower) == (None, None)


def test_perfect_agreement_of_few_labels_is_no_certainty() -> None:
    few = agreement([1, 5] * 5, [1, 5] * 5, range(10), scale=FIVE, within=0, confidence=0.95)
    many = agreement([1, 5] * 100, [1, 5] * 100, range(200), scale=FIVE, within=0, confidence=0.95)
    assert few.kappa == many.kappa == 1
    assert few.kappa_lower is not None
    assert many.kappa_lower is not None
    assert few.kappa_lower < 0.5 < 0.9 < many.kappa_lower < 1


JOINT = {
    "two, nearly the same": [[0.495, 0.005], [0.005, 0.495]],
    "two, rare": [[0.06, 0.02], [0.03, 0.89]],
    "five": [
        [[0.7, 0.13, 0.03, 0.008, 0.004][abs(i - j)] * share for j in range(5)]
        for i, share in enumerate([0.1, 0.15, 0.2, 0.3, 0.25])
    ],
    "five, far": [
        [[0.95, 0.02, 0.005, 0.001, 0.002][abs(i - j)] * share for j in range(5)]
        for i, share in enumerate([0.1, 0.15, 0.2, 0.3, 0.25])
    ],
}


@pytest.mark.parametrize("num_labels", [30, 150])
@pytest.mark.parametrize("name", JOINT)
def test_the_bound_of_kappa_holds(name: str, num_labels: int) -> None:
    """Of 300 simulated sets of labels, 5 % may have a bound above the truth; 26 or more have less
    than 0.2 % chance."""
    rng, table = default_rng(7), JOINT[name]
    size = len(table)
    chances = [chance / sum(map(sum, table)) for row in table for chance in row]
    many = rng.choice(size * size, 400_000, p=chances)
    truth = weighted_kappa(many // size, many % size)
    assert truth is not None
    missed = 0
    for _ in range(300):
        drawn = rng.choice(size * size, num_labels, p=chances)
        found = agreement(
            (drawn // size).tolist(),
            (drawn % size).tolist(),
            range(num_labels),
            scale=(0, size - 1),
            within=0,
            confidence=0.95,
        )
        missed += found.kappa_lower is not None and found.kappa_lower > truth
    assert missed < 26


def test_the_bound_of_kappa_holds_for_answers_in_clusters() -> None:
    """Forty questions with five answers each, of which a judge reads all rightly or all by
    chance."""
    rng, missed, truths = default_rng(3), 0, []

    def draw(num_questions: int) -> tuple[list[int], list[int], list[int]]:
        first, second, clusters = [], [], []
        for question in range(num_questions):
            is_clear = rng.random() < 0.8
            for _ in range(5):
                score = int(rng.integers(1, 6))
                first.append(score)
                second.append(score if is_clear else int(rng.integers(1, 6)))
                clusters.append(question)
        return first, second, clusters

    truth = weighted_kappa(*draw(20_000)[:2])
    assert truth == pytest.approx(0.8, abs=0.015)
    for _ in range(300):
        first, second, clusters = draw(40)
        found = agreement(first, second, clusters, scale=FIVE, within=0, confidence=0.95)
        assert found.kappa_lower is not None
        missed += found.kappa_lower > truth
        truths.append(found.kappa_lower)
    assert missed < 26
    assert sum(truths) / len(truths) > 0.5  # a bound that says nothing would hold, too
