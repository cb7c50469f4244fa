"""What can be said of one answer: whether it is right, and the scores that follow from others."""

from assay.records.gate import Sample
from assay.spec.values.metrics import RIGHT

DERIVED = ("penalized_score", "brier")
"""Scores that follow from others."""


def score_of(item: Sample, score: str, penalty_threshold: float) -> float | None:
    """An item's score, as it was given or as it follows from others; None when neither can be had.

    `penalized_score` is 1 for a right answer, 0 for an abstention, and -t/(1-t) for a wrong one, so
    that to answer pays for one who is sure by more than t (Kalai et al., "Why language models
    hallucinate", arXiv 2509.04664, section 5). `brier` is the squared distance between the answer's
    probability and whether it is right (Brier, Monthly Weather Review 78 (1950), 1-3).
    """
    if score in item.scores:
        return item.scores[score]
    right = is_right(item)
    if score == "penalized_score" and right is not None and "abstained" in item.scores:
        if right == 1:
            return 1.0
        if item.scores["abstained"]:
            return 0.0
        return -penalty_threshold / (1 - penalty_threshold)
    if score == "brier" and right is not None and "confidence" in item.scores:
        return (item.scores["confidence"] - right) ** 2
    return None


def is_right(item: Sample) -> float | None:
    """Whether an answer is right, by the first of the scores that say so."""
    return next((item.scores[name] for name in RIGHT if name in item.scores), None)
