"""A first suite for data that was looked at: what to measure, what to demand, and how many samples
can decide it.

What is demanded follows from the data or from the base model, never from a number that merely looks
well: where one answer is common, half of what always giving it gets wrong must be right; where
answers are free, the trained model must be better than the base model, which answers the same
samples.
"""

import math
from dataclasses import dataclass
from typing import Literal

from assay.rules.planning.power import difference_limit, score_difference_limit, share_limit
from assay.spec.values.metrics import SHORT_WORDS

CONFIDENCE = 0.95
# Of the data that may be sealed: round ones, and a fifth at most.
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2)
FEWEST_SAMPLES = 100
# Share of one answer from which on always giving it is what a model must beat.
COMMON = 0.1
# Share of one answer beyond which the data tells nothing apart.
NOTHING_ELSE = 0.97
# Over the base model, in exact matches, that samples are counted for; training on these very
# questions' kind is to show more than a few points.
GAIN = 0.1
# The same in ROUGE-L.
SCORE_GAIN = 0.05
# Of answers that are to be JSON.
JSON_PERCENT = 90

Form = Literal["answers", "labels", "preferences"]


@dataclass(frozen=True)
class AnswerProfile:
    """What the answers of a data set are like."""

    form: Form
    num_examples: int
    """Different ones."""
    commonest: float
    """Share of the commonest answer."""
    median_words: int
    json_share: float
    """Share of the answers that are a JSON object or list."""
    long_tokens: int = 0
    """Tokens of a whole example, about: 95 of 100 have no more."""


@dataclass(frozen=True)
class FirstSuite:
    """What `assay init` writes down."""

    share: float
    """Of the data, to be sealed for the gate."""
    reason: str
    """Why it is so."""
    limits: tuple[str, ...]
    """Of `heldout`, in YAML."""
    wants_judge: bool = False
    """Whether the answers are such that a judge would say more."""

    @property
    def percent(self) -> str:
        """The share as a spec has it."""
        return f"{100 * self.share:g}%"


def first_suite(profile: AnswerProfile | None) -> FirstSuite:
    """The suite for data like this; for data that is not there yet when there is no profile."""
    if profile is None:
        reason = (
            "The data was not there yet: `auto` is exact_match for short answers and rougeL for "
            "long ones."
        )
        return FirstSuite(0.1, reason, ("{metric: auto, better_than: base}",))
    if profile.form == "preferences":
        return _preferences(profile)
    if profile.json_share >= 0.95:
        return _json(profile)
    if profile.median_words > SHORT_WORDS and profile.form == "answers":
        return _long_answers(profile)
    if COMMON <= profile.commonest <= NOTHING_ELSE:
        return _few_answers(profile)
    return _short_answers(profile)


def _few_answers(profile: AnswerProfile) -> FirstSuite:
    """Labels, or answers of which one is common."""
    wanted = _demanded(profile.commonest)
    share, num_samples = _sealed(profile, _needed(wanted))
    always = f"Always giving the commonest answer is right in {profile.commonest:.1%}"
    more_than_that = range(wanted, math.floor(100 * profile.commonest), -1)
    demanded = next(
        (percent for percent in more_than_that if _needed(percent) <= num_samples), None
    )
    if demanded is None:
        # The most that n samples can show is the lower bound of n of n.
        most = math.floor(100 * (1 - CONFIDENCE) ** (1 / max(1, num_samples)))
        demanded = min(wanted, most)
        reason = (
            f"{always}, and {num_samples} samples are too few: only a model with next to no errors "
            "passes. Bring some "
            f"{math.ceil(_needed(wanted) / SHARES[-1]):,} examples, and demand {wanted}%."
        )
    else:
        if demanded == wanted:
            reason = f"{always}; half of what that gets wrong must be right."
        else:
            reason = (
                f"{always}. Half of what that gets wrong should be right, {wanted}%, but so "
                "many samples show less."
            )
        reason += (
            f" A model that is right in {100 - (100 - demanded) / 2:g}% passes in four of five "
            "cases with "
            f"{_needed(demanded)} samples, and there will be about {num_samples}."
        )
    return FirstSuite(share, reason, (f"{{metric: exact_match, at_least: {demanded}%}}",))


def _short_answers(profile: AnswerProfile) -> FirstSuite:
    plan = difference_limit(
        "heldout", "", num_items=None, margin=0.0, confidence=CONFIDENCE, truth=GAIN
    )
    share, enough = _enough(profile, plan.num_items_needed)
    reason = (
        "The answers are short and differ: the trained model must give more of them word for word "
        "than the base model. "
        f"A gain of {GAIN:.0%} shows in four of five cases {enough} Add `at_least` once you know "
        "what your users need."
    )
    return FirstSuite(share, reason, ("{metric: exact_match, better_than: base}",))


def _long_answers(profile: AnswerProfile) -> FirstSuite:
    plan = score_difference_limit(
        "heldout", "", num_items=None, margin=0.0, confidence=CONFIDENCE, truth=SCORE_GAIN
    )
    share, enough = _enough(profile, plan.num_items_needed)
    reason = (
        f"The answers have {profile.median_words} words in the median: the trained model must "
        "share more of them with "
        "the reference, in its order, than the base model. "
        f"A gain of {100 * SCORE_GAIN:g} points shows in four of five cases {enough}"
    )
    return FirstSuite(share, reason, ("{metric: rougeL, better_than: base}",), wants_judge=True)


def _preferences(profile: AnswerProfile) -> FirstSuite:
    plan = score_difference_limit(
        "heldout", "", num_items=None, margin=SCORE_GAIN, confidence=CONFIDENCE
    )
    share, enough = _enough(profile, plan.num_items_needed)
    reason = (
        "What people prefer is not in the words: this only sees to it that the answers do not move "
        "away from those "
        f"that were chosen. It shows in four of five cases {enough}"
    )
    limits = (f"{{metric: rougeL, no_worse_than: base, margin: {SCORE_GAIN:.0%}}}",)
    return FirstSuite(share, reason, limits, wants_judge=True)


def _json(profile: AnswerProfile) -> FirstSuite:
    share, enough = _enough(profile, _needed(JSON_PERCENT))
    reason = (
        f"The answers are JSON: {JSON_PERCENT}% must be, and they must share more with the "
        "reference than the base "
        f"model's. It shows in four of five cases {enough} `json_schema` under `tasks: "
        f"{{heldout: …}}` has their form "
        "checked, too."
    )
    limits = (
        f"{{metric: json_valid, at_least: {JSON_PERCENT}%}}",
        "{metric: rougeL, better_than: base}",
    )
    return FirstSuite(share, reason, limits)


def _enough(profile: AnswerProfile, needed: int | None) -> tuple[float, str]:
    """The share to seal, and the end of a sentence on how many samples it takes and has."""
    wanted = needed or FEWEST_SAMPLES
    share, num_samples = _sealed(profile, wanted)
    said = f"with some {wanted} samples, and there will be about {num_samples}."
    if num_samples < wanted:
        said += f" Bring some {math.ceil(wanted / SHARES[-1]):,} examples."
    return share, said


def _demanded(commonest: float) -> int:
    """Percent that are to be right."""
    return min(99, math.ceil(100 * (commonest + (1 - commonest) / 2) - 1e-9))


def _needed(percent: int) -> int:
    """Samples that show it in four of five cases, for a model with half of the errors that are
    allowed."""
    plan = share_limit(
        "heldout",
        "",
        num_items=None,
        limit=percent / 100,
        confidence=CONFIDENCE,
        direction="at_least",
    )
    return plan.num_items_needed or FEWEST_SAMPLES


def _sealed(profile: AnswerProfile, needed: int) -> tuple[float, int]:
    """The smallest round share that has enough samples, and about how many it has. Which ones are
    sealed is drawn, so that their number wavers: two standard deviations are reckoned with."""
    wanted = max(needed, FEWEST_SAMPLES)
    wanted += round(2 * math.sqrt(wanted))
    share = next((one for one in SHARES if one * profile.num_examples >= wanted), SHARES[-1])
    return share, int(share * profile.num_examples)
