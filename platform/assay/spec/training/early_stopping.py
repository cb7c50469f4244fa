"""The `early_stopping:` block: when a training run has learned what there is to learn."""

from pydantic import Field

from assay.spec.block import Block


class EarlyStoppingSpec(Block):
    """Ends a run when the loss on the selection split has stopped falling, and keeps the best
    weights."""

    patience: int = Field(3, ge=1)
    """So many looks in a row without a lower loss."""

    every_steps: int | None = Field(None, ge=1)
    """Optimizer steps from one look to the next; a tenth of the run when not said."""

    min_delta: float = Field(0.0, ge=0)
    """By so much the loss must fall to count as lower."""
