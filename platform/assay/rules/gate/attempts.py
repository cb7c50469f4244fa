"""How often the same items may be asked before their answers say more about the asking than about
the model."""

from collections.abc import Mapping

from assay.records.gate import Attempt
from assay.spec.gate import SuiteSpec


def attempt_of(suite: SuiteSpec, number: int, splits: Mapping[str, str]) -> Attempt:
    """The facts of attempt `number`, with the confidence at which its bounds are made."""
    confidence = corrected_confidence(suite)
    return Attempt(
        number=number,
        budget=suite.attempts,
        confidence=confidence,
        splits=dict(sorted(splits.items())),
    )


def corrected_confidence(suite: SuiteSpec) -> float:
    """The confidence of each bound, so that all attempts together err no more often than one would:
    the error is divided by the budget from the first attempt on.

    Source: Bonferroni; for reused holdouts, Dwork et al., Science 349 (2015), 636-638, on what goes
    wrong without.
    """
    if suite.attempts:
        return 1 - (1 - suite.confidence) / suite.attempts
    return suite.confidence


def spent(splits: Mapping[str, int], budget: int) -> str:
    """What to say when a budget is spent; `splits` are the attempts counted so far, by task."""
    tasks = ", ".join(sorted(task for task, used in splits.items() if used >= budget))
    return (
        f"{budget} of {budget} candidates were evaluated with the items of {tasks}: one more would "
        "pass by luck too "
        "easily. Renew these items, or, for `heldout`, the files of data.gate; raising `attempts` "
        "in the suite makes "
        "every bound stricter"
    )
