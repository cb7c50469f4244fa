"""`train.learning_rate` and its changes on the way."""

from typing import Annotated

from pydantic import Field

from assay.spec.block import Block, Fraction

LearningRate = Annotated[float, Field(gt=0, le=1)]
"""Step size of the optimizer. The sweep uses this type as well."""


class RateChange(Block):
    """Another peak learning rate from some step on."""

    at: Annotated[Fraction, Field(gt=0, lt=1)]
    """Share of the steps after which it holds."""

    learning_rate: LearningRate
    """The new peak; the schedule's own course goes on under it."""
