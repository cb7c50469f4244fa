"""`train`: one training run. A sweep's trial is this very function with another learning rate."""

import time
from pathlib import Path

from assay.engines import ray_train
from assay.engines.hf_trainer import TrainingJob
from assay.records.stages import DatasetRecord, ModelRecord, TrainingRecord
from assay.spec.train import TrainSpec
from assay.stages.work import Work

VERSION = 1


def run(train: TrainSpec, *, model: ModelRecord, data: DatasetRecord, work: Work) -> TrainingRecord:
    """Trains on Ray workers and stores the adapter, or the full model."""
    started_at = time.time()
    work.say("starting the workers")
    output = work.folder / "output"
    splits = Path(data.artifact.path)
    num_gpus = train.worker.gpus if train.worker.gpus is not None else float(work.on_gpu)
    job = TrainingJob(
        train=train,
        model=model.artifact.path,
        train_file=str(splits / data.train.file),
        selection_file=str(splits / data.selection.file) if data.selection.num_examples else None,
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
        artifact=work.store.put(weights, "model" if train.method.full else "adapter"),
        method="full" if train.method.full else "lora",
        learning_rate=train.learning_rate,
        seconds=time.time() - started_at,
        **outcome.model_dump(),
    )
