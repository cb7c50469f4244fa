"""The `sweep:` block: what Ray Tune varies."""

from typing import Annotated

from pydantic import Field, model_validator

from assay.spec.block import Block
from assay.spec.train import LearningRate


class LogUniform(Block):
    """A range whose logarithm is drawn uniformly."""

    loguniform: tuple[LearningRate, LearningRate]
    """Lower and upper end."""

    @model_validator(mode="after")
    def _ordered(self) -> "LogUniform":
        if self.loguniform[0] >= self.loguniform[1]:
            raise ValueError("the lower end of loguniform must be below the upper end")
        return self


class SweepSpec(Block):
    """A sweep over learning rates. Each trial is an ordinary training run with a budget of its own;
    the lowest loss on the selection split wins, and within its standard error the lowest learning rate."""

    learning_rate: Annotated[tuple[LearningRate, ...], Field(min_length=1)] | LogUniform
    """A list is a grid; `{loguniform: [low, high]}` is drawn from `num_samples` times."""

    num_samples: int = Field(4, ge=1)
    """Trials drawn from a range; a grid runs each value once."""

    num_epochs: float | None = Field(None, gt=0)
    """A trial's passes over the training split; `train.num_epochs` when neither this nor `max_steps` is said."""

    max_steps: int | None = Field(None, ge=1)
    """A trial's optimizer steps."""

    num_workers: int | None = Field(None, ge=1)
    """Workers of a trial, which must divide `train.global_batch_size`; `train.num_workers` when not said. Fewer
    workers let more trials run at once."""

    max_concurrent_trials: int | None = Field(None, ge=1)
    """Trials at once; as many as the cluster can hold when not said."""

    seed: int = Field(0, ge=0)
    """Seeds the draws from a range."""

    @property
    def num_trials(self) -> int:
        """How many trials the sweep runs."""
        return self.num_samples if isinstance(self.learning_rate, LogUniform) else len(self.learning_rate)
