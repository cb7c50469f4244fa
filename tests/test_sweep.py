"""The sweep's choice, and what a trial trains."""

import pytest

from assay.errors import StageFailed
from assay.records.artifact import Artifact
from assay.records.stages import TrainingRecord, TrialRecord
from assay.spec.sweep import SweepSpec
from assay.spec.train import TrainSpec
from assay.stages.sweep import choose, trial_spec


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


def test_a_trial_is_a_training_run_with_a_budget_of_its_own() -> None:
    base = TrainSpec(num_epochs=3, global_batch_size=8, num_workers=2)
    sweep = SweepSpec(learning_rate=(1e-3,), max_steps=5, num_workers=1)
    spec = trial_spec(sweep, base, {"learning_rate": 1e-3})
    assert (spec.learning_rate, spec.max_steps, spec.num_workers, spec.global_batch_size) == (1e-3, 5, 1, 8)
