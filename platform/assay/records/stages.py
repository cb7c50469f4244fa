"""What each stage up to `deploy` hands on."""

from typing import Any, Literal

from pydantic import Field

from assay.records.artifact import Artifact
from assay.records.record import Record
from assay.spec.block import later
from assay.spec.training.rates import RateChange


class Divergence(Record):
    """How a compressed model's distributions of the next token differ from the merged one's, on
    texts of the training split, both computed in bfloat16."""

    kl: float
    """Kullback-Leibler divergence from the merged model, in nats: the mean over positions."""
    top1_agreement: float
    """Share of the positions at which both find the same token likeliest."""
    loss: float | None
    """Cross-entropy of the texts, in nats a token; None of a GGUF file, whose engine tells the
    likeliest tokens alone."""
    merged_loss: float | None
    """The same of the merged model."""
    num_tokens: int
    """Positions that were compared."""


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
    """Quantization scheme, or the steps of compression in a few words."""
    format: Literal["safetensors", "gguf"] = later("safetensors")
    """vLLM serves the one, llama.cpp the other."""
    divergence: Divergence | None = later(None)
    """Of a compressed model; None in records of older versions."""
    num_calibrated: int = later(0)
    """Training examples that compression looked at."""
    sparsity: float = later(0.0)
    """Share of the linear modules' weights that pruning made 0."""


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
    """Examples removed because they ask what an earlier step's sealed split asks, or quote a sealed
    one, question and answer."""
    num_dropped_beyond_max: int = 0
    """Examples that `data.max_samples` left out."""
    num_cut: int = 0
    """Examples that were shortened, or split, to `max_length` tokens."""
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
    selection_loss: float | None = later(None)
    """Mean loss per completion token on the selection split, where the run has looked at it."""
    selection_loss_se: float | None = later(None)


class PauseReport(Record):
    """How a training run does that has paused or failed before its end."""

    step: int
    num_tokens: int
    selection_loss: float | None
    selection_loss_se: float | None
    history: tuple[LossPoint, ...]


class TrainingOutcome(Record):
    """What a training run came to, as its workers measured it."""

    num_steps: int
    num_tokens: int
    """Tokens trained on, no padding counted."""
    precision: str
    """What `precision: auto` came to, or what was asked for."""
    attention: str = "sdpa"
    """The attention kernel, by transformers' name; `sdpa_by_text` is torch's, called for each text
    of a packed row."""
    kernels: tuple[str, ...] = ()
    """Those of `train.kernels` that were used."""
    kernels_unused: dict[str, str] = Field({})
    """Why each of the others was not."""
    selection_loss: float | None
    """Mean loss per completion token on the selection split; None when that split is empty."""
    selection_loss_se: float | None
    """Standard error of `selection_loss`, over examples."""
    seconds_to_first_step: float
    """From the call to the end of the first optimizer step."""
    tokens_per_s: float
    """Over the training steps alone."""
    peak_memory_bytes: int
    """Highest resident (CPU) or allocated (GPU) memory of any worker."""
    history: tuple[LossPoint, ...]
    best_step: int | None = None
    """The step whose weights were kept, where early stopping found a better one than the last."""
    num_restarts: int = 0
    """How often it went on from a checkpoint, after lost workers or for lack of memory."""
    adaptations: tuple[str, ...] = ()
    """What was changed on the way so that it could go on, in words."""


class TrainingRecord(TrainingOutcome):
    """One finished training run."""

    artifact: Artifact
    """The adapter, or the full model."""
    method: str
    """Key of the spec's `method`."""
    objective: str = "sft"
    """Key of the spec's `objective`."""
    learning_rate: float
    seconds: float
    """Wall time of the whole run."""


class TrialRecord(Record):
    """One trial of a sweep. It was finished (`training`), failed (`error`), or was ended early
    (neither)."""

    learning_rate: float
    parameters: dict[str, bool | int | float | str] = Field({})
    """Every varied field of `train`, by its dotted name."""
    learning_rate_changes: tuple[RateChange, ...] = ()
    """The rates that it went on with, where `pbt` changed them."""
    training: TrainingRecord | None
    """None when the trial did not go to its end."""
    error: str | None = None
    """Why it failed; a trial whose loss left all bounds says that it diverged."""
    pauses: tuple[PauseReport, ...] = ()
    """How it did on the way, wherever the scheduler looked, and where it failed."""

    @property
    def rates(self) -> tuple[float, ...]:
        """The peak learning rates that it had, in their order."""
        return self.learning_rate, *(change.learning_rate for change in self.learning_rate_changes)

    @property
    def latest(self) -> "TrainingRecord | PauseReport | None":
        """What was seen of it last; None where it failed before anybody looked."""
        if self.training is not None:
            return self.training
        return self.pauses[-1] if self.pauses else None

    @property
    def outcome(self) -> Literal["finished", "stopped", "diverged", "failed"]:
        """How the trial ended."""
        if self.training is not None:
            return "finished"
        if self.error is None:
            return "stopped"
        if "diverged" in self.error:
            return "diverged"
        return "failed"

    @property
    def num_tokens(self) -> int:
        """Tokens that were trained on."""
        if self.training is not None:
            return self.training.num_tokens
        if self.pauses:
            return self.pauses[-1].num_tokens
        return 0

    @property
    def num_steps(self) -> int:
        """Optimizer steps that were made."""
        if self.training is not None:
            return self.training.num_steps
        if self.pauses:
            return self.pauses[-1].step
        return 0

    @property
    def history(self) -> tuple[LossPoint, ...]:
        """The trial's losses, as far as it went."""
        if self.training is not None:
            return self.training.history
        if self.pauses:
            return self.pauses[-1].history
        return ()


class SweepRecord(Record):
    """A finished sweep and its choice."""

    trials: tuple[TrialRecord, ...]
    chosen: int
    """Index of the winner in `trials`."""
    metric: str = "selection_loss"
    """What the choice went by."""
    seconds: float = 0.0
    """Wall time of the whole sweep."""
    range_test: tuple[LossPoint, ...] = ()
    """Losses at rising learning rates, for `learning_rate: auto`."""

    @property
    def learning_rate(self) -> float:
        """The chosen learning rate."""
        return self.trials[self.chosen].learning_rate

    @property
    def parameters(self) -> dict[str, Any]:
        """The chosen value of every varied field of `train`, the learning rate among them."""
        chosen = self.trials[self.chosen]
        found: dict[str, Any] = {"learning_rate": chosen.learning_rate}
        if chosen.learning_rate_changes:
            changes = [change.model_dump() for change in chosen.learning_rate_changes]
            found["learning_rate_changes"] = changes
        return found | chosen.parameters

    @property
    def num_tokens(self) -> int:
        """Tokens that all trials together were trained on."""
        return sum(trial.num_tokens for trial in self.trials)


Slot = Literal["blue", "green", "reference", "elsewhere"]
"""Engine applications: two that can have traffic, and one for evaluation what never has any, such
as the base model. `elsewhere` is a server that is not ours."""


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
    max_reasoning_tokens: int = 0
    """How long an evaluated answer may reason before it answers: half of the engine's context; 0
    for a model that does not reason."""
    engine_build: tuple[str, ...] = later(())
    """Name and version of the engine and of what it stands on; empty in records of older
    versions."""
    on_gpu: bool = later(False)
    """Whether the engine runs on GPUs."""
