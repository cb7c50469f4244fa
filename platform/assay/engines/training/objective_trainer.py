"""transformers' Trainer with the loss, the optimizer and the regularizers of a `TrainSpec`."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from assay.engines.training.batches import Batch, rounded_up
from assay.engines.training.job import TrainingJob
from assay.engines.training.objectives import Frozen, Objective, objective_of
from assay.engines.training.optimizers import make_optimizer
from assay.engines.training.regularizers import (
    Anchor,
    EmbeddingNoise,
    ResidualDropout,
    TokenContrast,
    orthogonality,
    shrink,
)
from assay.engines.training.split_losses import references

ORTHOGONALITY_WEIGHT = 0.5  # peft's default


def trainer_type() -> Any:
    """The Trainer that computes the spec's objective; the class exists only once transformers is
    imported."""
    import torch.distributed as dist
    from transformers import Trainer, TrainerCallback

    class ObjectiveTrainer(Trainer):  # type: ignore[misc]
        """Trainer's loop, with the loss, the optimizer and the regularizers of a `TrainSpec`."""

        optimizer: Any

        def __init__(self, *, job: TrainingJob, anchor: Anchor | None, **arguments: Any) -> None:
            # A loss function makes Trainer count items over the whole global batch; `compute_loss`
            # is what is called.
            super().__init__(compute_loss_func=self.compute_loss, **arguments)
            self.job = job
            self.objective: Objective = objective_of(job.train)
            self.frozen = Frozen(teacher=_teacher(job, self.args.device))
            self.frozen_of_selection = replace(self.frozen)
            self.anchor = anchor
            noise = job.train.neftune_alpha
            self.noise: EmbeddingNoise | None = None
            if noise is not None:
                self.noise = EmbeddingNoise(self.model, noise)
            self.dropout: ResidualDropout | None = None
            if job.train.dropout is not None:
                self.dropout = ResidualDropout(self.model, job.train.dropout)
            contrastive = job.train.contrastive
            self.contrast: TokenContrast | None = None
            if contrastive is not None:
                self.contrast = TokenContrast(self.model, contrastive)
            on_cpu_in_bf16 = self.args.bf16 and self.args.device.type == "cpu"
            # The contrastive term takes every text of a row for one to learn from.
            self.rounds_up = on_cpu_in_bf16 and contrastive is None
            self.add_callback(TrainerCallbacks(self))

        def before_first_step(self) -> None:
            """Measures what the model that training starts from says and needs."""
            if self.objective.needs_reference:
                found = references(self.job, self)
                self.frozen.reference = found["train"]
                self.frozen_of_selection.reference = found.get("selection")

        def compute_loss(
            self,
            model: Any,
            inputs: Batch,
            return_outputs: bool = False,
            num_items_in_batch: Any = None,
        ) -> Any:
            """The batch's share of the mean loss over the global batch. DeepSpeed and DDP average
            over workers, so that it is multiplied by their number."""
            if self.rounds_up:
                inputs = rounded_up(inputs)
            if self.noise is not None:
                self.noise.reads(inputs)
            if self.contrast is not None:
                self.contrast.reads(inputs)
            losses = self.objective.loss(model, inputs, self.job.train, self.frozen)
            if num_items_in_batch is None:
                num_items = losses.counts.sum()
            else:
                num_items = num_items_in_batch
            loss = losses.totals.sum() / num_items * dist.get_world_size()
            for penalty in self._penalties(self.accelerator.unwrap_model(model)):
                loss = loss + penalty / self.job.train.accumulation_steps
            return loss

        def _penalties(self, model: Any) -> Iterator[Any]:
            """What a step's loss is raised by for where weights and hidden states are."""
            if self.job.train.method.adalora is not None:
                yield ORTHOGONALITY_WEIGHT * orthogonality(model)
            if self.contrast is not None:
                term = self.contrast.term()
                if term is not None:
                    yield term

        def create_optimizer(self, model: Any = None) -> Any:
            """The spec's optimizer, where DeepSpeed does not make it."""
            if self.optimizer is None:
                trained = model if model is not None else self.model
                self.optimizer = make_optimizer(trained, self.job.train)
            return self.optimizer

    class TrainerCallbacks(TrainerCallback):  # type: ignore[misc]
        """What happens between steps."""

        def __init__(self, trainer: ObjectiveTrainer) -> None:
            self.trainer = trainer

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.trainer.before_first_step()

        def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.trainer.anchor is not None:
                self.trainer.anchor.pull(self.trainer.model, self.trainer.optimizer)
            if self.trainer.job.train.l1 is not None:
                shrink(self.trainer.optimizer, self.trainer.job.train.l1)
            # Here the gradients are still there, of which adalora learns where ranks are needed.
            if self.trainer.job.train.method.adalora is not None:
                self.trainer.model.base_model.update_and_allocate(state.global_step)

    return ObjectiveTrainer


def _teacher(job: TrainingJob, device: Any) -> Any:
    if job.teacher is None:
        return None
    from transformers import AutoModelForCausalLM

    teacher = AutoModelForCausalLM.from_pretrained(job.teacher, dtype="auto").to(device).eval()
    # A cache of keys and values would be kept for every batch, and nothing is generated.
    teacher.config.use_cache = False
    return teacher.requires_grad_(False)
