import math

import pytest

from assay.rules.planning.power import (
    ASSUMED_DISCORDANCE,
    binomial_cdf,
    difference_limit,
    share_limit,
)
from assay.rules.statistics.power import Direction, smallest_detectable
from assay.rules.statistics.proportions import clopper_pearson_upper, tango_lower


@pytest.mark.parametrize(
    ("k", "n", "p"), [(0, 59, 0.05), (6, 120, 0.1), (40, 90, 0.5), (990, 1000, 0.98), (3, 3, 0.4)]
)
def test_the_binomial_tail_is_scipys(k: int, n: int, p: float) -> None:
    from scipy.special import bdtr

    assert binomial_cdf(k, n, p) == pytest.approx(float(bdtr(k, n, p)), rel=1e-9)


@pytest.mark.parametrize("n", [59, 90, 120, 400, 3000])
@pytest.mark.parametrize(
    ("limit", "direction"), [(0.05, "at_most"), (0.1, "at_most"), (0.8, "at_least")]
)
def test_what_can_be_shown_is_what_the_gate_would_show(
    n: int, limit: float, direction: Direction
) -> None:
    plan = share_limit("t", "", num_items=n, limit=limit, confidence=0.95, direction=direction)
    assert plan.detectable == pytest.approx(
        smallest_detectable(n, limit, 0.95, direction=direction), abs=1e-6
    )


def test_too_few_items_say_how_many_could_do() -> None:
    plan = share_limit("t", "", num_items=58, limit=0.05, confidence=0.95, direction="at_most")
    assert plan.detectable is None
    assert "59 without a single error" in plan.note
    assert clopper_pearson_upper(0, 59, 0.95) <= 0.05 < clopper_pearson_upper(0, 58, 0.95)


def test_the_items_needed_are_enough_for_the_example_and_half_are_not() -> None:
    plan = share_limit("t", "", num_items=10, limit=0.1, confidence=0.95, direction="at_most")
    needed = plan.num_items_needed
    assert needed is not None
    assert "5.0%" in plan.example
    for count, enough in ((needed, True), (needed // 2, False)):
        shown = smallest_detectable(count, 0.1, 0.95, direction="at_most")
        assert shown is not None
        assert (shown >= 0.05) is enough


def test_the_pairs_needed_show_the_margin_in_four_of_five_cases() -> None:
    plan = difference_limit("t", "", num_items=100, margin=0.1, confidence=0.95)
    n = plan.num_items_needed
    assert n is not None
    # The expected outcome, and the one that is a fifth from the bottom (0.84 standard errors below
    # it).
    differing = round(n * ASSUMED_DISCORDANCE)
    short = round(0.8416 * math.sqrt(differing))
    worse = (differing + short) // 2
    assert tango_lower(differing - worse, worse, n, 0.95) == pytest.approx(-0.1, abs=0.02)


def test_a_comparison_without_room_needs_no_number() -> None:
    assert (
        difference_limit("t", "", num_items=None, margin=0.0, confidence=0.95).num_items_needed
        is None
    )
