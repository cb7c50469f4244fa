"""Optimizers of torch and bitsandbytes, parameter groups with learning rates of their own, and
schedules."""

import math
import re
from collections.abc import Callable
from typing import Any

from assay.engines.models.methods import layer_of
from assay.spec.train import TrainSpec

MUON_RMS = (
    "match_rms_adamw"  # scales Muon's step so that AdamW's learning rates fit (Liu et al., 2025)
)


def make_optimizer(model: Any, train: TrainSpec) -> Any:
    """The optimizer over the model's trainable weights, in groups."""
    import torch

    if train.optimizer == "muon":
        return _muon(model, train)
    groups, betas = parameter_groups(model, train), tuple(train.betas)
    if train.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=train.learning_rate, betas=betas)
    if train.optimizer == "adafactor":
        return torch.optim.Adafactor(groups, lr=train.learning_rate)
    import bitsandbytes.optim as bits

    kind = {"adamw_8bit": bits.AdamW8bit, "lion": bits.Lion, "lion_8bit": bits.Lion8bit}[
        train.optimizer
    ]
    return kind(groups, lr=train.learning_rate, betas=betas)


def parameter_groups(
    model: Any, train: TrainSpec, chosen: Callable[[str, Any], bool] = lambda name, weight: True
) -> list[dict[str, Any]]:
    """The chosen trainable weights by learning rate: `params`, `lr` and `weight_decay` of each
    group."""
    num_layers = int(model.config.num_hidden_layers)
    by_rate: dict[float, list[Any]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad and chosen(name, weight):
            by_rate.setdefault(_rate(name, train, num_layers), []).append(weight)
    return [
        {"params": weights, "lr": rate, "weight_decay": train.weight_decay}
        for rate, weights in sorted(by_rate.items(), reverse=True)
    ]


def schedule(train: TrainSpec, num_steps: int) -> dict[str, Any]:
    """The Trainer's arguments for the learning rate's course."""
    arguments: dict[str, Any] = {"warmup_steps": math.ceil(train.warmup_ratio * num_steps)}
    if train.schedule == "cosine_with_min":
        return {
            **arguments,
            "lr_scheduler_type": "cosine_with_min_lr",
            "lr_scheduler_kwargs": {"min_lr_rate": train.min_lr_ratio},
        }
    if train.schedule == "wsd":
        falling = min(
            math.ceil(train.decay_ratio * num_steps), num_steps - arguments["warmup_steps"]
        )
        return {
            **arguments,
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": {"num_decay_steps": falling, "min_lr_ratio": train.min_lr_ratio},
        }
    if train.schedule == "constant":
        name = "constant_with_warmup"
    else:
        name = train.schedule
    return {**arguments, "lr_scheduler_type": name}


def _rate(name: str, train: TrainSpec, num_layers: int) -> float:
    for pattern, rate in train.group_learning_rates.items():
        if re.search(pattern, name):
            return rate
    if train.layerwise_lr_decay is None:
        return train.learning_rate
    layer = layer_of(name)
    if layer is None:
        layer = -1 if "embed" in name or "wte" in name else num_layers - 1
    if train.layerwise_lr_from == "top":
        away = num_layers - 1 - layer
    else:
        away = max(layer, 0)
    return float(train.learning_rate * train.layerwise_lr_decay**away)


def _muon(model: Any, train: TrainSpec) -> Any:
    """Muon for the matrices inside the layers, and AdamW for the rest: vectors, embeddings and the
    head."""
    import torch

    def is_inner(name: str, weight: Any) -> bool:
        return weight.ndim == 2 and layer_of(name) is not None

    inner = parameter_groups(model, train, is_inner)
    outer = parameter_groups(model, train, lambda name, weight: not is_inner(name, weight))
    if inner:
        parts = [torch.optim.Muon(inner, lr=train.learning_rate, adjust_lr_fn=MUON_RMS)]
    else:
        parts = []
    if outer:
        parts.append(torch.optim.AdamW(outer, lr=train.learning_rate, betas=tuple(train.betas)))
    if len(parts) == 1:
        return parts[0]
    return _together(parts)


def _together(parts: list[Any]) -> Any:
    """Several optimizers that step, save and load as one."""
    import torch

    class Together(torch.optim.Optimizer):  # type: ignore[misc]
        """Its groups are the parts' own, so that a schedule reaches them."""

        def __init__(self) -> None:
            super().__init__([group for part in parts for group in part.param_groups], {})

        def step(self, closure: Any = None) -> None:
            for part in parts:
                part.step()

        def state_dict(self) -> dict[str, Any]:
            return {"parts": [part.state_dict() for part in parts]}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            for part, saved in zip(parts, state["parts"], strict=True):
                part.load_state_dict(saved)
            self.param_groups = [group for part in parts for group in part.param_groups]

    return Together()
