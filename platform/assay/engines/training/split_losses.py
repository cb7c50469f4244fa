"""What a model says of a whole split: losses, and log-probabilities before training."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from assay.engines.training import grpo as trl_trainer
from assay.engines.training.batches import Batch, PackedSplit, take_extras
from assay.engines.training.job import TrainingJob, beginnings, finite
from assay.engines.training.objectives import text_log_probs
from assay.errors import StageFailed

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

REFERENCE = "reference.safetensors"


def selection_losses(job: TrainingJob, trainer: Any) -> list[tuple[float, int]]:
    """(summed loss, items) of every unit of the selection split."""
    if job.selection_file is None:
        return []
    grpo = job.train.objective.grpo
    if grpo is not None:
        size = job.train.examples_per_worker
        return trl_trainer.selection_losses(trainer, grpo, job.selection_file, batch_size=size)
    return _over_split(trainer, job.selection_file, _losses)


def mean_and_error(losses: Sequence[tuple[float, int]]) -> tuple[float | None, float | None]:
    """Mean loss per token, and its standard error with examples as the unit (a ratio estimate)."""
    tokens = sum(count for _, count in losses)
    if not tokens:
        return None, None
    mean = sum(total for total, _ in losses) / tokens
    if not math.isfinite(mean):
        return finite(mean), None
    residuals = sum((total - mean * count) ** 2 for total, count in losses)
    n = len(losses)
    # A ratio of two sums has no plain standard error; this is its first-order one.
    error = math.sqrt(residuals * n / (n - 1)) / tokens if n > 1 else None
    return mean, error


def references(job: TrainingJob, trainer: Any) -> "dict[str, torch.Tensor]":
    """Every text's log-probability under the model that training starts from, (units, texts per
    unit) by split; computed once. Raises `StageFailed` when a run that goes on does not find them:
    its model is another by now."""
    import torch
    import torch.distributed as dist
    from safetensors.torch import load_file, save_file

    file = beginnings(job) / REFERENCE
    # Rank 0 looks for all: on a shared disk one worker may see a file before another does.
    there = [file.exists()]
    dist.broadcast_object_list(there, src=0)
    if not there[0] and trainer.state.global_step:
        raise StageFailed(
            f"{file} is gone, so that training cannot go on from its checkpoint; start it anew"
        )
    if not there[0]:
        splits = {
            "train": job.train_file,
            **({"selection": job.selection_file} if job.selection_file else {}),
        }
        found = {}
        for name, split in splits.items():
            found[name] = torch.tensor(_over_split(trainer, split, _log_probs))
        if dist.get_rank() == 0:
            # Renamed when it is whole: a run that is killed here would read half a file later.
            draft = file.with_suffix(".part")
            save_file(found, draft)
            draft.rename(file)
        dist.barrier()
    kept: dict[str, torch.Tensor] = load_file(file)
    return kept


def _losses(trainer: Any, batch: Batch) -> list[tuple[float, int]]:
    losses = trainer.objective.loss(
        trainer.model_wrapped, batch, trainer.job.train, trainer.frozen_of_selection
    )
    return list(zip(losses.totals.tolist(), losses.counts.int().tolist(), strict=True))


def _log_probs(trainer: Any, batch: Batch) -> list[list[float]]:
    extras = take_extras(batch)
    values: list[list[float]] = (
        text_log_probs(trainer.model_wrapped, batch, extras).view(len(extras["units"]), -1).tolist()
    )
    return values


def _over_split(trainer: Any, file: str, read: Callable[[Any, Batch], list[T]]) -> list[T]:
    """What `read` makes of every unit of a split, in order. Every worker does its share, and all do
    equally many forward passes, which ZeRO-3 needs."""
    import torch
    import torch.distributed as dist

    split = PackedSplit.load(file)
    rank, world = dist.get_rank(), dist.get_world_size()
    size = trainer.job.train.examples_per_worker
    mine: list[tuple[int, T]] = []
    was_training = trainer.model_wrapped.training
    trainer.model_wrapped.eval()
    with torch.no_grad():
        for number in range(math.ceil(len(split) / (size * world))):
            first = (number * world + rank) * size
            chosen = []
            for index in range(first, min(first + size, len(split))):
                chosen.append(split[index])
            # Whoever has nothing left computes any text: under ZeRO-3 a forward pass needs all
            # workers.
            batch = trainer.data_collator(chosen or [split[0]])
            values = read(
                trainer, {name: tensor.to(trainer.args.device) for name, tensor in batch.items()}
            )
            for unit, value in zip(chosen, values, strict=False):
                mine.append((unit.number, value))
    trainer.model_wrapped.train(was_training)
    everyone: list[list[tuple[int, T]]] = [[] for _ in range(world)]
    dist.all_gather_object(everyone, mine)
    found = dict(pair for share in everyone for pair in share)
    return [found[index] for index in range(len(split))]
