"""Bounds of the expected calibration error."""

import math
from collections.abc import Hashable, Sequence

from assay.rules.statistics.means import MeanBounds, mean_bounds

NUM_BINS = 10


def calibration_bounds(
    confidences: Sequence[float],
    rights: Sequence[float],
    clusters: Sequence[Hashable] | None,
    confidence: float,
) -> MeanBounds:
    """Bounds of the expected calibration error over ten equal bins of confidence: the mean distance
    between how sure a model is of its answers, each between 0 and 1, and how often they are right
    (1) or wrong (0).

    With the sign of each bin's gap given, the error is a mean of (confidence - right) * sign, and
    that has bounds. The observed error is too high on average (Bröcker, Climate Dynamics 39 (2012),
    655-667), which makes the upper bound the safer one; for the lower bound that bias is taken off,
    bin by bin. Raises ValueError when the lengths differ.
    """
    gaps: list[float] = []
    where: list[int] = []
    bins: dict[int, list[float]] = {}
    for sure, right in zip(confidences, rights, strict=True):
        # A confidence of 1 belongs to the last bin, not to one behind it.
        place, gap = min(int(sure * NUM_BINS), NUM_BINS - 1), sure - right
        gaps.append(gap)
        where.append(place)
        bins.setdefault(place, []).append(gap)
    signs = {place: 1.0 if sum(found) >= 0 else -1.0 for place, found in bins.items()}
    signed = [signs[place] * gap for place, gap in zip(where, gaps, strict=True)]
    bounds = mean_bounds(signed, clusters, confidence, lowest=-1.0, highest=1.0)
    bias = sum(_bias(found) * len(found) for found in bins.values()) / len(gaps)
    return MeanBounds(
        max(0.0, bounds.mean), max(0.0, bounds.lower - bias), bounds.upper, bounds.num_clusters
    )


def _bias(gaps: Sequence[float]) -> float:
    """The most by which the size of a bin's mean gap is overstated: the mean size of its noise."""
    if len(gaps) == 1:
        return 1.0
    mean = sum(gaps) / len(gaps)
    variance = sum((gap - mean) ** 2 for gap in gaps) / (len(gaps) - 1)
    return math.sqrt(2 / math.pi * variance / len(gaps))
