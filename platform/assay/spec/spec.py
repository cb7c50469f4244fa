"""The whole spec: every block under its key."""

from typing import Literal

from pydantic import Field, model_validator

from assay.spec.approval import ApprovalSpec
from assay.spec.block import Block
from assay.spec.compress import CompressSpec
from assay.spec.data import DataSpec
from assay.spec.gate import GateSpec
from assay.spec.model import ModelField
from assay.spec.serve import ServeSpec
from assay.spec.sweep import SweepSpec
from assay.spec.train import TrainSpec


class Spec(Block):
    """From a base model to a served one."""

    version: Literal[1]
    """Version of the spec language."""

    name: str = Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,46}[a-z0-9])?$")
    """Name of what is built: lower-case letters, digits and dashes."""

    model: ModelField
    """The base model."""

    data: DataSpec
    """What to train on."""

    sweep: SweepSpec | None = None
    """Learning rates to try first; none when not said."""

    train: TrainSpec = TrainSpec()
    """The training run."""

    compress: CompressSpec = CompressSpec()
    """Quantization."""

    gate: GateSpec
    """What the candidate must show."""

    approval: ApprovalSpec
    """Who must agree."""

    serve: ServeSpec = ServeSpec()
    """How it is served."""

    @model_validator(mode="after")
    def _trial_batch_divides(self) -> "Spec":
        if self.sweep and self.sweep.num_workers and self.train.global_batch_size % self.sweep.num_workers:
            raise ValueError(
                f"train.global_batch_size {self.train.global_batch_size} is not divisible by "
                f"sweep.num_workers {self.sweep.num_workers}"
            )
        return self

    @property
    def served_name(self) -> str:
        """The model's name in the OpenAI-compatible API."""
        return self.serve.model_name or self.name
