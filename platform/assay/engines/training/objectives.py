"""What each objective's loss is: for every unit of a batch its summed loss, and how many items that
is a sum of.

The formulas are those of the papers named in `spec/objective.py`; the tests hold them to TRL's own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from assay.engines.training.batches import Batch, take_extras
from assay.spec.train import TrainSpec

if TYPE_CHECKING:
    import torch


class Losses(NamedTuple):
    """The loss of each unit of a batch."""

    totals: "torch.Tensor"
    """(N,), fp32."""
    counts: "torch.Tensor"
    """(N,), tokens or 1s: the mean loss of a batch is the sum of the totals over the sum of the
    counts."""


@dataclass
class Frozen:
    """What a loss compares with, and training does not change."""

    reference: "torch.Tensor | None" = None
    """(units, texts per unit): log-probability of each text under the model that training starts
    from."""
    teacher: Any = None
    """A causal language model."""


Loss = Callable[[Any, Batch, TrainSpec, Frozen], Losses]


@dataclass(frozen=True)
class Objective:
    """How the trainer treats an objective."""

    loss: Loss
    counts_units: bool = True
    """Whether the mean is over units, or over tokens."""
    needs_reference: bool = False
    scores: bool = False
    """Whether the model is a sequence classifier, which reads padded rows."""


def objective_of(train: TrainSpec) -> Objective:
    """The objective that the spec names. `grpo` is not among them: see `trl_trainer`."""
    objective = train.objective
    if objective.classify is not None and objective.classify.head == "linear":
        return Objective(classification_loss, scores=True)
    return _OBJECTIVES[objective.name]


def completion_loss(model: Any, batch: Batch, train: TrainSpec, frozen: Frozen) -> Losses:
    """Cross entropy of the tokens that bear loss."""
    import torch.nn.functional as functional

    extras = take_extras(batch)
    logits = completion_logits(model, batch, extras)
    smoothing = train.label_smoothing if model.training else 0.0
    losses = functional.cross_entropy(
        logits, extras["targets"], reduction="none", label_smoothing=smoothing
    )
    return Losses(_sum_by_text(losses, extras["sizes"]), extras["sizes"])


def distillation_loss(model: Any, batch: Batch, train: TrainSpec, frozen: Frozen) -> Losses:
    """Cross entropy mixed with the divergence from the teacher, times the temperature's square
    (Hinton et al.)."""
    import torch
    import torch.nn.functional as functional

    spec = train.objective.distill
    assert spec is not None
    extras = take_extras(batch)
    with torch.no_grad():
        taught = completion_logits(frozen.teacher, batch, extras) / spec.temperature
    logits = completion_logits(model, batch, extras)
    own = functional.cross_entropy(
        logits,
        extras["targets"],
        reduction="none",
        label_smoothing=train.label_smoothing if model.training else 0.0,
    )
    divergence = functional.kl_div(
        (logits / spec.temperature).log_softmax(-1),
        taught.log_softmax(-1),
        log_target=True,
        reduction="none",
    ).sum(-1)
    mixed = (1 - spec.teacher_weight) * own + spec.teacher_weight * spec.temperature**2 * divergence
    return Losses(_sum_by_text(mixed, extras["sizes"]), extras["sizes"])


def dpo_loss(model: Any, batch: Batch, train: TrainSpec, frozen: Frozen) -> Losses:
    """DPO, IPO or SLiC's hinge on pairs of texts, the better one first."""
    import torch
    import torch.nn.functional as functional

    spec = train.objective.dpo
    assert spec is not None
    extras = take_extras(batch)
    own = text_log_probs(model, batch, extras).view(-1, 2)
    ratios = own - _reference(frozen, extras)
    sizes = extras["sizes"].view(-1, 2)
    if spec.loss == "ipo":
        ratios = ratios / sizes
        losses = ((ratios[:, 0] - ratios[:, 1]) - 1 / (2 * spec.beta)) ** 2
    else:
        margin = spec.beta * (ratios[:, 0] - ratios[:, 1])
        if spec.loss == "hinge":
            losses = torch.relu(1 - margin)
        else:
            losses = -functional.logsigmoid(margin)
    if spec.sft_weight:
        losses = losses - spec.sft_weight * own[:, 0] / sizes[:, 0]
    return Losses(losses, torch.ones_like(losses))


def kto_loss(model: Any, batch: Batch, train: TrainSpec, frozen: Frozen) -> Losses:
    """KTO on single answers; the second text of a unit is its prompt with another's answer, for the
    estimate of how far the model has moved from the reference."""
    import torch

    spec = train.objective.kto
    assert spec is not None
    extras = take_extras(batch)
    ratios = text_log_probs(model, batch, extras).view(-1, 2) - _reference(frozen, extras)
    moved = _mean_of_all(ratios[:, 1].detach()).clamp(min=0)
    good = extras["unit_labels"] > 0
    away = torch.where(good, ratios[:, 0] - moved, moved - ratios[:, 0])
    weights = torch.where(good, spec.desirable_weight, spec.undesirable_weight)
    losses = weights * (1 - torch.sigmoid(spec.beta * away))
    return Losses(losses, torch.ones_like(losses))


def orpo_loss(model: Any, batch: Batch, train: TrainSpec, frozen: Frozen) -> Losses:
    """Cross entropy on the better answer, and the odds ratio of both, by their mean
    log-probabilities."""
    import torch
    import torch.nn.functional as functional

    spec = train.objective.orpo
    assert spec is not None
    extras = take_extras(batch)
    means = (text_log_probs(model, batch, extras) / extras["sizes"]).view(-1, 2)
    odds = means - torch.log1p(-means.exp())
    losses = -means[:, 0] - spec.beta * functional.logsigmoid(odds[:, 0] - odds[:, 1])
    return Losses(losses, torch.ones_like(losses))


def reward_loss(model: Any, batch: Batch, train: TrainSpec, frozen: Frozen) -> Losses:
    """Bradley and Terry's: the better text's score is to be above the worse one's."""
    import torch
    import torch.nn.functional as functional

    spec = train.objective.reward
    assert spec is not None
    take_extras(batch)
    scores = model(**batch).logits.float().view(-1, 2)
    losses = -functional.logsigmoid(scores[:, 0] - scores[:, 1]) + spec.center * scores.sum(1) ** 2
    return Losses(losses, torch.ones_like(losses))


def classification_loss(model: Any, batch: Batch, train: TrainSpec, frozen: Frozen) -> Losses:
    """Cross entropy over the classes."""
    import torch
    import torch.nn.functional as functional

    extras = take_extras(batch)
    logits = model(**batch).logits.float()
    smoothing = train.label_smoothing if model.training else 0.0
    classes = extras["unit_labels"]
    losses = functional.cross_entropy(logits, classes, reduction="none", label_smoothing=smoothing)
    return Losses(losses, torch.ones_like(losses))


def completion_logits(model: Any, batch: Batch, extras: Batch) -> "torch.Tensor":
    """(K, vocabulary), fp32: the logits that foretell `targets`, whether the batch is packed or
    padded."""
    logits = model(**batch).logits.float()
    if "target_mask" not in extras:
        kept: torch.Tensor = logits.squeeze(0)
        return kept[: len(extras["targets"])]  # without what `rounded_up` has put behind
    length = extras["target_mask"].shape[1]
    foretelling: torch.Tensor = logits[:, -length:][:, :-1][
        extras["target_mask"][:, 1:]
    ]  # after any virtual tokens
    return foretelling


def text_log_probs(model: Any, batch: Batch, extras: Batch) -> "torch.Tensor":
    """(P,): summed log-probability of each text's tokens that bear loss."""
    import torch.nn.functional as functional

    logits = completion_logits(model, batch, extras)
    return _sum_by_text(
        -functional.cross_entropy(logits, extras["targets"], reduction="none"), extras["sizes"]
    )


def _sum_by_text(values: "torch.Tensor", sizes: "torch.Tensor") -> "torch.Tensor":
    import torch

    owners = torch.repeat_interleave(torch.arange(len(sizes), device=values.device), sizes)
    return torch.zeros(len(sizes), dtype=values.dtype, device=values.device).index_add(
        0, owners, values
    )


def _reference(frozen: Frozen, extras: Batch) -> "torch.Tensor":
    assert frozen.reference is not None
    reference: torch.Tensor = frozen.reference.to(extras["units"].device)[extras["units"]]
    return reference


def _mean_of_all(values: "torch.Tensor") -> "torch.Tensor":
    """The mean over all workers' micro-batches."""
    import torch.distributed as dist

    mean = values.mean()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(mean)
        mean = mean / dist.get_world_size()
    return mean


_OBJECTIVES = {
    "sft": Objective(completion_loss, counts_units=False),
    "pretrain": Objective(completion_loss, counts_units=False),
    "classify": Objective(completion_loss, counts_units=False),
    "distill": Objective(distillation_loss, counts_units=False),
    "dpo": Objective(dpo_loss, needs_reference=True),
    "kto": Objective(kto_loss, needs_reference=True),
    "orpo": Objective(orpo_loss),
    "reward": Objective(reward_loss, scores=True),
}
