import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.rules.statistics.paired import paired_lower, paired_p
from assay.rules.statistics.power import (
    Direction,
    items_needed,
    pairs_needed,
    smallest_detectable,
    smallest_detectable_difference,
)
from assay.rules.statistics.proportions import clopper_pearson_lower, clopper_pearson_upper


def test_the_rule_of_three() -> None:
    # Without a single error, 59 items show with 95% confidence that the rate is at most 5%.
    assert items_needed(0.0, 0.05, 0.95, "at_most") == 59
    assert items_needed(1.0, 0.95, 0.95, "at_least") == 59


@pytest.mark.parametrize(
    ("observed", "limit", "direction"),
    [
        (0.05, 0.05, "at_most"),
        (0.2, 0.05, "at_most"),
        (0.0, 0.0, "at_most"),
        (1.0, 1.0, "at_least"),
        (0.8, 0.85, "at_least"),
    ],
)
def test_no_number_of_items_helps_a_share_that_misses_the_limit(
    observed: float, limit: float, direction: Direction
) -> None:
    assert items_needed(observed, limit, 0.95, direction) is None


def test_a_limit_that_nothing_can_miss_needs_one_item() -> None:
    assert items_needed(1.0, 1.0, 0.95, "at_most") == 1
    assert items_needed(0.0, 0.0, 0.95, "at_least") == 1


@given(st.integers(0, 40), st.sampled_from([0.1, 0.3, 0.5]), st.sampled_from([0.9, 0.95]))
@settings(max_examples=15, deadline=None)
def test_the_number_of_items_is_the_first_that_passes(
    misses: int, limit: float, confidence: float
) -> None:
    observed = misses / 200
    needed = items_needed(observed, limit, confidence, "at_most")
    if needed is None:
        assert observed > limit / 2
        return

    def passes(n: int) -> bool:
        return clopper_pearson_upper(math.ceil(observed * n - 1e-9), n, confidence) <= limit

    assert passes(needed)
    assert not any(passes(n) for n in range(max(1, needed - 50), needed))
    assert items_needed(1 - observed, 1 - limit, confidence, "at_least") == needed


@pytest.mark.parametrize(
    ("b", "c", "n", "margin"), [(0, 0, 10, 0.01), (3, 2, 90, 0.05), (5, 5, 100, 0.02)]
)
def test_the_number_of_pairs_is_enough_and_far_fewer_are_not(
    b: int, c: int, n: int, margin: float
) -> None:
    needed = pairs_needed(b, c, n, margin, 0.95)
    assert needed is not None

    def bound(items: int) -> float:
        return paired_lower(math.floor(b * items / n), math.ceil(c * items / n), items, 0.95)

    assert bound(needed) >= -margin - 1e-5
    assert bound(needed // 2) < -margin


def test_no_number_of_pairs_helps_a_difference_beyond_the_margin() -> None:
    assert pairs_needed(0, 10, 100, 0.05, 0.95) is None


def test_the_rate_that_a_suite_can_see() -> None:
    rate = smallest_detectable(120, 0.05, 0.95, direction="at_most")
    # 1 of 120 passes and 2 of 120 do not, so the rate is where at most 1 is seen in 80% of the
    # suites.
    assert rate is not None
    assert (1 - rate) ** 120 + 120 * rate * (1 - rate) ** 119 == pytest.approx(0.8, abs=1e-9)
    mirrored = smallest_detectable(120, 0.95, 0.95, direction="at_least")
    assert mirrored == pytest.approx(1 - rate, abs=1e-9)
    surer = smallest_detectable(120, 0.05, 0.95, direction="at_most", power=0.9)
    assert surer is not None
    assert surer < rate


def test_too_small_a_suite_can_show_nothing() -> None:
    assert smallest_detectable(58, 0.05, 0.95, direction="at_most") is None
    assert smallest_detectable(59, 0.05, 0.95, direction="at_most") is not None
    assert smallest_detectable(0, 0.5, 0.95, direction="at_least") is None
    assert clopper_pearson_lower(10, 10, 0.95) < 0.85
    assert smallest_detectable(10, 0.85, 0.95, direction="at_least") is None


def test_the_difference_that_a_suite_can_see() -> None:
    n, margin, discordant = 100, 0.1, 0.2
    found = smallest_detectable_difference(n, margin, discordant, 0.95)
    assert found is not None
    random = np.random.default_rng(9)
    gain, loss = (discordant + found) / 2, (discordant - found) / 2
    table = random.multinomial(n, [gain, loss, 1 - gain - loss], 4000)
    passes = {
        (b, c): paired_p(b, c, n, -margin) <= 0.05
        for b, c in {(int(b), int(c)) for b, c, _ in table}
    }
    passed = sum(passes[int(b), int(c)] for b, c, _ in table)
    assert passed / 4000 == pytest.approx(0.8, abs=0.025)
    more = smallest_detectable_difference(4 * n, margin, discordant, 0.95)
    assert more is not None
    assert -margin < more < found < 0.05


def test_ten_pairs_can_see_nothing() -> None:
    assert smallest_detectable_difference(10, 0.05, 0.1, 0.95) is None
