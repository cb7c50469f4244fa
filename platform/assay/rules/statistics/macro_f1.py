"""Bounds of the macro-averaged F1 of a classifier."""

from collections.abc import Sequence
from dataclasses import dataclass

from assay.rules.statistics.proportions import clopper_pearson_lower, clopper_pearson_upper


@dataclass(frozen=True)
class F1Bounds:
    """Each between 0 and 1."""

    observed: float
    lower: float
    upper: float
    num_classes: int


def macro_f1_bounds(targets: Sequence[str], answers: Sequence[str], confidence: float) -> F1Bounds:
    """One-sided bounds of the mean F1 over all classes that occur among `targets` or `answers`
    (equally long).

    F1 of a class is 2J / (1 + J), where J is the share of hits among the samples of which either
    the target or the answer is the class. Given how many these are, the hits are binomial, so that
    J has Clopper and Pearson's bounds; each class's is made at an equal part of the error
    (Bonferroni), and the mean of the bounds bounds the mean. Raises ValueError for lists of
    different lengths or without elements.
    """
    pairs = list(zip(targets, answers, strict=True))
    if not pairs:
        raise ValueError("no samples")
    classes = sorted({*targets, *answers})
    at = 1 - (1 - confidence) / len(classes)
    observed = lower = upper = 0.0
    for name in classes:
        concerned = sum(name in pair for pair in pairs)
        hits = sum(target == answer == name for target, answer in pairs)
        observed += _f1(hits / concerned)
        lower += _f1(clopper_pearson_lower(hits, concerned, at))
        upper += _f1(clopper_pearson_upper(hits, concerned, at))
    number = len(classes)
    return F1Bounds(observed / number, lower / number, upper / number, number)


def _f1(jaccard: float) -> float:
    return 2 * jaccard / (1 + jaccard)
