"""The `checkpoint:` block of a training run: how often its state is kept, and how much of it."""

from pydantic import Field, model_validator

from assay.spec.block import Block

DEFAULT_MINUTES = 10.0


class CheckpointSpec(Block):
    """Checkpoints from which a training run goes on, bit for bit, after whatever ended it."""

    every_steps: int | None = Field(None, ge=1)
    """Optimizer steps from one checkpoint to the next."""

    every_minutes: float | None = Field(None, gt=0)
    """Minutes from one checkpoint to the next; 10 when neither this nor `every_steps` is said."""

    keep_last: int = Field(2, ge=1)
    """The newest so many are kept. With two, there is one to fall back on when the newest is
    damaged."""

    keep_best: int = Field(0, ge=0)
    """Besides them, so many with the lowest selection loss; for runs that look at it on the way."""

    @model_validator(mode="after")
    def _one_interval(self) -> "CheckpointSpec":
        if self.every_steps is not None and self.every_minutes is not None:
            raise ValueError("choose one interval: every_steps, or every_minutes")
        return self

    @property
    def interval_s(self) -> float | None:
        """Seconds from one checkpoint to the next; None where steps are counted."""
        if self.every_steps is not None:
            return None
        return 60 * (self.every_minutes if self.every_minutes is not None else DEFAULT_MINUTES)
