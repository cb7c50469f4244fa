"""Reading learning rates off a run whose rate rises."""

import math

import pytest

from assay.records.stages import LossPoint
from assay.rules.search.lr_range import rates_to_try


def rising(losses: list[float], low: float = 1e-6, high: float = 1e-1) -> list[LossPoint]:
    factor = (high / low) ** (1 / (len(losses) - 1))
    return [
        LossPoint(step=i + 1, loss=loss, learning_rate=low * factor**i, tokens_per_s=1)
        for i, loss in enumerate(losses)
    ]


def falling_at(rate: float) -> list[LossPoint]:
    """Flat, then falling around `rate`, then exploding two decades above it."""
    points = rising([0.0] * 40)
    found = []
    for point in points:
        decades = math.log10(point.learning_rate / rate)
        loss = (
            3.0
            - 2.0 / (1 + math.exp(-4 * decades))
            + (math.exp(3 * (decades - 1.5)) if decades > 1 else 0.0)
        )
        found.append(point.model_copy(update={"loss": loss}))
    return found


@pytest.mark.parametrize("rate", [1e-4, 1e-3])
def test_the_rates_stand_around_the_steepest_fall(rate: float) -> None:
    low, middle, high = rates_to_try(falling_at(rate))
    assert rate / 2 <= middle <= rate * 4
    assert low == pytest.approx(middle / 3, rel=0.05)
    assert high == pytest.approx(middle * 3, rel=0.05)


def test_what_diverged_is_left_out() -> None:
    points = falling_at(1e-3)
    blown = [*points[:-4], *(point.model_copy(update={"loss": 1.7e308}) for point in points[-4:])]
    assert rates_to_try(blown) == rates_to_try(points)


def test_a_loss_that_never_falls_says_so() -> None:
    with pytest.raises(ValueError, match="did not fall"):
        rates_to_try(rising([1.0 + 0.1 * i for i in range(20)]))
    with pytest.raises(ValueError, match="not finite"):
        rates_to_try(rising([1.7e308] * 20))
