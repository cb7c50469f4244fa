"""`train.learning_rate` and its changes on the way."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Rates:
    """The learning rates of one training run, as an optimizer and a schedule take them."""

    peak: float
    """What a weight learns at that nothing else is said of."""
    changes: tuple[RateChange, ...]
    groups: Mapping[str, float]
    """Regular expression on weights' names to their own peak."""
    layer_decay: float | None

    @property
    def are_alike(self) -> bool:
        """Whether all weights have one rate."""
        return not self.groups and self.layer_decay is None

    @property
    def factors(self) -> list[tuple[float, float]]:
        """Share of the steps from which on every peak is multiplied, and by what."""
        return [(change.at, change.learning_rate / self.peak) for change in self.changes]


def schedule_faults(
    schedule: str, *, warmup: float, decay: float, steps: int | None
) -> Iterator[tuple[bool, str]]:
    """Courses of the learning rate that never come to it; `warmup` and `decay` are shares of the
    steps. The first step of a warm-up has the rate 0."""
    yield (
        warmup >= 1,
        "warmup_ratio takes all of the steps, so that learning_rate is never reached",
    )
    num_warmup = math.ceil(warmup * (steps or 0))
    yield (
        warmup < 1 and steps is not None and num_warmup >= steps,
        f"max_steps {steps} is all warm-up: warmup_ratio {warmup:.0%} of it, rounded up, is "
        f"{num_warmup}, and the learning rate never rises above 0; raise max_steps, or write "
        "warmup_ratio: 0",
    )
    yield (
        schedule == "wsd" and warmup + decay > 1,
        "warmup_ratio and decay_ratio together are more than all of the steps",
    )
