from math import comb
from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.rules.statistics.proportions import (
    clopper_pearson_lower,
    clopper_pearson_upper,
    tango_lower,
    tango_score,
)

confidences = st.sampled_from([0.8, 0.9, 0.95, 0.975, 0.99])


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.integers(1, 400))
    return draw(st.integers(0, n)), n


@st.composite
def pairs(draw: st.DrawFn) -> tuple[int, int, int]:
    """Discordant counts of which either could be one greater."""
    n = draw(st.integers(1, 300))
    b = draw(st.integers(0, n - 1))
    return b, draw(st.integers(0, n - 1 - b)), n


def test_without_successes_or_failures_the_bound_has_a_closed_form() -> None:
    assert clopper_pearson_upper(0, 20, 0.95) == pytest.approx(1 - 0.05 ** (1 / 20), rel=1e-12)
    assert clopper_pearson_lower(10, 10, 0.95) == pytest.approx(0.05 ** (1 / 10), rel=1e-12)


@pytest.mark.parametrize(
    ("k", "n", "lower", "upper"),
    [  # two-sided 95% intervals in Newcombe, Statistics in Medicine 17 (1998), 857-872, table I
        (81, 263, 0.2527, 0.3676),
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
    ],
)
def test_published_exact_intervals(k: int, n: int, lower: float, upper: float) -> None:
    assert clopper_pearson_lower(k, n, 0.975) == pytest.approx(lower, abs=5e-5)
    assert clopper_pearson_upper(k, n, 0.975) == pytest.approx(upper, abs=5e-5)


def test_nothing_seen_proves_nothing() -> None:
    assert (clopper_pearson_lower(0, 0, 0.95), clopper_pearson_upper(0, 0, 0.95)) == (0.0, 1.0)
    assert tango_lower(0, 0, 0, 0.95) == -1.0


@pytest.mark.parametrize("n", [1, 5, 12])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_exact_bounds_cover_any_true_rate_at_least_as_often_as_they_say(
    n: int, confidence: float
) -> None:
    lower = [clopper_pearson_lower(k, n, confidence) for k in range(n + 1)]
    upper = [clopper_pearson_upper(k, n, confidence) for k in range(n + 1)]
    for p in (step / 200 for step in range(201)):
        chance = [comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        assert sum(chance[k] for k in range(n + 1) if lower[k] <= p) >= confidence - 1e-9
        assert sum(chance[k] for k in range(n + 1) if upper[k] >= p) >= confidence - 1e-9


@given(counts(), confidences)
def test_exact_bounds_enclose_the_share_and_mirror_each_other(
    kn: tuple[int, int], confidence: float
) -> None:
    k, n = kn
    lower, upper = clopper_pearson_lower(k, n, confidence), clopper_pearson_upper(k, n, confidence)
    assert 0 <= lower <= k / n <= upper <= 1
    assert upper == pytest.approx(1 - clopper_pearson_lower(n - k, n, confidence), abs=1e-9)


@given(counts(), confidences)
def test_exact_bounds_rise_with_successes_and_tighten_with_items(
    kn: tuple[int, int], confidence: float
) -> None:
    k, n = kn
    if k < n:
        assert clopper_pearson_lower(k + 1, n, confidence) > clopper_pearson_lower(k, n, confidence)
        assert clopper_pearson_upper(k + 1, n, confidence) > clopper_pearson_upper(k, n, confidence)
    assert clopper_pearson_lower(2 * k, 2 * n, confidence) >= clopper_pearson_lower(
        k, n, confidence
    )
    assert clopper_pearson_upper(2 * k, 2 * n, confidence) <= clopper_pearson_upper(
        k, n, confidence
    )
    assert clopper_pearson_upper(k, n, 0.999) >= clopper_pearson_upper(k, n, confidence)


def test_the_worked_example_of_tango() -> None:
    # Tango (1998), section 6.1: 44 pairs, one of them effective under the standard only; margin
    # 0.1.
    assert tango_score(0, 1, 44, -0.1) == pytest.approx(1.709, abs=5e-4)
    assert tango_lower(0, 1, 44, 0.95) == pytest.approx(-0.096, abs=5e-4)


@pytest.mark.parametrize(
    ("b", "c", "n", "lower", "upper"),
    [
        (
            1,
            7,
            21,
            -0.517,
            -0.026,
        ),  # Fagerland, Lydersen & Laake, Statistics in Medicine 33 (2014), 2850-2875
        (20, 60, 1000, -0.0584, -0.0231),  # R, PropCIs::scoreci.mp(60, 20, 1000, 0.95)
    ],
)
def test_published_score_intervals(b: int, c: int, n: int, lower: float, upper: float) -> None:
    digits = 5e-4 if n == 21 else 5e-5
    assert tango_lower(b, c, n, 0.975) == pytest.approx(lower, abs=digits)
    assert -tango_lower(c, b, n, 0.975) == pytest.approx(upper, abs=digits)


@pytest.mark.parametrize("n", [1, 10, 120, 5000])
def test_pairs_that_all_agree_still_leave_doubt(n: int) -> None:
    z2 = 1.6448536269514722**2
    assert tango_lower(0, 0, n, 0.95) == pytest.approx(-z2 / (n + z2), abs=1e-12)


@given(pairs(), confidences)
@settings(max_examples=60)
def test_the_score_bound_solves_its_equation_and_stays_below_the_difference(
    table: tuple[int, int, int], confidence: float
) -> None:
    b, c, n = table
    bound = tango_lower(b, c, n, confidence)
    assert -1 <= bound <= (b - c) / n <= -tango_lower(c, b, n, confidence) <= 1
    if bound > -1:
        z = NormalDist().inv_cdf(confidence)
        assert tango_score(b, c, n, bound - 1e-9) >= z >= tango_score(b, c, n, bound + 1e-9)
    assert tango_lower(b, c, n, 0.999) <= bound


@given(pairs(), confidences)
@settings(max_examples=60)
def test_the_score_bound_rises_with_gains_and_falls_with_losses(
    table: tuple[int, int, int], confidence: float
) -> None:
    b, c, n = table
    bound = tango_lower(b, c, n, confidence)
    assert tango_lower(b + 1, c, n, confidence) >= bound
    assert tango_lower(b, c + 1, n, confidence) <= bound


@pytest.mark.parametrize(
    ("k", "n", "confidence"),
    [(-1, 10, 0.95), (11, 10, 0.95), (0, -1, 0.95), (1, 10, 0.0), (1, 10, 1.0)],
)
def test_impossible_counts_are_refused(k: int, n: int, confidence: float) -> None:
    for bound in (clopper_pearson_lower, clopper_pearson_upper):
        with pytest.raises(ValueError, match=r"impossible counts|confidence"):
            bound(k, n, confidence)
    with pytest.raises(ValueError, match=r"impossible counts|confidence"):
        tango_lower(k, 0, n, confidence)


def test_more_discordant_pairs_than_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="6 and 5 of 10"):
        tango_lower(6, 5, 10, 0.95)
