"""The sweep's choice, and what a trial trains."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from assay.engines.training.job import Sources
from assay.engines.training.trackers import require
from assay.errors import MissingExtra, StageFailed
from assay.records.artifact import Artifact
from assay.records.progress import Progress
from assay.records.stages import (
    DatasetRecord,
    ModelRecord,
    SplitRecord,
    TrainingRecord,
    TrialRecord,
)
from assay.settings import Settings
from assay.spec.sweep import SweepSpec
from assay.spec.train import TrainSpec
from assay.stages.context import Work
from assay.stages.sweep import choose
from assay.stages.sweeping.scheduler import TrialScheduler
from assay.stages.sweeping.trials import Trials, goes_all_the_way, trial_spec


def trial(learning_rate: float, loss: float | None, error: float = 0.1) -> TrialRecord:
    if loss is None:
        return TrialRecord(learning_rate=learning_rate, training=None, error="out of memory")
    training = TrainingRecord(
        artifact=Artifact(digest="d", kind="adapter", path="p", size=1),
        method="lora",
        learning_rate=learning_rate,
        num_steps=8,
        num_tokens=100,
        precision="fp32",
        selection_loss=loss,
        selection_loss_se=error,
        seconds=1,
        seconds_to_first_step=1,
        tokens_per_s=1,
        peak_memory_bytes=1,
        history=(),
    )
    return TrialRecord(learning_rate=learning_rate, training=training)


def test_the_lowest_loss_wins() -> None:
    assert choose((trial(1e-4, 3.0), trial(1e-3, 0.9), trial(1e-2, 1.5))) == 1


def test_within_the_standard_error_the_lowest_rate_wins() -> None:
    assert choose((trial(1e-3, 1.38), trial(3e-3, 0.86), trial(1e-2, 0.83))) == 1
    assert choose((trial(1e-3, 1.38), trial(3e-3, 0.86, 0.01), trial(1e-2, 0.83, 0.01))) == 2


def test_a_failed_trial_is_never_chosen() -> None:
    assert choose((trial(1e-3, None), trial(1e-2, 5.0))) == 1
    with pytest.raises(StageFailed, match="out of memory"):
        choose((trial(1e-3, None),))


def test_how_far_a_failed_trial_came_is_kept(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, ledger_url="", user="ben")
    artifact = Artifact(digest="d", kind="dataset", path="p", size=1)
    split = SplitRecord(file="f", digest="d", num_examples=1, num_tokens=1, num_completion_tokens=1)
    data = DatasetRecord(
        artifact=artifact,
        train=split,
        selection=split,
        gate=None,
        num_dropped_too_long=0,
        num_dropped_duplicates=0,
    )
    model = ModelRecord(
        artifact=artifact, architecture="Llama", num_parameters=1, num_layers=1, context_length=64
    )

    def killed_after_going_on(*_: object, work: Work, **__: object) -> TrainingRecord:
        with work.progress_file.open("a") as file:
            for step, loss in ((1, 4.0), (2, 3.0), (3, 2.5), (2, 3.0), (3, 99.0)):
                told = Progress(
                    step=step,
                    num_steps=8,
                    loss=loss,
                    learning_rate=0.1,
                    tokens_per_s=1.0,
                    num_tokens=10 * step,
                )
                file.write(told.model_dump_json() + "\n")
            file.write('{"step": 4, "num_st')
        raise StageFailed("training diverged at step 3")

    sweep, work = (
        SweepSpec(learning_rate=(0.1,)),
        Work(settings, tmp_path, tmp_path / "progress.jsonl", tmp_path),
    )
    sources = Sources(model=model, data=data)
    trials = Trials(sweep, TrainSpec(), sources, killed_after_going_on, work)
    course = TrialScheduler(sweep, trials)
    turn = course.next(None)
    assert turn is not None
    assert course.ended(turn, trials.turn(turn)) is None
    (record,) = course.records()
    assert (record.outcome, record.num_steps, record.num_tokens) == ("diverged", 3, 30)
    assert [(point.step, point.loss) for point in record.history] == [(1, 4.0), (2, 3.0), (3, 99.0)]


def test_a_trial_is_a_training_run_with_a_budget_of_its_own() -> None:
    base = TrainSpec(num_epochs=3, global_batch_size=8, num_workers=2)
    sweep = SweepSpec(learning_rate=(1e-3,), max_steps=5, num_workers=1)
    spec = trial_spec(sweep, base, {"learning_rate": 1e-3})
    assert (spec.learning_rate, spec.max_steps, spec.num_workers, spec.global_batch_size) == (
        1e-3,
        5,
        1,
        8,
    )


def test_any_field_of_train_can_be_varied() -> None:
    sweep = SweepSpec.model_validate(
        {"learning_rate": [1e-3, 1e-2], "parameters": {"method.lora.r": [8, 16]}}
    )
    assert sweep.num_trials == 4
    specs = [trial_spec(sweep, TrainSpec(), parameters) for parameters in sweep.grid()]
    assert [(spec.learning_rate, spec.method.lora and spec.method.lora.r) for spec in specs] == [
        (1e-3, 8),
        (1e-3, 16),
        (1e-2, 8),
        (1e-2, 16),
    ]
    assert sweep.mistake(TrainSpec()) is None


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"method.lora.rank": [8]}, "method.lora.rank is no field of train"),
        ({"weight_decay": {"uniform": [-1, 0.1]}}, "weight_decay: -1.0 cannot stand in train"),
        ({"global_batch_size": [16, 15]}, "not divisible by num_workers"),
    ],
)
def test_a_sweep_offers_nothing_that_training_would_refuse(
    parameters: dict[str, object], words: str
) -> None:
    sweep = SweepSpec.model_validate({"parameters": parameters})
    assert words in (sweep.mistake(TrainSpec(num_workers=2)) or "")


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({}, "say what to vary"),
        ({"parameters": {"weight_decay": {"uniform": [0.1, 0.1]}}}, "must be below the upper end"),
        ({"parameters": {"learning_rate": [1e-3]}}, "a key of the sweep itself"),
        ({"learning_rate": {"loguniform": [1e-5, 1e-3]}, "search": "grid"}, "grid takes lists"),
        ({"learning_rate": "auto", "search": "optuna"}, "auto makes a grid"),
        ({"learning_rate": [1e-3], "scheduler": "pbt"}, "two values or a range"),
        (
            {"parameters": {"weight_decay": [0, 0.1]}, "scheduler": "pbt"},
            "pbt changes the learning rate",
        ),
        (
            {"learning_rate": {"loguniform": [1e-5, 1e-3]}, "search": "optuna", "scheduler": "pbt"},
            "pbt and search: optuna do not go together",
        ),
        ({"learning_rate": [1e-3, 1e-2], "num_rungs": 6}, "more than 5 rungs"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused(said: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        SweepSpec.model_validate(said)


def test_the_cheaper_one_wins_a_tie() -> None:
    large = trial(1e-4, 0.80)
    assert large.training is not None
    bigger = large.training.artifact.model_copy(update={"size": 9})
    large = large.model_copy(
        update={"training": large.training.model_copy(update={"artifact": bigger})}
    )
    assert choose((large, trial(1e-3, 0.86))) == 1


def test_a_tracker_that_is_not_installed_is_named() -> None:
    with pytest.raises(
        MissingExtra, match=r"no_such_tracker, which is not installed: pip install 'assay\[no_such"
    ):
        require(["no_such_tracker"])


@pytest.mark.parametrize(
    ("budget", "whole"),
    [
        ({}, True),
        ({"num_workers": 2}, True),
        ({"num_workers": 1}, False),
        ({"max_steps": 8}, False),
    ],
)
def test_a_trial_that_goes_all_the_way_is_the_training(budget: dict[str, int], whole: bool) -> None:
    train = TrainSpec(num_workers=2, learning_rate=1e-3)
    spec = SweepSpec.model_validate({"learning_rate": [1e-4, 1e-3], **budget})
    assert goes_all_the_way(spec, train) is whole
