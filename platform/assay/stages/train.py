"""`train`: one training run. A sweep's trial is this very function with another learning rate."""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.engines.checkpoints import files as kept
from assay.engines.checkpoints.callback import CheckpointConfig
from assay.engines.training import trackers
from assay.engines.training.job import TrainingJob
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
LOOKS_SHARE = 0.05
"""Of the time that training takes, for looks at the selection loss that nobody asked for."""


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
    train, model, data = inputs.train, inputs.model, inputs.data
    teacher, scorer = inputs.teacher, inputs.reward_model
    identity = job_digest(train, model=model, data=data, others=(teacher, scorer))
    checkpoints = work.settings.home / "checkpoints" / identity[:16]
    taken = UsageError(
        f"another run is at this very training (its checkpoints are in {checkpoints})"
    )
    with held(checkpoints.with_suffix(".lock"), taken=taken):
        record = part(
            train,
            model=model,
            data=data,
            work=work,
            teacher=teacher,
            scorer=scorer,
            fit=ray_train.fit,
            checkpoints=checkpoints,
            num_looks=_num_looks(train, data),
        )
        shutil.rmtree(checkpoints, ignore_errors=True)
    assert isinstance(record, TrainingRecord)
    return record


def part(
    train: TrainSpec,
    *,
    model: ModelRecord,
    data: DatasetRecord,
    work: Work,
    fit: Fit,
    checkpoints: Path,
    teacher: ModelRecord | None = None,
    scorer: ModelRecord | None = None,
    until: float | None = None,
    halt_file: Path | None = None,
    rising_from: float | None = None,
    start: Path | None = None,
    num_looks: int | None = None,
    at_once: int = 1,
) -> TrainingRecord | PauseReport:
    """The same, or the training up to a share of its steps: a sweep's trial. It goes on from what
    is in `checkpoints`, or begins with the checkpoint in `start`, where there is one, of a training
    that was the same up to there. It ends with a checkpoint when `halt_file` appears. With
    `rising_from` the learning rate rises from there to `train.learning_rate`, step by step: a range
    test. `at_once` such trainings share the machine."""
    started_at = time.time()
    trackers.require(train.report_to)
    work.say("starting the workers")
    identity = job_digest(train, model=model, data=data, others=(teacher, scorer))
    if start is not None and start.exists():
        _take_in(start, checkpoints, identity, work)
    output = work.folder / "output"
    splits = Path(data.artifact.path)
    if train.worker.gpus is not None:
        num_gpus = train.worker.gpus
    else:
        num_gpus = float(work.on_gpu)
    job = TrainingJob(
        train=train,
        model=model.artifact.path,
        train_file=_split_file(train, splits / data.train.file),
        selection_file=_split_file(train, splits / data.selection.file)
        if data.selection.num_examples
        else None,
        ewc_file=str(splits / data.ewc.file) if data.ewc else None,
        teacher=teacher.artifact.path if teacher else None,
        scorer=scorer.artifact.path if scorer else None,
        num_labels=_num_labels(train, data),
        output=str(output),
        progress_file=str(work.progress_file),
        started_at=started_at,
        on_gpu=num_gpus > 0,
        threads=train.worker.threads or _fair_share(train.num_workers * at_once),
        rising_from=rising_from,
        num_looks=num_looks,
        keeping=CheckpointConfig(
            folder=str(checkpoints),
            job=identity,
            attempt="",
            until=until,
            halt_file=str(halt_file) if halt_file else None,
        ),
    )
    outcome = fit(job, num_gpus_per_worker=num_gpus)
    if isinstance(outcome, PauseReport):
        return outcome
    weights = output / "weights"
    (weights / "training_args.bin").unlink(
        missing_ok=True
    )  # a pickle, which nobody should have to load
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


def _num_looks(train: TrainSpec, data: DatasetRecord) -> int | None:
    """How often the selection loss is measured on the way; None where that is no loss of tokens, or
    nothing is there. A forward pass takes a third of a training step's work."""
    if train.objective.grpo is not None or not data.selection.num_examples:
        return None
    shown = train.num_epochs * data.train.num_examples
    if train.max_steps is not None:
        shown = train.max_steps * train.global_batch_size
    return min(MOST_LOOKS, int(LOOKS_SHARE * 3 * shown / data.selection.num_examples))


def job_digest(
    train: TrainSpec,
    *,
    model: ModelRecord,
    data: DatasetRecord,
    others: Sequence[ModelRecord | None] = (),
) -> str:
    """What says whether two trainings are the same one."""
    models = [one.artifact.digest if one else None for one in (model, *others)]
    return digest_of(
        [VERSION, train.model_dump(exclude=WITHOUT_EFFECT), models, data.artifact.digest]
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
