"""Courses of the learning rate that transformers does not know: other peaks on the way, and the
rise of a range test."""

import math
from collections.abc import Callable
from copy import copy
from functools import partial
from typing import Any

from assay.spec.train import TrainSpec

ROUNDING = 1e-6


def steps_until(share: float, num_steps: int) -> int:
    """How many steps a share of them is."""
    return max(1, math.ceil(share * num_steps - ROUNDING))


def changing(trainer: Any, train: TrainSpec, num_training_steps: int, optimizer: Any = None) -> Any:
    """The Trainer's own schedule, times what the spec changes the peak by."""
    if optimizer is None and trainer.lr_scheduler is not None:
        # DeepSpeed has asked for it before, with the optimizer that it has made.
        return trainer.lr_scheduler
    # On a copy: the Trainer makes no second schedule where it has one.
    apart = copy(trainer)
    apart.lr_scheduler = None
    scheduler = type(trainer).create_scheduler(apart, num_training_steps, optimizer)
    changes = []
    for at, factor in train.rates.factors:
        changes.append((steps_until(at, num_training_steps), factor))

    def share(own: Callable[[int], float], step: int) -> float:
        factor = 1.0
        for first, its_factor in changes:
            if step >= first:
                factor = its_factor
        return own(step) * factor

    scheduler.lr_lambdas = [partial(share, own) for own in scheduler.lr_lambdas]
    if optimizer is None:
        trainer.lr_scheduler = scheduler
    return scheduler


def rising(trainer: Any, below: float, num_training_steps: int, optimizer: Any = None) -> Any:
    """A learning rate that rises from a share of its highest, by the same factor each step."""
    from torch.optim.lr_scheduler import LambdaLR

    last = max(num_training_steps - 1, 1)
    trainer.lr_scheduler = LambdaLR(
        optimizer or trainer.optimizer, lambda step: float(below ** max(0.0, 1 - step / last))
    )
    return trainer.lr_scheduler
