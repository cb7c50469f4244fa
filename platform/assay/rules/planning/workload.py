"""How much there is to train: steps, tokens, and the largest forward pass."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from assay.records.plan import DataPlan, TrainingPlan
from assay.spec.data import DataSpec
from assay.spec.train import TrainSpec

# Of some hundred batches the largest lies about so many standard deviations above the mean.
DEVIATIONS = 3


def training_plan(train: TrainSpec, data: DataPlan) -> TrainingPlan:
    """One training run on the split that `data` counts. Steps are counted as the trainer counts
    them."""
    steps_per_epoch = math.ceil(data.num_examples / train.global_batch_size)
    num_steps = train.max_steps or math.ceil(train.num_epochs * steps_per_epoch)
    mean = data.num_tokens / data.num_examples
    shown = min(
        num_steps * train.global_batch_size, num_steps / steps_per_epoch * data.num_examples
    )
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


# What a chat template puts around a message, about: its role and its end, in special tokens.
TEMPLATE_TOKENS = 5
# What many templates say by themselves where a chat brings no system message (SmolLM2's 26,
# Qwen2.5's 20).
SYSTEM_TOKENS = 25


class Passage(NamedTuple):
    """One text of an example."""

    num_tokens: float
    """Without what a chat template puts around it."""
    bears_loss: bool


def estimated_data(
    examples: Sequence[Sequence[Passage]], data: DataSpec, num_gate: int | None, *, max_length: int
) -> DataPlan:
    """The training split, estimated from its texts. Held-out shares are taken off; examples longer
    than `max_length` are left out."""
    lengths, loss = [], 0
    for example in examples:
        tokens = [(bears, math.ceil(size) + TEMPLATE_TOKENS) for size, bears in example]
        length = sum(count for _, count in tokens)
        if length <= max_length or data.too_long == "truncate":
            lengths.append(min(length, max_length))
            loss += min(sum(count for bears, count in tokens if bears), max_length)
    gate_share = data.gate if isinstance(data.gate, float) else 0.0
    if data.max_samples:
        chosen = min(1.0, data.max_samples / max(1, len(examples)))
    else:
        chosen = 1.0
    share = chosen * max(
        0.0, 1 - gate_share - (data.selection if isinstance(data.selection, float) else 0.0)
    )
    mean = sum(lengths) / max(1, len(lengths))
    return DataPlan(
        num_examples=max(1, round(share * len(lengths))),
        num_tokens=max(1, round(share * sum(lengths))),
        num_loss_tokens=round(share * loss),
        longest=max(lengths, default=1),
        deviation=math.sqrt(sum((length - mean) ** 2 for length in lengths) / max(1, len(lengths))),
        num_gate=round(gate_share * chosen * len(examples)) if gate_share else num_gate,
        exact=False,
    )
