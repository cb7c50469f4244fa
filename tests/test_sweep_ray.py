"""A sweep on a real Ray: warm workers give the numbers of fresh ones, and a sweep goes on where it
was broken off."""

import time
from typing import Any

import pytest

from assay.engines.data import tokenize
from assay.engines.workers import ray_train
from assay.errors import PlaceError
from assay.records.stages import DatasetRecord, ModelRecord, SplitRecord, SweepRecord
from assay.settings import Settings
from assay.spec.sweep import SweepSpec, with_parameters
from assay.spec.train import TrainSpec
from assay.stages import sweep, train
from assay.stages.context import Work
from assay.stages.sweeping import trials as sweep_trials
from assay.store.artifacts import ArtifactStore
from tiny import KNOWN, THINGS, YES, make_model

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings(
        "ignore:subprocess .* is still running:ResourceWarning"
    ),  # the head, on purpose
]

BASE: dict[str, Any] = {
    "method": {"lora": {"r": 4}},
    "learning_rate": 1e-2,
    "global_batch_size": 4,
    # Trials share the cores, and sums over more threads differ in their last bits.
    "worker": {"threads": 1},
    "max_steps": 18,
    "warmup_ratio": 0.0,
    "precision": "fp32",
    "num_workers": 1,
}


@pytest.fixture(scope="module")
def given(on_ray: Settings, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The model and the data, as records."""
    folder = tmp_path_factory.mktemp("given")
    store = ArtifactStore(on_ray.home / "artifacts")
    make_model(folder / "model")
    chats = [
        [{"role": "user", "content": KNOWN.format(thing)}, {"role": "assistant", "content": YES}]
        for thing in THINGS
    ]
    (folder / "data").mkdir()
    splits = {}
    for name, part in (("train", chats[:20]), ("selection", chats[20:])):
        counts = tokenize.write_split(
            folder / "model", part, folder / "data" / f"{name}.safetensors", max_length=64
        )
        splits[name] = SplitRecord(
            file=f"{name}.safetensors",
            digest=name,
            num_examples=counts.num_examples,
            num_tokens=counts.num_tokens,
            num_completion_tokens=counts.num_completion_tokens,
        )
    model = ModelRecord(
        artifact=store.put(folder / "model", "model"),
        architecture="LlamaForCausalLM",
        num_parameters=1,
        num_layers=2,
        context_length=256,
    )
    data = DatasetRecord(
        artifact=store.put(folder / "data", "dataset"),
        gate=None,
        num_dropped_too_long=0,
        num_dropped_duplicates=0,
        **splits,
    )
    return {"model": model, "data": data}


def work(on_ray: Settings, name: str) -> Work:
    folder = on_ray.home / "runs" / name
    return Work(on_ray, folder, folder / "progress.jsonl", on_ray.home)


def swept(
    spec: SweepSpec, on_ray: Settings, name: str, given: dict[str, Any], **changed: Any
) -> SweepRecord:
    (on_ray.home / "runs" / name).mkdir(parents=True, exist_ok=True)
    inputs = sweep.Inputs(sweep=spec, train=TrainSpec.model_validate(BASE | changed), **given)
    return sweep.run(inputs, work(on_ray, name), trial=train.part)


ONE_BY_ONE = {
    "max_concurrent_trials": 1
}  # one group of workers starts, and not one for each processor
GRID = SweepSpec(
    learning_rate=(1e-4, 1e-3, 1e-2), parameters={"method.lora.r": (2, 4)}, **ONE_BY_ONE
)


@pytest.fixture(scope="module")
def grid(on_ray: Settings, given: dict[str, Any]) -> SweepRecord:
    return swept(GRID, on_ray, "grid", given)


def test_a_trial_on_warm_workers_is_quick_and_has_the_numbers_of_a_fresh_run(
    grid: SweepRecord, on_ray: Settings, given: dict[str, Any]
) -> None:
    assert [trial.outcome for trial in grid.trials] == ["finished"] * 6
    chosen = sweep_trials.trial_spec(GRID, TrainSpec.model_validate(BASE), grid.parameters)
    fresh = train.run(train.Inputs(train=chosen, **given), work(on_ray, "fresh"))
    warm = grid.trials[grid.chosen].training
    assert warm is not None
    overheads = sorted(
        trial.training.seconds_to_first_step for trial in grid.trials if trial.training
    )
    # The slowest was the cold one.
    assert overheads[-2] < fresh.seconds_to_first_step / 2, f"from call to first step: {overheads}"
    assert fresh.artifact.digest == warm.artifact.digest
    assert fresh.selection_loss == warm.selection_loss
    assert [point.loss for point in fresh.history] == [point.loss for point in warm.history]


def test_a_sweep_goes_on_with_what_is_there(
    grid: SweepRecord, on_ray: Settings, given: dict[str, Any]
) -> None:
    trials = on_ray.home / "runs" / "grid" / "trials"
    kept = sorted(trials.glob("*/until-*.json"))
    kept[0].unlink()
    times = {file: file.stat().st_mtime for file in kept[1:]}
    again = swept(GRID, on_ray, "grid", given)
    assert {file: file.stat().st_mtime for file in kept[1:]} == times
    assert kept[0].exists()
    assert [trial.training and trial.training.selection_loss for trial in again.trials] == [
        trial.training and trial.training.selection_loss for trial in grid.trials
    ]


def test_halving_chooses_as_the_grid_does_for_fewer_tokens(
    grid: SweepRecord, on_ray: Settings, given: dict[str, Any]
) -> None:
    spec = SweepSpec.model_validate({**GRID.model_dump(), "scheduler": "asha"})
    halved = swept(spec, on_ray, "asha", given)
    assert halved.num_tokens <= 0.5 * grid.num_tokens
    assert halved.trials[halved.chosen].training is not None
    best = min(
        t.training.selection_loss
        for t in grid.trials
        if t.training and t.training.selection_loss is not None
    )
    found = halved.trials[halved.chosen].training
    assert found is not None
    assert found.selection_loss == pytest.approx(best, rel=0.2)
    stopped = [trial for trial in halved.trials if trial.outcome == "stopped"]
    assert stopped
    assert all(trial.pauses and trial.history for trial in stopped)


@pytest.mark.long
def test_in_a_population_the_worst_go_on_from_the_best(
    on_ray: Settings, given: dict[str, Any]
) -> None:
    two = {"learning_rate": [1e-4, 1e-2], "reduction_factor": 2}
    spec = SweepSpec.model_validate({"scheduler": "pbt", **two, **ONE_BY_ONE})
    record = swept(spec, on_ray, "pbt", given)
    assert [trial.outcome for trial in record.trials] == ["finished"] * 2
    assert all([pause.step for pause in trial.pauses] == [6, 12] for trial in record.trials)
    taken_over = [trial for trial in record.trials if trial.learning_rate_changes]
    assert taken_over
    assert {change.at for trial in taken_over for change in trial.learning_rate_changes} <= {
        1 / 3,
        2 / 3,
    }
    lines = [
        file.read_text() for file in (on_ray.home / "runs" / "pbt" / "trials").glob("*then*.jsonl")
    ]
    assert any("going on from step 6" in text for text in lines)
    changed = taken_over[0]
    said = {
        "learning_rate": changed.learning_rate,
        "learning_rate_changes": changed.learning_rate_changes,
    }
    replayed = with_parameters(TrainSpec.model_validate(BASE), said)
    alone = train.run(train.Inputs(train=replayed, **given), work(on_ray, "replayed"))
    assert changed.training is not None
    assert alone.artifact.digest == changed.training.artifact.digest


@pytest.mark.long
def test_a_range_test_finds_the_rates(on_ray: Settings, given: dict[str, Any]) -> None:
    record = swept(SweepSpec(learning_rate="auto", **ONE_BY_ONE), on_ray, "auto", given)
    assert len(record.trials) == 3
    rates = [point.learning_rate for point in record.range_test]
    assert len(rates) == sweep_trials.RANGE_STEPS - 1
    assert rates == sorted(rates)
    assert rates[0] == pytest.approx(sweep_trials.LOWEST_RATE)
    assert record.trials[0].learning_rate > 1e-5


@pytest.mark.long
def test_optuna_draws_and_a_diverged_trial_is_cut(on_ray: Settings, given: dict[str, Any]) -> None:
    rates = {"loguniform": (1e-3, 1e-2)}
    spec = SweepSpec.model_validate(
        {"learning_rate": rates, "search": "optuna", "num_samples": 3, **ONE_BY_ONE}
    )
    drawn = swept(spec, on_ray, "optuna", given)
    assert len({trial.learning_rate for trial in drawn.trials}) == 3
    assert all(1e-3 <= trial.learning_rate <= 1e-2 for trial in drawn.trials)
    # LoRA's output passes a norm and a frozen head, so that its loss cannot explode.
    wild = SweepSpec(
        learning_rate=(1e-3, 1.0), parameters={"max_grad_norm": (1e9,), "schedule": ("constant",)}
    )
    record = swept(wild, on_ray, "wild", given, method="full")
    assert [trial.outcome for trial in record.trials] == ["finished", "diverged"]
    assert record.chosen == 0
    cut = record.trials[1]
    assert cut.error is not None
    assert "diverged at step" in cut.error
    assert cut.history[-1].step < BASE["max_steps"]


def test_no_more_starts_than_finds_room(on_ray: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trials of which each waits for what the other holds would wait for ever."""
    import ray

    spec, train = SweepSpec(learning_rate=(1e-4, 1e-3, 1e-2)), TrainSpec.model_validate(BASE)

    def wait_for(wanted: int) -> None:
        end = time.monotonic() + 30
        while (found := sweep.concurrent_trials(spec, train, on_gpu=False)) != wanted:
            assert time.monotonic() < end, f"{found}: {ray.available_resources()}"
            time.sleep(0.2)

    class Engine:
        def stands(self) -> bool:
            return True

    wait_for(2)  # each a driver and a worker, on four processors
    engine = ray.remote(num_cpus=1)(Engine).remote()
    try:
        assert ray.get(engine.stands.remote())
        wait_for(1)
        with pytest.raises(PlaceError, match="a trial needs 5 CPUs"):
            sweep.concurrent_trials(spec.model_copy(update={"num_workers": 4}), train, on_gpu=False)
        monkeypatch.setattr(ray_train, "RELEASE_S", 1.0)
        four = train.model_copy(update={"num_workers": 4})
        assert ray_train.workers_that_fit(four, num_gpus_per_worker=0) == 3
    finally:
        ray.kill(engine)
