"""`sweep`: Ray Tune over the fields of `train`. The choice is made on the selection split; nobody
sees the gate's."""

import math
import shutil
import time
from dataclasses import dataclass

from assay.engines.cluster import tasks
from assay.engines.training.job import Sources
from assay.engines.workers import ray_tune
from assay.errors import PlaceError, StageFailed
from assay.records.inputs import StageInputs, without
from assay.records.stages import (
    DatasetRecord,
    ModelRecord,
    SweepRecord,
    TrainingRecord,
    TrialRecord,
)
from assay.spec.sweep import SweepSpec
from assay.spec.train import WITHOUT_EFFECT, TrainSpec
from assay.stages.context import Work
from assay.stages.sweeping.scheduler import TrialScheduler
from assay.stages.sweeping.trials import VERSION as VERSION
from assay.stages.sweeping.trials import Trial, Trials


@dataclass(frozen=True, kw_only=True)
class Inputs(StageInputs):
    """What a sweep's choice depends on."""

    model: ModelRecord
    data: DatasetRecord
    sweep: SweepSpec = without("max_concurrent_trials")
    train: TrainSpec = without("learning_rate", *sorted(WITHOUT_EFFECT))
    """What every trial has in common."""
    teacher: ModelRecord | None = None


Output = SweepRecord


def run(inputs: Inputs, work: Work, *, trial: Trial) -> SweepRecord:
    """Runs every trial as far as the scheduler lets it, and chooses by the loss on the selection
    split (see `choose`). Trials of an earlier attempt at this sweep are kept. Raises `StageFailed`
    when none finished."""
    sweep, base, data = inputs.sweep, inputs.train, inputs.data
    if not data.selection.num_examples:
        raise StageFailed("a sweep needs a selection split; give data.selection a share or files")
    started_at = time.time()
    at_once = concurrent_trials(sweep, base, on_gpu=work.on_gpu)
    sources = Sources(model=inputs.model, data=data, teacher=inputs.teacher)
    each = Trials(sweep, base, sources, trial, work, at_once)
    course = TrialScheduler(sweep, each)
    search = None
    if sweep.way == "optuna":
        search = ray_tune.Search(sweep.space, course.known(), sweep.seed)
    ray_tune.run(
        course,
        each.turn,
        search=search,
        folder=work.fresh_folder("tune"),
        max_concurrent=at_once,
        halt_file=each.halt_file,
    )
    trials = course.records()
    chosen = choose(trials)
    for folder in (work.folder / "trials").glob("*/checkpoints"):
        shutil.rmtree(folder, ignore_errors=True)
    return SweepRecord(
        trials=trials,
        chosen=chosen,
        seconds=time.time() - started_at,
        range_test=course.range_history(),
    )


def choose(trials: tuple[TrialRecord, ...]) -> int:
    """Index of the chosen trial: of those whose selection loss is within one standard error of the
    lowest, the cheapest: the fewest tokens trained on, then the smallest adapter, then the lowest
    learning rate. A short trial flatters high rates, and differences within the error are no
    evidence for them (the one-standard-error rule: Breiman et al., Classification and Regression
    Trees, 1984). Raises `StageFailed` when none finished."""
    finished: dict[int, TrainingRecord] = {}
    for index, trial in enumerate(trials):
        if trial.training and trial.training.selection_loss is not None:
            finished[index] = trial.training
    if not finished:
        errors = [trial.error for trial in trials if trial.error]
        raise StageFailed(
            f"every trial of the sweep failed; the first said: {errors[0] if errors else 'nothing'}"
        )
    best = min(finished.values(), key=lambda training: training.selection_loss or 0.0)
    enough = (best.selection_loss or 0.0) + (best.selection_loss_se or 0.0)
    near = {index: one for index, one in finished.items() if (one.selection_loss or 0.0) <= enough}

    def cost(index: int) -> tuple[int, int, float]:
        training = near[index]
        return training.num_tokens, training.artifact.size, training.learning_rate

    return min(near, key=cost)


def concurrent_trials(sweep: SweepSpec, base: TrainSpec, *, on_gpu: bool) -> int:
    """How many trials fit at once into what is free now. A trial is a driver of one CPU, and its
    workers; were more started than fit, the drivers would hold what the workers wait for. One is
    started in any case: what is taken may become free. Raises `PlaceError` when the cluster could
    never hold one."""
    num_workers = sweep.num_workers or base.num_workers
    cpus = 1 + num_workers * base.worker.cpus
    gpus_each = float(on_gpu) if base.worker.gpus is None else base.worker.gpus
    gpus = num_workers * gpus_each

    def into(cluster: tasks.ClusterSize) -> int:
        by_gpus = cluster.gpus / gpus if gpus else math.inf
        return math.floor(min(cluster.cpus / cpus, by_gpus))

    whole = tasks.size()
    if into(whole) < 1:
        raise PlaceError(
            f"a trial needs {cpus:g} CPUs and {gpus:g} GPUs; the cluster has {whole.cpus:g} and "
            f"{whole.gpus:g}"
        )
    most = sweep.max_concurrent_trials or sweep.num_trials
    return min(max(1, into(tasks.free())), sweep.num_trials, most)
