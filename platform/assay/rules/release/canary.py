"""Whether a candidate may take more traffic."""

from typing import Literal

from assay.rules.statistics.proportions import clopper_pearson_lower

CONFIDENCE = 0.95


def verdict_on_step(
    before: tuple[int, int], after: tuple[int, int], max_error_rate: float
) -> Literal["advance", "hold", "roll_back"]:
    """Decide on one step from the candidate's (requests, errors) counters at its start and end.

    `roll_back` when the errors show, with 95% confidence, a rate above `max_error_rate`; `hold`
    when the observed rate is above it and the requests are too few to be sure; `advance` otherwise.
    A step without requests advances, or a quiet service would wait for ever. Counters that fell
    were set to zero by a restart of the gateway, so they are counted from zero.
    """
    restarted = after[0] < before[0] or after[1] < before[1]
    if restarted:
        requests, errors = after
    else:
        requests, errors = after[0] - before[0], after[1] - before[1]
    requests = max(requests, errors)  # an error may be counted a moment before its request
    if clopper_pearson_lower(errors, requests, CONFIDENCE) > max_error_rate:
        return "roll_back"
    if errors > max_error_rate * requests:
        return "hold"
    return "advance"
