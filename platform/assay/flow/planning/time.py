"""How long stages will take, from what the ledger measured of runs that are like this one."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from assay.flow.pipeline.context import numbered
from assay.records.gate import EvaluationRecord, GateRecord
from assay.records.plan import StagePlan, TrainingPlan
from assay.records.stages import SweepRecord, TrainingRecord
from assay.rules.search.halving import expected_length, ladder
from assay.spec.spec import Spec
from assay.spec.train import TrainSpec
from assay.stages.sweeping.trials import goes_all_the_way

if TYPE_CHECKING:
    from assay.store.ledger import Ledger

EVALUATING = ("baseline", "champion", "gate")
"""Stages whose time is that of questions."""
# Runs that are looked at, the newest first.
MOST_RUNS = 20


class Guess(NamedTuple):
    """Seconds that a stage will take, and what that rests on."""

    seconds: float
    source: str


@dataclass(frozen=True)
class Amounts:
    """What there is to do."""

    training: tuple[TrainingPlan | None, ...]
    """Each training run."""
    trial: TrainingPlan | None
    num_waves: int
    """How often as many of a sweep's trials as fit run side by side."""
    num_items: int | None
    """Questions of the suite."""


def with_times(
    plans: Sequence[StagePlan], spec: Spec, amounts: Amounts, ledger: "Ledger | None"
) -> list[StagePlan]:
    """The plans with an estimate for each stage that would be run, where the ledger has a like
    one."""
    like = _like_records(spec, ledger) if ledger else {}
    timed = []
    for plan in plans:
        if plan.action == "run":
            guess = _guess(plan.stage, spec, amounts, like)
        else:
            guess = None
        if guess:
            plan = StagePlan.model_validate(
                {**plan.model_dump(), "seconds": guess.seconds, "seconds_from": guess.source}
            )
        timed.append(plan)
    return timed


class _Like(NamedTuple):
    """A stage that was run by a run of the same model."""

    run: str
    spec: dict[str, Any]
    seconds: float
    record: str


def _like_records(spec: Spec, ledger: "Ledger") -> dict[str, list[_Like]]:
    """For each stage what the newest runs of the same model measured."""
    found: dict[str, list[_Like]] = {}
    for run in ledger.runs()[:MOST_RUNS]:
        said = json.loads(run.spec)
        if said.get("model", {}).get("source") != spec.model.source:
            continue
        for row in ledger.stages(run.id):
            made = ledger.record(row.key) if row.state == "done" else None
            if made is not None:
                found.setdefault(row.stage, []).append(
                    _Like(run.id, said, made.seconds, made.record)
                )
    return found


def _guess(stage: str, spec: Spec, amounts: Amounts, like: dict[str, list[_Like]]) -> Guess | None:
    trainings = {}
    for index in range(len(spec.train_steps)):
        trainings[numbered("train", index)] = index
    if stage in trainings:
        index = trainings[stage]
        if index == 0 and spec.sweep and goes_all_the_way(spec.sweep, spec.train_steps[0]):
            return Guess(0.0, "the sweep's best trial is the training")
        return _training(spec.train_steps[index], amounts.training[index], like)
    if stage == "sweep":
        return _sweep(spec, amounts, like)
    found = [one for one in like.get(stage, []) if _is_like(stage, spec, one.spec)]
    if not found:
        return None
    if stage in EVALUATING:
        guesses = (_evaluation(one, amounts.num_items) for one in found)
        return next((guess for guess in guesses if guess), None)
    one = found[0]
    return Guess(one.seconds, f"as in {one.run}")


def _is_like(stage: str, spec: Spec, said: dict[str, Any]) -> bool:
    """Whether the other run's stage did the same kind of work."""
    if stage == "compress":
        return bool(said["compress"] == spec.compress.model_dump(mode="json"))
    if stage == "merge":
        return _method(said["train"]) == spec.train_steps[0].method.name
    return True


def _training(
    train: TrainSpec, work: TrainingPlan | None, like: dict[str, list[_Like]]
) -> Guess | None:
    """From the tokens per second of a run with the same method and number of workers; what comes
    before the first step and after the last is taken over as it was."""
    for run, workers, record in _trainings(like):
        if work is None or record.tokens_per_s <= 0:
            continue
        if workers == train.num_workers and record.method == train.method.name:
            around = max(0.0, record.seconds - record.num_tokens / record.tokens_per_s)
            seconds = around + work.num_tokens / record.tokens_per_s
            return Guess(
                seconds,
                f"{work.num_tokens:,} tokens at {record.tokens_per_s:.0f} a second, as in {run}",
            )
    return None


def _trainings(like: dict[str, list[_Like]]) -> list[tuple[str, int, TrainingRecord]]:
    """Every measured training run with its number of workers; a sweep's trials are some, too."""
    found: list[tuple[str, int, TrainingRecord]] = []
    for one in like.get("train", []):
        if (record := _read(TrainingRecord, one.record)) is not None:
            found.append((one.run, _num_workers(one.spec["train"]), record))
    for one in like.get("sweep", []):
        if (sweep := _read(SweepRecord, one.record)) is not None:
            workers = one.spec["sweep"].get("num_workers") or _num_workers(one.spec["train"])
            for trial in sweep.trials:
                if trial.training:
                    found.append((f"{one.run}'s sweep", workers, trial.training))
    return found


def _sweep(spec: Spec, amounts: Amounts, like: dict[str, list[_Like]]) -> Guess | None:
    if spec.sweep is None:
        return None
    first = spec.train_steps[0]
    workers = spec.sweep.num_workers or first.num_workers
    trial = TrainSpec.model_validate({**first.model_dump(), "num_workers": workers})
    one = _training(trial, amounts.trial, {"sweep": like.get("sweep", [])}) or _training(
        trial, amounts.trial, like
    )
    if one is None:
        return None
    waves = max(1, amounts.num_waves)
    if waves == 1:
        how = "all trials side by side"
    else:
        how = f"{waves} rounds of trials"
    # A population ends no trial.
    scheduler = "none" if spec.sweep.scheduler == "pbt" else spec.sweep.scheduler
    rungs = ladder(scheduler, factor=spec.sweep.reduction_factor, num_rungs=spec.sweep.num_rungs)
    if len(rungs.rungs) > 1:
        how += f", most of them ended early by {scheduler}"
    num_trials = spec.sweep.num_trials
    at_once = math.ceil(num_trials / waves)
    length = expected_length(rungs, num_trials=num_trials, at_once=at_once)
    return Guess(length * one.seconds, f"{how}: {one.source}")


def _evaluation(one: _Like, num_items: int | None) -> Guess | None:
    """The questions at the rate measured, and what was needed beside asking them."""
    record = _read(GateRecord, one.record) or _read(EvaluationRecord, one.record)
    evaluation = record.candidate if isinstance(record, GateRecord) else record
    if evaluation is None or not evaluation.num_items or num_items is None:
        return None
    num_asked = evaluation.num_items - evaluation.num_reused
    if num_asked * 2 < evaluation.num_items or evaluation.seconds <= 0:
        return None  # answers that were kept say nothing of how fast they come
    rate = num_asked / evaluation.seconds
    around = max(0.0, one.seconds - evaluation.seconds)
    return Guess(
        around + num_items / rate, f"{num_items} samples at {rate:.1f} a second, as in {one.run}"
    )


def _read(kind: Any, text: str) -> Any:
    try:
        return kind.model_validate_json(text)
    except ValidationError:
        return None


def _num_workers(train: Any) -> int:
    first = train[0] if isinstance(train, list) else train
    return int(first["num_workers"])


def _method(train: Any) -> str:
    first = train[0] if isinstance(train, list) else train
    method = first["method"]
    return next((name for name, chosen in method.items() if chosen), "")


def waves(num_trials: int, slots: int, num_workers: int) -> int:
    """How often trials of so many workers have to follow each other."""
    return math.ceil(num_trials / max(1, slots // max(1, num_workers)))
