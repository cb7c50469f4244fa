"""Bounds of mean scores, of pairs and of quantiles: against closed forms, against each other, and
by their error."""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.rules.statistics.calibration import calibration_bounds
from assay.rules.statistics.means import items_needed_for_mean, mean_bounds, mean_p
from assay.rules.statistics.paired import paired_lower, paired_p
from assay.rules.statistics.proportions import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    tango_lower,
    tango_score,
)
from assay.rules.statistics.quantiles import quantile, quantile_lower, quantile_upper

scores = st.lists(st.floats(0, 1, width=32), min_size=2, max_size=40)


@pytest.mark.parametrize(("k", "n"), [(3, 3), (5, 5), (87, 90), (0, 120), (60, 1000)])
@pytest.mark.parametrize("confidence", [0.95, 0.995])
def test_scores_that_are_0_or_1_are_bounded_as_shares_are_or_wider(
    k: int, n: int, confidence: float
) -> None:
    found = mean_bounds([1.0] * k + [0.0] * (n - k), None, confidence)
    lower, upper = clopper_pearson_lower(k, n, confidence), clopper_pearson_upper(k, n, confidence)
    assert found.lower <= lower + 1e-4
    assert found.upper >= upper - 1e-4
    if k in (0, n):  # Student's error is 0 there, so Gaffke's bound decides
        assert found.lower == pytest.approx(lower, abs=4e-3)
        assert found.upper == pytest.approx(upper, abs=4e-3)


@given(scores, st.sampled_from([0.9, 0.95, 0.99]))
@settings(max_examples=60, deadline=None)
def test_bounds_enclose_the_mean_within_the_range_and_mirror_each_other(
    values: list[float], confidence: float
) -> None:
    found = mean_bounds(values, None, confidence)
    assert 0 <= found.lower <= found.mean <= found.upper <= 1
    mirrored = mean_bounds([1 - value for value in values], None, confidence)
    assert mirrored.lower == pytest.approx(1 - found.upper, abs=1e-5)
    surer = mean_bounds(values, None, 0.999)
    assert surer.lower <= found.lower
    assert surer.upper >= found.upper


@given(scores, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_items_does_not_matter(
    values: list[float], random: "np.random.Generator"
) -> None:
    clusters = [f"{index % 5}" for index in range(len(values))]
    pairs = list(zip(values, clusters, strict=True))
    found = mean_bounds(values, clusters, 0.95)
    random.shuffle(pairs)  # type: ignore[arg-type]
    shuffled = mean_bounds([value for value, _ in pairs], [cluster for _, cluster in pairs], 0.95)
    assert (shuffled.lower, shuffled.upper) == (found.lower, found.upper)


def test_items_of_one_cluster_are_less_evidence_than_items_on_their_own() -> None:
    values = [float(index % 4 != 0) for index in range(80)]  # 75% right
    together = [f"source {index // 4}" for index in range(80)]
    alike = sorted(values)  # each source is right or wrong as a whole
    alone, mixed, same = (
        mean_bounds(v, c, 0.95) for v, c in ((values, None), (values, together), (alike, together))
    )
    assert same.lower < alone.lower - 0.05
    assert mixed.lower <= alone.lower  # symmetric clusters are no better than independent items
    assert (alone.num_clusters, same.num_clusters) == (80, 20)


def test_symmetric_clusters_have_a_width() -> None:
    differences = [
        1.0,
        -1.0,
    ] * 20  # every cluster's sum is 0, and so is the clustered standard error
    found = mean_bounds(
        differences, [f"{index // 2}" for index in range(40)], 0.95, lowest=-1, highest=1
    )
    assert found.mean == 0
    assert found.lower < -0.2
    assert found.upper > 0.2


@given(scores, st.floats(0.05, 0.9))
@settings(max_examples=40, deadline=None)
def test_the_bound_is_where_the_p_value_is_the_error(
    values: list[float], hypothesis: float
) -> None:
    bound, p = mean_bounds(values, None, 0.95).lower, mean_p(values, None, hypothesis)
    if abs(bound - hypothesis) > 1e-4 and hypothesis < sum(values) / len(values):
        assert (bound > hypothesis) == (p < 0.05)


def test_equal_scores_have_a_width() -> None:
    found = mean_bounds([0.7] * 50, None, 0.95)
    assert found.lower < 0.7 - 0.02
    assert found.upper > 0.7 + 0.005


def test_a_single_cluster_proves_nothing() -> None:
    found = mean_bounds([0.9] * 100, ["one"] * 100, 0.95)
    assert (found.lower, found.upper, found.num_clusters) == (0.0, 1.0, 1)


def test_no_scores_prove_nothing() -> None:
    found = mean_bounds([], None, 0.95)
    assert math.isnan(found.mean)
    assert (found.lower, found.upper) == (0.0, 1.0)


@pytest.mark.parametrize("strange", [math.nan, math.inf, -0.1, 1.1])
def test_scores_out_of_range_are_refused(strange: float) -> None:
    with pytest.raises(ValueError, match="outside 0 to 1"):
        mean_bounds([0.5, strange], None, 0.95)
    with pytest.raises(ValueError, match="2 scores, but 1 cluster"):
        mean_bounds([0.5, 0.5], ["a"], 0.95)


def drawn(kind: str, n: int, random: np.random.Generator) -> np.ndarray:
    """Differences with a mean of -0.05, the margin: skewed, heavy, or nearly normal."""
    if kind == "rare losses":  # a few answers are lost entirely
        return -(random.random(n) < 0.05).astype(float)
    if kind == "many small":
        return random.normal(-0.05, 0.1, n).clip(-1, 1)
    return random.choice([-1.0, 0.5], n, p=[0.55 / 1.5, 0.95 / 1.5])


@pytest.mark.parametrize("kind", ["rare losses", "many small", "two-sided"])
def test_no_more_than_one_in_twenty_passes_at_the_margin(kind: str) -> None:
    random = np.random.default_rng(7)
    draws = 1000
    passed = sum(
        mean_p(drawn(kind, 50, random).tolist(), None, -0.05, lowest=-1, highest=1) <= 0.05
        for _ in range(draws)
    )
    assert passed <= 0.05 * draws + 2 * math.sqrt(0.05 * 0.95 * draws)


def test_about_how_many_items_a_mean_needs() -> None:
    assert items_needed_for_mean(100, 0.9, 0.85, 0.875) == 400
    assert items_needed_for_mean(100, 0.1, 0.2, 0.15) == pytest.approx(400, abs=1)
    assert items_needed_for_mean(100, 0.8, 0.7, 0.85) is None


def test_ten_pairs_that_agree_still_leave_26_points_of_doubt() -> None:
    assert paired_lower(0, 0, 10, 0.95) == pytest.approx(
        -(1 - 0.05**0.1), abs=1e-4
    )  # 1 - alpha^(1/n)
    assert paired_lower(0, 0, 5, 0.95) == pytest.approx(-(1 - 0.05**0.2), abs=1e-4)


@given(
    st.integers(1, 60).flatmap(
        lambda n: st.tuples(st.integers(0, n), st.integers(0, n), st.just(n))
    )
)
@settings(max_examples=25, deadline=None)
def test_the_exact_bound_is_never_above_tangos_and_is_where_the_chance_is(
    table: tuple[int, int, int],
) -> None:
    b, c, n = table[0], min(table[1], table[2] - table[0]), table[2]
    bound = paired_lower(b, c, n, 0.95)
    assert -1 <= bound <= tango_lower(b, c, n, 0.95)
    assert bound <= (b - c) / n <= -paired_lower(c, b, n, 0.95)
    if bound > -1:
        assert paired_p(b, c, n, bound) <= 0.05 + 1e-9


@pytest.mark.parametrize(("n", "margin"), [(50, 0.02), (100, 0.1), (100, 0.02)])
def test_the_exact_test_keeps_its_error_where_tango_and_wald_do_not(n: int, margin: float) -> None:
    methods: list[Callable[[int, int, int], bool]] = [
        lambda b, c, n: paired_p(b, c, n, -margin) <= 0.05,
        lambda b, c, n: tango_score(b, c, n, -margin) >= 1.6449,
        lambda b, c, n: wald(b, c, n) >= -margin,
    ]
    fewest = [[fewest_gains(passes, c, n) for c in range(n // 2)] for passes in methods]
    worst = [0.0, 0.0, 0.0]
    for discordant in np.linspace(margin, 0.3, 40):
        loss, gain = (discordant + margin) / 2, (discordant - margin) / 2
        chance = [[trinomial(b, c, n, gain, loss) for b in range(n - c + 1)] for c in range(n // 2)]
        error = [sum(sum(chance[c][least:]) for c, least in enumerate(gains)) for gains in fewest]
        worst = [max(pair) for pair in zip(worst, error, strict=True)]
    exact, tango, plain = worst
    assert exact <= 0.05 + 1e-4
    assert exact < tango < 0.06
    assert plain > 0.1


def fewest_gains(passes: Callable[[int, int, int], bool], c: int, n: int) -> int:
    """With `c` losses of `n`, the fewest gains that pass; one more than there can be when none
    do."""
    return bisect_left(range(n - c + 1), True, key=lambda b: passes(b, c, n))


def trinomial(b: int, c: int, n: int, gain: float, loss: float) -> float:
    rest = n - b - c
    if (gain <= 0 and b) or rest < 0:
        return 0.0
    log = math.lgamma(n + 1) - math.lgamma(b + 1) - math.lgamma(c + 1) - math.lgamma(rest + 1)
    return math.exp(
        log
        + (b * math.log(gain) if b else 0)
        + c * math.log(loss)
        + rest * math.log(1 - gain - loss)
    )


def wald(b: int, c: int, n: int) -> float:
    difference = (b - c) / n
    return difference - 1.6449 * math.sqrt(max(0.0, (b + c) / n - difference**2) / n)


@pytest.mark.parametrize(
    ("share", "confidence", "fewest"), [(0.95, 0.95, 59), (0.99, 0.95, 299), (0.5, 0.95, 5)]
)
def test_a_percentile_takes_enough_values(share: float, confidence: float, fewest: int) -> None:
    values = [float(value) for value in range(fewest)]
    assert quantile_upper(values, share, confidence) == fewest - 1
    assert quantile_upper(values[:-1], share, confidence) == math.inf
    assert quantile_upper([], share, confidence) == math.inf


def test_a_percentile_lies_between_its_bounds_as_often_as_they_say() -> None:
    random = np.random.default_rng(3)
    above = below = 0
    for _ in range(2000):
        values: Sequence[float] = random.exponential(1.0, 150).tolist()
        above += quantile_upper(values, 0.95, 0.95) >= -math.log(0.05)
        below += quantile_lower(values, 0.95, 0.95) <= -math.log(0.05)
    assert above >= 0.94 * 2000
    assert below >= 0.94 * 2000
    assert quantile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.0


def test_calibration_of_a_model_that_is_as_sure_as_it_is_right() -> None:
    random = np.random.default_rng(5)
    sure = random.random(800)
    right = (random.random(800) < sure).astype(float)
    found = calibration_bounds(sure.tolist(), right.tolist(), None, 0.95)
    assert found.lower < 0.01
    assert found.upper < 0.1


def test_calibration_of_a_model_that_is_always_sure() -> None:
    right = [1.0] * 60 + [0.0] * 40
    found = calibration_bounds([0.99] * 100, right, None, 0.95)
    assert found.mean == pytest.approx(0.39)
    assert 0.25 < found.lower < 0.39 < found.upper < 0.55


def test_a_badly_calibrated_model_passes_at_its_own_error_no_more_than_one_time_in_twenty() -> None:
    random = np.random.default_rng(11)
    passed = 0
    for _ in range(500):
        sure = np.repeat([0.55, 0.95], 50)
        right = random.random(100) < np.repeat([0.45, 0.85], 50)  # off by 10 points in each bin
        passed += (
            calibration_bounds(sure.tolist(), right.astype(float).tolist(), None, 0.95).upper
            <= 0.10
        )
    assert passed <= 0.05 * 500 + 2 * math.sqrt(0.05 * 0.95 * 500)
