"""How much there is to train: steps, tokens, and the largest forward pass."""

import math

from assay.records.plan import DataPlan, TrainingPlan
from assay.spec.train import TrainSpec

DEVIATIONS = 3
"""Of some hundred batches the largest lies about so many standard deviations above the mean."""


def training_plan(train: TrainSpec, data: DataPlan) -> TrainingPlan:
    """One training run on the split that `data` counts. Steps are counted as the trainer counts them."""
    steps_per_epoch = math.ceil(data.num_examples / train.global_batch_size)
    num_steps = train.max_steps or math.ceil(train.num_epochs * steps_per_epoch)
    mean = data.num_tokens / data.num_examples
    shown = min(num_steps * train.global_batch_size, num_steps / steps_per_epoch * data.num_examples)
    count = train.examples_per_worker
    longest = min(data.longest, train.max_length)
    tokens = min(count * longest, count * mean + DEVIATIONS * data.deviation * math.sqrt(count))
    return TrainingPlan(
        num_steps=num_steps,
        num_tokens=round(shown * mean),
        tokens_per_pass=math.ceil(tokens),
        loss_tokens_per_pass=math.ceil(tokens * data.num_loss_tokens / data.num_tokens),
        exact=data.exact,
    )
