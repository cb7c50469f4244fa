"""Successive halving: how far each trial is trained."""

import random

import pytest

from assay.rules.search.halving import TrialBudget, expected_length, ladder, next_segment


def sweep(
    losses: list[float], scheduler: str, *, at_once: int = 1, seed: int = 0
) -> dict[TrialBudget, float | None]:
    """Runs a sweep whose trial i has `losses[i]` wherever it is looked at."""
    steps = ladder(scheduler, factor=3, num_rungs=2)
    ended: dict[TrialBudget, float | None] = {}
    running: list[TrialBudget] = []
    draw = random.Random(seed)
    while True:
        while len(running) < at_once and (
            segment := next_segment(ended, running, steps, num_trials=len(losses))
        ):
            assert segment not in running
            assert segment not in ended
            running.append(segment)
        if not running:
            return ended
        done = running.pop(draw.randrange(len(running)))
        ended[done] = losses[done[0]]


def share_of_the_grid(ended: dict[TrialBudget, float | None], num_trials: int) -> float:
    furthest = {trial: max(share for one, share in ended if one == trial) for trial, _ in ended}
    return sum(furthest.values()) / num_trials


def test_without_a_scheduler_every_trial_goes_to_its_end() -> None:
    assert set(sweep([3.0, 1.0, 2.0], "none")) == {(0, 1.0), (1, 1.0), (2, 1.0)}


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("order", range(5))
def test_halving_finds_the_best_for_less_than_two_fifths_of_the_grid(
    at_once: int, order: int
) -> None:
    losses = [float(i) for i in range(9)]
    random.Random(order).shuffle(losses)
    ended = sweep(losses, "asha", at_once=at_once, seed=order)
    finished = [trial for trial, share in ended if share == 1.0]
    assert losses.index(0.0) in finished
    if at_once == 1:
        assert share_of_the_grid(ended, 9) <= 0.4


def test_with_few_trials_the_best_goes_on_all_the_same() -> None:
    ended = sweep([2.0, 1.0], "asha")
    assert [segment for segment in ended if segment[1] == 1.0] == [(1, 1.0)]


def test_hyperband_gives_some_trials_a_later_look() -> None:
    ended = sweep([5.0, 4.0, 3.0, 2.0, 1.0, 0.0], "hyperband")
    first = {trial: min(share for one, share in ended if one == trial) for trial, _ in ended}
    assert sorted({round(share, 3) for share in first.values()}) == [0.111, 0.333, 1.0]


def test_a_failed_trial_is_not_promoted() -> None:
    steps = ladder("asha", factor=3, num_rungs=2)
    rung = steps.rungs[0]
    ended = {(0, rung): None, (1, rung): 2.0, (2, rung): None}
    assert next_segment(ended, [], steps, num_trials=3) == (1, steps.rungs[1])
    assert next_segment({(0, rung): None}, [], steps, num_trials=1) is None


@pytest.mark.parametrize(
    ("scheduler", "num_rungs", "at_once", "length"),
    [
        ("none", 1, 1, 3.0),
        ("none", 1, 3, 1.0),
        ("asha", 1, 1, 3 / 3 + 2 / 3),
        ("asha", 1, 3, 1.0),
        ("asha", 2, 2, 2 / 9 + 2 / 9 + 2 / 3),
    ],
)
def test_the_length_of_a_sweep_is_known_before_it_begins(
    scheduler: str, num_rungs: int, at_once: int, length: float
) -> None:
    steps = ladder(scheduler, factor=3, num_rungs=num_rungs)
    assert expected_length(steps, num_trials=3, at_once=at_once) == pytest.approx(length)
