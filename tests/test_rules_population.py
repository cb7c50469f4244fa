"""Population-based training: who takes over from whom, and what is trained next."""

import random

import pytest

from assay.rules.search.halving import TrialBudget
from assay.rules.search.population import exploit, looks, next_turn, perturbed


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_no_trial_goes_on_before_all_have_come_to_the_look(at_once: int) -> None:
    draws, shares = random.Random(at_once), looks(3)
    ended: dict[TrialBudget, float | None] = {}
    running: list[TrialBudget] = []
    while True:
        while len(running) < at_once and (turn := next_turn(ended, running, shares, num_trials=4)):
            assert turn not in running
            running.append(turn)
        if not running:
            break
        assert len({share for _, share in running}) == 1
        ended[running.pop(draws.randrange(len(running)))] = draws.random()
    assert set(ended) == {(trial, share) for trial in range(4) for share in (0.25, 0.5, 0.75, 1.0)}


def test_nothing_goes_on_when_all_have_failed() -> None:
    assert next_turn({(0, 0.5): None, (1, 0.5): None}, [], (0.5, 1.0), num_trials=2) is None
    assert exploit([None, None], factor=3, draws=random.Random(0)) == {}


def test_the_worst_and_the_failed_take_over_from_the_best() -> None:
    draws = random.Random(0)
    assert exploit([2.0, 1.0], factor=3, draws=draws) == {0: 1}
    assert exploit([2.0, None, 1.0], factor=3, draws=draws) == {0: 2, 1: 2}
    found = exploit([6.0, 5.0, 4.0, 3.0, 2.0, 1.0], factor=3, draws=draws)
    assert set(found) == {0, 1}
    assert set(found.values()) <= {4, 5}
    assert exploit([1.0], factor=3, draws=draws) == {}


def test_a_perturbed_rate_stays_near_and_within_the_ends() -> None:
    draws = random.Random(0)
    rates = [perturbed(1e-3, (8e-4, 1e-2), draws) for _ in range(200)]
    assert 8e-4 <= min(rates) < 9e-4
    assert 1.9e-3 < max(rates) <= 2e-3
