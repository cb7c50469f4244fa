"""The `train:` block: one training run. A sweep's trial is one of these, too."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from assay.spec.block import Block, Fraction, later, refuse
from assay.spec.data import DataSpec
from assay.spec.method import LoraSpec, MethodSpec, checked_patterns
from assay.spec.objective import ObjectiveSpec, SftSpec
from assay.spec.training.checkpoint import CheckpointSpec
from assay.spec.training.deepspeed import DeepSpeedSpec
from assay.spec.training.early_stopping import EarlyStoppingSpec
from assay.spec.training.rates import LearningRate, RateChange, Rates, schedule_faults
from assay.spec.training.regularizers import ContrastiveSpec, EwcSpec
from assay.spec.training.worker import WorkerResources

Kernel = Literal["flash", "liger", "compile"]


def _one_kernel(value: Any) -> Any:
    """A single name stands for a list of one."""
    if value in ("flash", "liger", "compile"):
        return (value,)
    return value


CROSS_ENTROPY = ("sft", "pretrain", "classify", "distill")
"""Objectives whose loss is cross entropy, or a part of it is."""


WITHOUT_EFFECT = {"checkpoint", "eval_steps", "min_workers", "max_failures", "report_to"}
"""Fields of `TrainSpec` that change nothing about the weights that come out."""


class TrainSpec(Block):
    """One training run: which weights (`method`), to what end (`objective`), and how."""

    method: MethodSpec = MethodSpec(lora=LoraSpec())
    """`lora`, `qlora`, `full` or another by its name, or `{lora: {r: 16, alpha: 32, ...}}`."""

    objective: ObjectiveSpec = ObjectiveSpec(sft=SftSpec())
    """`sft`, `dpo` or another by its name, or `{dpo: {beta: 0.1, ...}}`."""

    data: DataSpec | None = None
    """Data of this step alone, such as preference pairs; the spec's `data` when not said."""

    learning_rate: LearningRate = 2e-4
    """Peak learning rate; a sweep overrides it."""

    learning_rate_changes: tuple[RateChange, ...] = ()
    """Other peak learning rates on the way, such as `{at: 50%, learning_rate: 1e-4}`; a sweep with
    `scheduler: pbt` finds them. Rates of groups and layers change by the same factor."""

    group_learning_rates: dict[str, LearningRate] = Field({})
    """Regular expression on weights' names to a peak learning rate of their own; the first that
    matches counts."""

    layerwise_lr_decay: float | None = Field(None, gt=0, le=1)
    """Each layer learns at this share of its neighbour's rate; the one that `layerwise_lr_from`
    names learns at `learning_rate`."""

    layerwise_lr_from: Literal["top", "bottom"] = later("top")
    """`top`: the last layer learns fastest, and what lies under it is kept (Howard and Ruder,
    2018). `bottom`: the first one and the embeddings do, for text that looks unlike what the model
    has read."""

    num_epochs: float = Field(1, gt=0)
    """Passes over the training split."""

    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps, when it should not be counted in epochs."""

    global_batch_size: int = Field(16, ge=1)
    """Examples (or pairs) in one optimizer step, over all workers."""

    micro_batch_size: int | None = Field(None, ge=1)
    """Examples that one worker takes at a time; the rest is accumulated. All of its share when not
    said."""

    max_length: int = Field(1024, ge=8)
    """Longest example, in tokens; longer ones are dropped and counted."""

    optimizer: Literal["adamw", "adamw_8bit", "adafactor", "lion", "lion_8bit", "muon"] = "adamw"
    """`adamw`, `adafactor` and `muon` are torch's; `lion` and those with 8-bit state are
    bitsandbytes'."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """How slowly the optimizer's means of gradients and of their squares move (AdamW, Lion)."""

    schedule: Literal["linear", "cosine", "constant", "cosine_with_min", "wsd"] = "linear"
    """How the learning rate falls after warm-up; `wsd` stays, then falls over the last
    `decay_ratio` of the steps."""

    min_lr_ratio: Fraction = 0.1
    """Where `cosine_with_min` and `wsd` end, as a share of the peak."""

    decay_ratio: Fraction = 0.2
    """For `wsd`."""

    warmup_ratio: Fraction = 0.06
    """Share of the steps in which the learning rate rises."""

    weight_decay: float = Field(0.0, ge=0)
    """The optimizer's decoupled weight decay."""

    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""

    neftune_alpha: float | None = Field(None, gt=0)
    """Noise on the embeddings while training (NEFTune; Jain et al., 2023)."""

    label_smoothing: Fraction = 0.0
    """Share of the target's probability that is spread over the whole vocabulary."""

    dropout: float | None = later(None, gt=0, lt=1)
    """For `full` and `freeze`: share of what attention and the feed-forward part add that is
    dropped while training (Srivastava et al., 2014). Adapters have a `dropout` of their own."""

    l1: float | None = later(None, gt=0)
    """For `full` and `freeze`: each step moves every weight towards 0 by this times its learning
    rate, and no further: the proximal step of an L1 penalty, apart from the loss as AdamW's weight
    decay is."""

    ewc: EwcSpec | None = None
    """Keep what other data need (elastic weight consolidation)."""

    contrastive: ContrastiveSpec | None = None
    """Push the hidden states of a text's tokens apart (SimCTG)."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of the forward and backward pass; the optimizer keeps fp32. `auto` is bf16 where
    the hardware computes in it, and fp32 elsewhere."""

    kernels: Annotated[
        Literal["auto", "none"] | tuple[Kernel, ...], BeforeValidator(_one_kernel)
    ] = "auto"
    """`auto`: on GPUs FlashAttention and Liger's fused kernels, where their packages are installed
    and fit the model (`flash`, `liger`). A list takes exactly these, or the run fails; `compile`
    has torch compile each layer, which takes a minute or two at first. The record says what was
    used, and why not the others."""

    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass to save memory."""

    deepspeed: DeepSpeedSpec = DeepSpeedSpec()
    """ZeRO sharding."""

    num_workers: int = Field(1, ge=1)
    """Ray Train workers."""

    worker: WorkerResources = WorkerResources()
    """What Ray reserves for each worker."""

    seed: int = Field(0, ge=0)
    """Seeds initialization and data order."""

    checkpoint: CheckpointSpec = CheckpointSpec()
    """What a run that is broken off goes on from."""

    min_workers: int | None = Field(None, ge=1)
    """Go on with so few workers when the cluster has lost a node, with the same global batch; needs
    a ZeRO stage below 3. `num_workers` when not said."""

    max_failures: int = Field(3, ge=0)
    """Restarts in a row, after lost workers, that brought no new checkpoint."""

    eval_steps: int | None = later(None, ge=1)
    """Optimizer steps from one look at the loss on the selection split to the next. When not said,
    up to five looks that take a twentieth of the time at most. A run warns when that loss rises
    while the training loss falls."""

    early_stopping: EarlyStoppingSpec | None = None
    """End the run when the selection loss has stopped falling; the run goes to its end when not
    said."""

    report_to: tuple[Literal["mlflow", "wandb"], ...] = ()
    """Where the curves go, besides the ledger, TensorBoard files in the run's folder, and Ray's
    metrics."""

    @field_validator("precision", mode="before")
    @classmethod
    def _no_fp8(cls, precision: Any) -> Any:
        if precision == "fp8":
            raise ValueError(
                "training in fp8 is not offered: under DeepSpeed it needs NVIDIA's "
                "TransformerEngine, which the "
                "environment lacks; use bf16, and compress: {scheme: FP8_DYNAMIC} to serve in fp8"
            )
        return precision

    @field_validator("group_learning_rates")
    @classmethod
    def _patterns(cls, rates: dict[str, float]) -> dict[str, float]:
        checked_patterns(tuple(rates))
        return rates

    @field_validator("data")
    @classmethod
    def _gate_is_sealed_once(cls, data: DataSpec | None) -> DataSpec | None:
        if data is not None and data.gate is not None:
            raise ValueError(
                "the gate's split is sealed once, under the spec's own `data`; take `gate` out here"
            )
        return data

    @field_validator("learning_rate_changes")
    @classmethod
    def _in_order(cls, changes: tuple[RateChange, ...]) -> tuple[RateChange, ...]:
        shares = [change.at for change in changes]
        if shares != sorted(set(shares)):
            raise ValueError(
                "learning_rate_changes must be in the order of `at`, each at another share"
            )
        return changes

    @model_validator(mode="after")
    def _goes_together(self) -> "TrainSpec":
        course = schedule_faults(
            self.schedule, warmup=self.warmup_ratio, decay=self.decay_ratio, steps=self.max_steps
        )
        faults = [*_batch_faults(self), *course, *_method_faults(self), *_loss_faults(self)]
        refuse([*faults, *_speed_faults(self), *_grpo_faults(self)])
        return self

    @property
    def rates(self) -> Rates:
        """Everything that is said of learning rates."""
        return Rates(
            self.learning_rate,
            self.learning_rate_changes,
            self.group_learning_rates,
            self.layerwise_lr_decay,
        )

    @property
    def examples_per_worker(self) -> int:
        """Examples that one worker takes in one forward pass."""
        return self.micro_batch_size or self.global_batch_size // self.num_workers

    @property
    def accumulation_steps(self) -> int:
        """Forward passes in one optimizer step."""
        return self.global_batch_size // self.num_workers // self.examples_per_worker


def _batch_faults(train: TrainSpec) -> Iterator[tuple[bool, str]]:
    """What does not divide, and what is more than there is."""
    batch, workers, micro = train.global_batch_size, train.num_workers, train.micro_batch_size
    divides = batch % workers == 0
    yield not divides, f"global_batch_size {batch} is not divisible by num_workers {workers}"
    share = batch // workers
    yield (
        divides and micro is not None and share % micro > 0,
        f"a worker's share of {share} examples is not divisible by micro_batch_size {micro}",
    )
    fewest = train.min_workers
    yield (
        fewest is not None and fewest > workers,
        f"min_workers {fewest} is more than num_workers {workers}",
    )
    yield (
        fewest is not None and fewest < workers and train.deepspeed.zero_stage == 3,
        "min_workers below num_workers needs a zero_stage below 3",
    )


def _method_faults(train: TrainSpec) -> Iterator[tuple[bool, str]]:
    """What the method cannot be with, and why."""
    method, objective, zero = train.method, train.objective, train.deepspeed.zero_stage
    yield (
        bool(method.qlora) and zero == 3,
        "method: qlora keeps the base model in 4-bit blocks, which ZeRO-3 cannot shard; use "
        "zero_stage 0, 1 or 2",
    )
    yield (
        bool(method.adalora) and zero == 3,
        "method: adalora needs whole weights and gradients to move its ranks; use zero_stage 0, 1 "
        "or 2",
    )
    starts_apart = method.lora is not None and method.lora.init in ("pissa", "olora")
    yield (
        starts_apart and zero == 3,
        "method: lora with init pissa or olora decomposes whole weights, which ZeRO-3 shards; use "
        "zero_stage 0, 1 or 2",
    )
    yield (
        starts_apart and not objective.generates,
        "method: lora with init pissa or olora is saved as a difference, in which the new layer of "
        f"objective: {objective.name} would be lost; use init: default",
    )
    yield (
        method.is_prompt and not objective.generates,
        f"method: {method.name} learns what stands before a prompt, and objective: "
        f"{objective.name} trains a new layer that would be left as it is; use lora, freeze or "
        "full",
    )
    yield (
        method.is_prompt and objective.name in ("dpo", "kto", "orpo", "grpo"),
        f"method: {method.name} and objective: {objective.name} do not go together; use lora",
    )


def _loss_faults(train: TrainSpec) -> Iterator[tuple[bool, str]]:
    """What is added to the loss, or done to the weights beside it, and cannot be."""
    method, objective, zero = train.method, train.objective, train.deepspeed.zero_stage
    yield (
        train.label_smoothing > 0 and objective.name not in CROSS_ENTROPY,
        f"label_smoothing smooths cross entropy, and objective: {objective.name} has another loss",
    )
    yield (train.label_smoothing >= 1, "label_smoothing: 1 leaves nothing of the target")
    yield (
        train.contrastive is not None
        and (not objective.generates or objective.name not in CROSS_ENTROPY),
        "contrastive stands beside the cross entropy of a text's tokens, and objective: "
        f"{objective.name} has another loss",
    )
    yield (
        train.layerwise_lr_from == "bottom" and train.layerwise_lr_decay is None,
        "layerwise_lr_from says where layerwise_lr_decay begins; say layerwise_lr_decay, too",
    )
    for name in ("dropout", "l1"):
        yield (
            getattr(train, name) is not None and method.is_adapter,
            f"{name} is for method: full and freeze; {method.name} leaves the model's own weights "
            "as they are",
        )
    yield (
        train.l1 is not None and zero == 3,
        "l1 moves whole weights, which ZeRO-3 shards; use zero_stage 0, 1 or 2",
    )
    yield (
        train.dropout is not None and "compile" in train.kernels,
        "dropout draws inside the layers, which kernels: compile would have to leave; take one of "
        "them out",
    )
    yield (
        train.ewc is not None and (method.is_prompt or bool(method.qlora) or zero == 3),
        "ewc needs the weights themselves: use full, freeze, lora or adalora, and zero_stage 0, 1 "
        "or 2",
    )


def _speed_faults(train: TrainSpec) -> Iterator[tuple[bool, str]]:
    """Kernels, offloading and optimizers that do not go with the rest."""
    objective, zero = train.objective, train.deepspeed.zero_stage
    compiles = "compile" in train.kernels
    yield (
        compiles and zero == 3,
        "kernels: compile needs whole weights, which ZeRO-3 shards; use zero_stage 0, 1 or 2",
    )
    yield (
        compiles and objective.grpo is not None,
        "kernels: compile makes nothing of objective: grpo faster, which draws answers a token at "
        "a time",
    )
    offloads = bool(train.deepspeed.offload_optimizer)
    yield (
        (offloads or bool(train.deepspeed.raw)) and _trains_without_deepspeed(train),
        "adalora, ewc and l1 train without DeepSpeed; take deepspeed.offload_optimizer and "
        "deepspeed.raw out",
    )
    yield (
        offloads and train.optimizer != "adamw",
        "deepspeed.offload_optimizer computes AdamW on the CPU; it cannot take optimizer: "
        f"{train.optimizer}",
    )
    yield (
        train.optimizer in ("muon", "adafactor") and zero > 0,
        f"optimizer: {train.optimizer} steps on whole matrices, which ZeRO splits; use zero_stage: "
        "0",
    )


def _grpo_faults(train: TrainSpec) -> Iterator[tuple[bool, str]]:
    """What TRL's training loop does not do."""
    grpo = train.objective.grpo
    if grpo is None:
        return
    own = [name for name in ("neftune_alpha", "ewc", "dropout", "l1") if getattr(train, name)]
    if train.method.adalora:
        own.insert(0, "method: adalora")
    yield (
        bool(own),
        f"{' and '.join(own)} and objective: grpo do not go together: its training loop is "
        "TRL's; leave that out, or do it in a step before",
    )
    yield (
        train.examples_per_worker % grpo.num_generations > 0,
        f"grpo compares num_generations {grpo.num_generations} answers to one prompt, and a "
        f"worker takes {train.examples_per_worker} at a time; make micro_batch_size (or its share "
        "of global_batch_size) a multiple of it",
    )


def _trains_without_deepspeed(train: TrainSpec) -> bool:
    """Whether weights are moved or gradients read where DeepSpeed keeps them to itself."""
    return train.method.adalora is not None or train.ewc is not None or train.l1 is not None
