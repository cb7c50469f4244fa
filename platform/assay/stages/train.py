"""`train`: one training run. A sweep's trial is this very function with another learning rate."""

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from assay.engines.checkpoints import files as kept
from assay.engines.checkpoints.callback import CheckpointConfig
from assay.engines.training import trackers
from assay.engines.training.job import Sources, Stretch, TrainingJob
from assay.engines.workers import ray_train
from assay.errors import UsageError
from assay.records.inputs import StageInputs, without
from assay.records.record import digest_of
from assay.records.stages import (
    DatasetRecord,
    ModelRecord,
    PauseReport,
    TrainingOutcome,
    TrainingRecord,
)
from assay.spec.train import WITHOUT_EFFECT, TrainSpec
from assay.stages.context import Work
from assay.store.lock import held

VERSION = 5

MOST_LOOKS = 5
# Of the time that training takes, for looks at the selection loss that nobody asked for.
LOOKS_SHARE = 0.05

Fit = Callable[..., TrainingOutcome | PauseReport]
"""`ray_train.fit`, or something that does the same on workers that are there already."""


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What training comes to depends on."""

    model: ModelRecord
    """That training starts from."""
    data: DatasetRecord
    train: TrainSpec = without(*sorted(WITHOUT_EFFECT))
    teacher: ModelRecord | None = None
    reward_model: ModelRecord | None = None


Output = TrainingRecord


def run(inputs: Inputs, work: Work) -> TrainingRecord:
    """Trains on Ray workers and stores the adapter, or the full model. `distill` learns from the
    `teacher`, and `grpo` may be rewarded by the reward model. What was trained before is gone on
    with, whichever run had begun it. Raises `UsageError` when another process is at the same
    training."""
    train, data = inputs.train, inputs.data
    sources = Sources(
        model=inputs.model, data=data, teacher=inputs.teacher, reward_model=inputs.reward_model
    )
    checkpoints = work.settings.home / "checkpoints" / job_digest(train, sources)[:16]
    taken = UsageError(
        f"another run is at this very training (its checkpoints are in {checkpoints})"
    )
    stretch = Stretch(checkpoints=checkpoints, num_looks=_num_looks(train, data))
    with held(checkpoints.with_suffix(".lock"), taken=taken):
        record = part(train, sources, stretch, work=work, fit=ray_train.fit)
        shutil.rmtree(checkpoints, ignore_errors=True)
    assert isinstance(record, TrainingRecord)  # no pause was asked for
    return record


def part(
    train: TrainSpec, sources: Sources, stretch: Stretch, *, work: Work, fit: Fit
) -> TrainingRecord | PauseReport:
    """Trains one stretch of a training: all of it, or a sweep's trial up to a share of its
    steps."""
    started_at = time.time()
    # First of all: workers take their time to start, and a missing tracker is known at once.
    trackers.require(train.report_to)
    work.say("starting the workers")
    if stretch.start is not None and stretch.start.exists():
        _take_in(stretch.start, stretch.checkpoints, job_digest(train, sources), work)
    job = _job(train, sources, stretch, work, started_at)
    num_gpus = _gpus_per_worker(train, work)
    outcome = fit(job, num_gpus_per_worker=num_gpus)
    if isinstance(outcome, PauseReport):
        return outcome
    weights = Path(job.output) / "weights"
    # A pickle, which nobody should have to load.
    (weights / "training_args.bin").unlink(missing_ok=True)
    # peft's model card: a form that nobody has filled in, with this machine's path of the model.
    (weights / "README.md").unlink(missing_ok=True)
    _put_in_order(weights / "adapter_config.json")
    return TrainingRecord(
        artifact=work.store.put(weights, "adapter" if train.method.is_adapter else "model"),
        method=train.method.name,
        objective=train.objective.name,
        learning_rate=train.learning_rate,
        seconds=time.time() - started_at,
        **outcome.model_dump(),
    )


def _job(
    train: TrainSpec, sources: Sources, stretch: Stretch, work: Work, started_at: float
) -> TrainingJob:
    """What every worker is told."""
    data, splits = sources.data, Path(sources.data.artifact.path)
    selection_file = None
    if data.selection.num_examples:
        selection_file = _split_file(train, splits / data.selection.file)
    threads = train.worker.threads or _fair_share(train.num_workers * stretch.at_once)
    return TrainingJob(
        train=train,
        model=sources.model.artifact.path,
        train_file=_split_file(train, splits / data.train.file),
        selection_file=selection_file,
        ewc_file=str(splits / data.ewc.file) if data.ewc else None,
        teacher=_path(sources.teacher),
        scorer=_path(sources.reward_model),
        num_labels=_num_labels(train, data),
        output=str(work.folder / "output"),
        progress_file=str(work.progress_file),
        started_at=started_at,
        on_gpu=_gpus_per_worker(train, work) > 0,
        threads=threads,
        rising_from=stretch.rising_from,
        num_looks=stretch.num_looks,
        keeping=CheckpointConfig(
            folder=str(stretch.checkpoints),
            job=job_digest(train, sources),
            attempt="",
            until=stretch.until,
            halt_file=str(stretch.halt_file) if stretch.halt_file else None,
        ),
    )


def _gpus_per_worker(train: TrainSpec, work: Work) -> float:
    if train.worker.gpus is not None:
        return train.worker.gpus
    return float(work.on_gpu)


def _path(model: ModelRecord | None) -> str | None:
    if model is None:
        return None
    return model.artifact.path


def _num_looks(train: TrainSpec, data: DatasetRecord) -> int | None:
    """How often the selection loss is measured on the way; None where that is no loss of tokens, or
    nothing is there. A forward pass takes a third of a training step's work."""
    if train.objective.grpo is not None or not data.selection.num_examples:
        return None
    shown = train.num_epochs * data.train.num_examples
    if train.max_steps is not None:
        shown = train.max_steps * train.global_batch_size
    return min(MOST_LOOKS, int(LOOKS_SHARE * 3 * shown / data.selection.num_examples))


def job_digest(train: TrainSpec, sources: Sources) -> str:
    """What says whether two trainings are the same one."""
    models = []
    for one in (sources.model, sources.teacher, sources.reward_model):
        models.append(one.artifact.digest if one else None)
    return digest_of(
        [VERSION, train.model_dump(exclude=WITHOUT_EFFECT), models, sources.data.artifact.digest]
    )


def _take_in(start: Path, checkpoints: Path, identity: str, work: Work) -> None:
    try:
        kept.take_in(start, checkpoints, identity)
    except kept.Damaged as error:
        work.say(f"starting anew: the checkpoint to start from is damaged ({error})")


def _put_in_order(config: Path) -> None:
    """peft writes sets of names in an order of chance; the same training shall give the same
    bytes."""
    if not config.exists():
        return
    said = json.loads(config.read_text())
    for name in ("target_modules", "exclude_modules", "modules_to_save"):
        if isinstance(said.get(name), list):
            said[name] = sorted(said[name])
    config.write_text(json.dumps(said, indent=2, sort_keys=True))


def _split_file(train: TrainSpec, file: Path) -> str:
    """Online training reads prompts, which stand beside the tokens."""
    return str(file.with_suffix(".jsonl") if train.objective.grpo is not None else file)


def _num_labels(train: TrainSpec, data: DatasetRecord) -> int | None:
    """Classes of a linear head, 1 for a reward; None where the model answers in words."""
    if train.objective.generates:
        return None
    if train.objective.classify is not None:
        return len(data.labels)
    return 1


def _fair_share(num_workers: int) -> int:
    """Threads of each of so many workers that share this machine's cores."""
    return max(1, len(os.sched_getaffinity(0)) // num_workers)
