"""What a run's losses say of it."""

from collections.abc import Sequence

from assay.records.stages import LossPoint, TrainingOutcome

# A loss has moved when it has by so large a share of itself, and by more than its standard error.
CLEARLY = 0.02


def parted(history: Sequence[LossPoint]) -> str:
    """That the loss on the selection split has risen while the training loss went on falling, in
    words; empty where it has not. Both are compared with where the selection loss was lowest."""
    seen = [point for point in history if point.selection_loss is not None]
    if len(seen) < 2:
        return ""
    lowest = min(seen, key=lambda point: point.selection_loss or 0.0)
    best, now = lowest.selection_loss or 0.0, seen[-1].selection_loss or 0.0
    rise = now - best
    if rise <= CLEARLY * abs(best) or rise <= (seen[-1].selection_loss_se or 0.0):
        return ""
    before, after = _training_loss(history, lowest), _training_loss(history, seen[-1])
    if before - after <= CLEARLY * abs(before):
        return ""
    return (
        f"the selection loss was lowest at step {lowest.step} ({best:.3f}) and has risen to "
        f"{now:.3f}, while the "
        f"training loss fell from {before:.3f} to {after:.3f}: the examples are being learned by "
        "heart"
    )


def with_end(outcome: TrainingOutcome) -> tuple[LossPoint, ...]:
    """The run's history, its last line with the selection loss that it ended with. Where early
    stopping went back to better weights that loss is not the last step's, and the line stays as it
    is."""
    if not outcome.history or outcome.selection_loss is None or outcome.best_step is not None:
        return outcome.history
    *most, last = outcome.history
    measured = {
        "selection_loss": outcome.selection_loss,
        "selection_loss_se": outcome.selection_loss_se,
    }
    return (*most, LossPoint.model_validate({**last.model_dump(), **measured}))


def _training_loss(history: Sequence[LossPoint], at: LossPoint) -> float:
    """The mean over the last tenth of the lines up to a point: a single batch's loss says
    little."""
    until = [point.loss for point in history if point.step <= at.step]
    width = max(1, len(history) // 10)
    return sum(until[-width:]) / len(until[-width:])
