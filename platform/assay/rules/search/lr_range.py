"""Learning rates worth trying, read off a short run whose rate rises all the time (a range test:
Smith, Cyclical Learning Rates for Training Neural Networks, 2017)."""

import math
from collections.abc import Sequence

from assay.records.stages import LossPoint

# Weight of what came before, in the mean that runs along the losses.
SMOOTHING = 0.7
# Losses that were not finite are recorded as the largest float.
FINITE = 1e300
# The rates that are tried stand so far apart.
SPREAD = 3.0


def rates_to_try(history: Sequence[LossPoint]) -> tuple[float, float, float]:
    """The rate at which the loss falls fastest, with one below and one above it; the one above
    stays under the rate at which the loss was lowest. Raises `ValueError` when the loss never
    fell."""
    points = []
    for point in history:
        if point.learning_rate > 0 and point.loss < FINITE:
            points.append(point)
    smooth = _smoothed([point.loss for point in points])
    if len(points) < 4:
        raise ValueError("the loss was not finite for long enough to read anything off it")
    lowest = min(range(len(smooth)), key=lambda i: smooth[i])
    if lowest == 0:
        raise ValueError("the loss did not fall at any learning rate")
    logs = [math.log(point.learning_rate) for point in points]
    slopes = {
        i: (smooth[i] - smooth[i - 1]) / (logs[i] - logs[i - 1]) for i in range(1, lowest + 1)
    }
    steepest = min(slopes, key=lambda i: slopes[i])
    rate = min(points[steepest].learning_rate, points[lowest].learning_rate / SPREAD)
    return (_rounded(rate / SPREAD), _rounded(rate), _rounded(rate * SPREAD))


def _smoothed(losses: Sequence[float]) -> list[float]:
    """A mean that forgets, without the pull of its start (as in Adam: Kingma and Ba, 2014)."""
    mean, smooth = 0.0, []
    for number, loss in enumerate(losses, 1):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * loss
        smooth.append(mean / (1 - SMOOTHING**number))
    return smooth


def _rounded(rate: float) -> float:
    """Two digits are all that a person wants to read."""
    return float(f"{min(rate, 1.0):.2g}")
