"""`train`: one training run. A sweep's trial is this very function with another learning rate."""

import time
from pathlib import Path

from assay.engines import ray_train
from assay.engines.hf_trainer import TrainingJob
from assay.records.stages import DatasetRecord, ModelRecord, TrainingRecord
from assay.spec.train import TrainSpec
from assay.stages.work import Work

VERSION = 2


def run(
    train: TrainSpec,
    *,
    model: ModelRecord,
    data: DatasetRecord,
    work: Work,
    teacher: ModelRecord | None = None,
    scorer: ModelRecord | None = None,
) -> TrainingRecord:
    """Trains on Ray workers and stores the adapter, or the full model. `distill` learns from the `teacher`, and
    `grpo` may be rewarded by the `scorer`."""
    started_at = time.time()
    work.say("starting the workers")
    output = work.folder / "output"
    splits = Path(data.artifact.path)
    num_gpus = train.worker.gpus if train.worker.gpus is not None else float(work.on_gpu)
    job = TrainingJob(
        train=train,
        model=model.artifact.path,
        train_file=_split_file(train, splits / data.train.file),
        selection_file=_split_file(train, splits / data.selection.file) if data.selection.num_examples else None,
        ewc_file=str(splits / data.ewc.file) if data.ewc else None,
        teacher=teacher.artifact.path if teacher else None,
        scorer=scorer.artifact.path if scorer else None,
        num_labels=_num_labels(train, data),
        output=str(output),
        progress_file=str(work.progress_file),
        started_at=started_at,
        on_gpu=num_gpus > 0,
    )
    outcome = ray_train.fit(job, num_gpus_per_worker=num_gpus)
    weights = output / "weights"
    (weights / "training_args.bin").unlink(missing_ok=True)  # a pickle, which nobody should have to load
    (weights / "README.md").unlink(missing_ok=True)
    return TrainingRecord(
        artifact=work.store.put(weights, "adapter" if train.method.is_adapter else "model"),
        method=train.method.name,
        objective=train.objective.name,
        learning_rate=train.learning_rate,
        seconds=time.time() - started_at,
        **outcome.model_dump(),
    )


def _split_file(train: TrainSpec, file: Path) -> str:
    """Online training reads prompts, which stand beside the tokens."""
    return str(file.with_suffix(".jsonl") if train.objective.grpo is not None else file)


def _num_labels(train: TrainSpec, data: DatasetRecord) -> int | None:
    """Classes of a linear head, 1 for a reward; None where the model answers in words."""
    if train.objective.generates:
        return None
    return len(data.labels) if train.objective.classify is not None else 1
