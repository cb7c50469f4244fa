"""What each stage up to `deploy` hands on."""

from typing import Literal

from pydantic import Field

from assay.records.artifact import Artifact
from assay.records.record import Record


class ModelRecord(Record):
    """A model folder: fetched, merged or compressed."""

    artifact: Artifact
    architecture: str
    """Transformers class, such as `LlamaForCausalLM`."""
    num_parameters: int
    num_layers: int
    context_length: int
    """Longest sequence the model was made for, in tokens."""
    scheme: str = "none"
    """Quantization scheme."""


class SplitRecord(Record):
    """One tokenized split."""

    file: str
    """Name inside the data set's artifact; empty for a split that has no examples."""
    digest: str
    """SHA-256 of the examples' canonical JSON, in order."""
    num_examples: int
    num_tokens: int
    num_completion_tokens: int
    """Tokens that bear loss."""


class DatasetRecord(Record):
    """The prepared data."""

    artifact: Artifact
    train: SplitRecord
    selection: SplitRecord
    gate: SplitRecord | None
    num_dropped_too_long: int
    num_dropped_duplicates: int
    """Selection or gate examples removed from train because they stood in both."""
    num_dropped_in_gate: int = 0
    """Examples of a later step's data removed because they ask what the gate's sealed split asks."""
    ewc: SplitRecord | None = None
    """What `train.ewc` protects."""
    labels: tuple[str, ...] = ()
    """Classes, sorted, of classification data."""
    sources: dict[str, int] = Field(default_factory=dict)
    """Training examples by the entry of `data.train` that they came from, weights applied."""


class LossPoint(Record):
    """One line of a run's history."""

    step: int
    loss: float
    learning_rate: float
    grad_norm: float | None = None
    tokens_per_s: float
    """Tokens that are no padding, over all workers."""


class TrainingRecord(Record):
    """One finished training run."""

    artifact: Artifact
    """The adapter, or the full model."""
    method: str
    """Key of the spec's `method`."""
    objective: str = "sft"
    """Key of the spec's `objective`."""
    learning_rate: float
    num_steps: int
    num_tokens: int
    """Tokens trained on, no padding counted."""
    precision: str
    """What `precision: auto` came to, or what was asked for."""
    attention: str = "sdpa"
    """The attention kernel that the hardware allowed."""
    selection_loss: float | None
    """Mean loss per completion token on the selection split; None when that split is empty."""
    selection_loss_se: float | None
    """Standard error of `selection_loss`, over examples."""
    seconds: float
    """Wall time of the whole run."""
    seconds_to_first_step: float
    """From the call to the end of the first optimizer step."""
    tokens_per_s: float
    """Over the training steps alone."""
    peak_memory_bytes: int
    """Highest resident (CPU) or allocated (GPU) memory of any worker."""
    history: tuple[LossPoint, ...]


class TrialRecord(Record):
    """One trial of a sweep."""

    learning_rate: float
    training: TrainingRecord | None
    """None when the trial failed."""
    error: str | None = None


class SweepRecord(Record):
    """A finished sweep and its choice."""

    trials: tuple[TrialRecord, ...]
    chosen: int
    """Index of the winner in `trials`."""

    @property
    def learning_rate(self) -> float:
        """The chosen learning rate."""
        return self.trials[self.chosen].learning_rate


Slot = Literal["blue", "green", "reference"]
"""Engine applications: two that can have traffic, and one for weighing the base model."""


class DeploymentRecord(Record):
    """A model in a slot, ready to answer."""

    slot: Slot
    model_name: str
    artifact_digest: str
    url: str
    """Base of the OpenAI-compatible API, ending in `/v1`."""
    deployed_at: float
    """When Serve deployed the application, in seconds since the epoch."""
    replicas: tuple[str, ...]
    """Ids of the engine replicas, sorted."""
