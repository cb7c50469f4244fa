"""`sweep`: Ray Tune over learning rates. The choice is made on the selection split; nobody sees the gate's."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from assay.engines import ray_cluster, ray_tune
from assay.errors import PlaceError, StageFailed
from assay.records.stages import DatasetRecord, ModelRecord, SweepRecord, TrainingRecord, TrialRecord
from assay.spec.sweep import SweepSpec
from assay.spec.train import TrainSpec
from assay.stages.work import Work

VERSION = 2

Trial = Callable[..., TrainingRecord]
"""`stages.train.run`, handed in by the flow: stages do not import each other."""


def run(
    sweep: SweepSpec, *, base: TrainSpec, trial: Trial, model: ModelRecord, data: DatasetRecord, work: Work
) -> SweepRecord:
    """Runs every trial and chooses by the loss on the selection split (see `choose`).
    Raises `StageFailed` when no trial has one."""
    if not data.selection.num_examples:
        raise StageFailed("a sweep needs a selection split; give data.selection a share or files")
    outcomes = ray_tune.run_trials(
        sweep,
        partial(_run_trial, trial=trial, base=base, sweep=sweep, model=model, data=data, work=work),
        folder=work.fresh_folder("tune"),
        max_concurrent=concurrent_trials(sweep, base, on_gpu=work.on_gpu),
    )
    trials = tuple(
        TrialRecord(
            learning_rate=outcome.learning_rate,
            training=TrainingRecord.model_validate_json(outcome.result) if outcome.result else None,
            error=outcome.error,
        )
        for outcome in outcomes
    )
    return SweepRecord(trials=trials, chosen=choose(trials))


def choose(trials: tuple[TrialRecord, ...]) -> int:
    """Index of the chosen trial: of those whose selection loss is within one standard error of the lowest, the
    one with the lowest learning rate. A short trial flatters high rates, and differences within the error are
    no evidence for them (the one-standard-error rule: Breiman et al., Classification and Regression Trees, 1984).
    Raises `StageFailed` when none finished."""
    finished = {
        index: trial.training
        for index, trial in enumerate(trials)
        if trial.training and trial.training.selection_loss is not None
    }
    if not finished:
        raise StageFailed(f"every trial of the sweep failed; the first said: {trials[0].error}")
    best = min(finished.values(), key=lambda training: training.selection_loss or 0.0)
    enough = (best.selection_loss or 0.0) + (best.selection_loss_se or 0.0)
    near = [index for index, training in finished.items() if (training.selection_loss or 0.0) <= enough]
    return min(near, key=lambda index: finished[index].learning_rate)


def concurrent_trials(sweep: SweepSpec, base: TrainSpec, *, on_gpu: bool) -> int:
    """How many trials fit at once. A trial is a driver of one CPU, and its workers; were more started than
    fit, the drivers would hold what the workers wait for. Raises `PlaceError` when not even one fits."""
    cluster = ray_cluster.size()
    num_workers = sweep.num_workers or base.num_workers
    cpus = 1 + num_workers * base.worker.cpus
    gpus = num_workers * (base.worker.gpus if base.worker.gpus is not None else float(on_gpu))
    fits = math.floor(cluster.cpus / cpus)
    if gpus:
        fits = min(fits, math.floor(cluster.gpus / gpus))
    if fits < 1:
        raise PlaceError(
            f"a trial needs {cpus:g} CPUs and {gpus:g} GPUs; the cluster has {cluster.cpus:g} and {cluster.gpus:g}"
        )
    return min(fits, sweep.num_trials, sweep.max_concurrent_trials or sweep.num_trials)


def trial_spec(sweep: SweepSpec, base: TrainSpec, learning_rate: float) -> TrainSpec:
    """The training run of one trial: the base with this learning rate and the sweep's budget, validated anew."""
    changes: dict[str, float | int | None] = {"learning_rate": learning_rate}
    if sweep.max_steps is not None:
        changes["max_steps"] = sweep.max_steps
    elif sweep.num_epochs is not None:
        changes |= {"num_epochs": sweep.num_epochs, "max_steps": None}
    if sweep.num_workers is not None:
        changes["num_workers"] = sweep.num_workers
    return TrainSpec.model_validate({**base.model_dump(), **changes})


def _run_trial(
    learning_rate: float,
    *,
    trial: Trial,
    base: TrainSpec,
    sweep: SweepSpec,
    model: ModelRecord,
    data: DatasetRecord,
    work: Work,
) -> str:
    name = f"lr-{learning_rate:.3g}"
    own = replace(work, folder=work.folder / name, progress_file=work.folder / f"{name}.jsonl")
    record = trial(trial_spec(sweep, base, learning_rate), model=model, data=data, work=own)
    return record.model_dump_json()
