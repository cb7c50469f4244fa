"""The `train:` block: one training run. A sweep's trial is one of these, too."""

import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from assay.spec.block import Block, Fraction

LearningRate = Annotated[float, Field(gt=0, le=1)]
"""Step size of the optimizer. The sweep uses this type as well."""


class LoraSpec(Block):
    """Low-rank adapters (Hu et al., 2021), through peft."""

    r: int = Field(16, ge=1, le=1024)
    """Rank of the adapters."""

    alpha: float = Field(32, gt=0)
    """The adapter's output is scaled by alpha / r."""

    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""

    target_modules: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    """Names of the linear modules to adapt, or all of them but the output head."""

    layers: str | None = None
    """Which transformer layers get adapters: `15-29`, `0,4,8` or a mix; all when not said. Counts from 0."""

    @field_validator("layers", mode="before")
    @classmethod
    def _ranges(cls, value: Any) -> Any:
        text = str(value) if isinstance(value, int) else value
        if text is not None and not (isinstance(text, str) and re.fullmatch(r"\d+(-\d+)?(,\s*\d+(-\d+)?)*", text)):
            raise ValueError("write layers as 15-29, or 0,4,8")
        return text

    def layer_indices(self) -> tuple[int, ...] | None:
        """`layers` as sorted indices; None for all."""
        if self.layers is None:
            return None
        found: set[int] = set()
        for part in self.layers.split(","):
            first, _, last = part.strip().partition("-")
            found.update(range(int(first), int(last or first) + 1))
        return tuple(sorted(found))


class MethodSpec(Block):
    """Which weights are trained; exactly one of the two is set."""

    lora: LoraSpec | None = None
    """Low-rank adapters on a frozen model."""

    full: bool = False
    """Every weight."""

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """`lora` and `full` alone stand for the method with its defaults."""
        if value == "lora":
            return {"lora": {}}
        return {"full": True} if value == "full" else value

    @model_validator(mode="after")
    def _exactly_one(self) -> "MethodSpec":
        if (self.lora is not None) == self.full:
            raise ValueError("choose one method: lora, or full")
        return self

    @property
    def name(self) -> str:
        """`lora` or `full`."""
        return "full" if self.full else "lora"


class DeepSpeedSpec(Block):
    """How DeepSpeed shards the training state (ZeRO; Rajbhandari et al., 2020)."""

    zero_stage: Literal[0, 1, 2, 3] = 2
    """0 shards nothing, 1 the optimizer's state, 2 the gradients too, 3 the weights too."""

    offload_optimizer: bool = False
    """Keep the optimizer's state in CPU memory."""

    offload_param: bool = False
    """Keep the sharded weights in CPU memory; needs ZeRO stage 3."""

    @model_validator(mode="after")
    def _offload_needs_sharding(self) -> "DeepSpeedSpec":
        if self.offload_param and self.zero_stage != 3:
            raise ValueError("offload_param needs zero_stage: 3")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3")
        return self


class WorkerResources(Block):
    """What Ray reserves for one training worker."""

    cpus: float = Field(1, gt=0)
    """Logical CPUs of a worker."""

    gpus: float | None = Field(None, ge=0)
    """GPUs of a worker; when not said, 1 where the cluster has GPUs and 0 elsewhere."""

    threads: int = Field(1, ge=1)
    """Threads that torch may use in a worker on CPU."""


class TrainSpec(Block):
    """One supervised fine-tuning run; loss on completions only."""

    method: MethodSpec = MethodSpec(lora=LoraSpec())
    """`lora`, `full`, or `{lora: {r: 16, alpha: 32, ...}}`."""

    learning_rate: LearningRate = 2e-4
    """Peak learning rate; a sweep overrides it."""

    num_epochs: float = Field(1, gt=0)
    """Passes over the training split."""

    max_steps: int | None = Field(None, ge=1)
    """Optimizer steps, when it should not be counted in epochs."""

    global_batch_size: int = Field(16, ge=1)
    """Examples in one optimizer step, over all workers."""

    micro_batch_size: int | None = Field(None, ge=1)
    """Examples that one worker takes at a time; the rest is accumulated. All of its share when not said."""

    max_length: int = Field(1024, ge=8)
    """Longest example, in tokens; longer ones are dropped and counted."""

    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after warm-up."""

    warmup_ratio: Fraction = 0.06
    """Share of the steps in which the learning rate rises."""

    weight_decay: float = Field(0.0, ge=0)
    """AdamW's decoupled weight decay."""

    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are clipped to this norm."""

    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Precision of the forward and backward pass; the optimizer keeps fp32. `auto` is bf16 where the
    hardware computes in it, and fp32 elsewhere."""

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

    @model_validator(mode="after")
    def _batch_divides(self) -> "TrainSpec":
        if self.global_batch_size % self.num_workers:
            raise ValueError(
                f"global_batch_size {self.global_batch_size} is not divisible by num_workers {self.num_workers}"
            )
        share = self.global_batch_size // self.num_workers
        if self.micro_batch_size is not None and share % self.micro_batch_size:
            raise ValueError(
                f"a worker's share of {share} examples is not divisible by micro_batch_size {self.micro_batch_size}"
            )
        return self

    @property
    def examples_per_worker(self) -> int:
        """Examples that one worker takes in one forward pass."""
        return self.micro_batch_size or self.global_batch_size // self.num_workers

    @property
    def accumulation_steps(self) -> int:
        """Forward passes in one optimizer step."""
        return self.global_batch_size // self.num_workers // self.examples_per_worker
