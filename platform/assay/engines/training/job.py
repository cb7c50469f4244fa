"""What a training run is told, and where it leaves what it came to."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.engines.checkpoints.callback import CheckpointConfig
from assay.engines.training.objectives import objective_of
from assay.records.record import Record
from assay.records.stages import DatasetRecord, ModelRecord, PauseReport, TrainingOutcome
from assay.spec.train import TrainSpec


class TrainingJob(Record):
    """One training run, as every worker is told it."""

    train: TrainSpec
    model: str
    """Folder of the base model."""
    train_file: str
    """Tokenized split (see `hf_data`)."""
    selection_file: str | None
    ewc_file: str | None = None
    """Tokenized examples that `train.ewc` protects."""
    teacher: str | None = None
    """Folder of the teacher, for `distill`."""
    scorer: str | None = None
    """Folder of a reward model, for `grpo`."""
    num_labels: int | None = None
    """Classes of a linear head; 1 for a reward model."""
    output: str
    """Folder that receives the adapter or model under `weights/`, and `result.json`."""
    progress_file: str
    """JSON lines that tell how far it is."""
    started_at: float
    """When the run was asked for, in seconds since the epoch."""
    on_gpu: bool
    threads: int = 1
    """Of each worker on CPU."""
    keeping: CheckpointConfig | None = None
    """How it is kept from being lost; None where nobody would go on with it."""
    num_looks: int | None = None
    """How often the selection loss is measured on the way, where the spec does not say; None to
    never look."""
    rising_from: float | None = None
    """For a range test: the learning rate rises from here to `train.learning_rate`, by the same
    factor each step."""


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What a training reads."""

    model: ModelRecord
    """That it starts from."""
    data: DatasetRecord
    teacher: ModelRecord | None = None
    """For `distill`."""
    reward_model: ModelRecord | None = None
    """For `grpo`."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """The part of a training that is done at one go."""

    checkpoints: Path
    """It goes on from what is there, and leaves its own there."""
    start: Path | None = None
    """A checkpoint of a training that was the same up to there: where to begin, when there is
    none in `checkpoints`."""
    until: float | None = None
    """The share of the training's steps that it ends after; None for all."""
    halt_file: Path | None = None
    """It ends with a checkpoint when this file appears."""
    rising_from: float | None = None
    """A range test: the learning rate rises from here to the spec's, step by step."""
    num_looks: int | None = None
    """How often the selection loss is measured on the way, where the spec does not say."""
    at_once: int = 1
    """How many such trainings share the machine."""


def read_outcome(output: Path) -> TrainingOutcome | PauseReport:
    """What rank 0 wrote; raises `OSError` or `ValueError` when it is not whole."""
    if (output / "pause.json").exists():
        return PauseReport.model_validate_json((output / "pause.json").read_text())
    return TrainingOutcome.model_validate(json.loads((output / "result.json").read_text()))


def beginnings(job: TrainingJob) -> Path:
    """Where that is kept which a run measures before its first step, for a run that goes on
    later."""
    return Path(job.keeping.folder if job.keeping else job.output)


def is_padded(train: TrainSpec) -> bool:
    """Whether every text needs a row of its own: peft puts virtual tokens before rows, and
    classifiers read rows."""
    return train.objective.grpo is None and (train.method.is_prompt or objective_of(train).scores)


def finite(value: Any) -> float:
    """JSON has no NaN: a diverged loss is written as the largest float."""
    number = float(value)
    if math.isfinite(number):
        return number
    return 1.7e308
