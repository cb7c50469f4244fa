"""A training run that loses its workers, its memory or its newest checkpoint ends with the very
weights of an undisturbed one. Workers are plain processes here; `make drill-train` does the same to
a Ray cluster."""

import random
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import pytest

from assay.engines.checkpoints import files
from assay.engines.checkpoints.callback import EXPLODED_LINES, CheckpointConfig, divergence
from assay.engines.data import tokenize
from assay.engines.training.job import TrainingJob
from assay.engines.workers.retry import Stopped, fault, run_with_retries, smaller
from assay.errors import StageFailed
from assay.records.stages import LossPoint, PauseReport, TrainingOutcome
from assay.spec.train import TrainSpec
from tiny import KNOWN, THINGS, YES, make_model
from workers import ActorDiedError, attempt, let_go

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

STEPS = 14
BASE: dict[str, Any] = {
    "method": {
        "lora": {"r": 4, "dropout": 0.1}
    },  # dropout: the random states must be the right ones
    "learning_rate": 1e-2,
    "global_batch_size": 4,
    "max_steps": STEPS,
    "precision": "fp32",
    "num_workers": 2,
    "checkpoint": {"every_steps": 3},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("surviving")
    make_model(folder / "model")
    chats = [
        [{"role": "user", "content": KNOWN.format(thing)}, {"role": "assistant", "content": YES}]
        for thing in THINGS
    ]
    tokenize.write_split(folder / "model", chats[:20], folder / "train.safetensors", max_length=64)
    tokenize.write_split(
        folder / "model", chats[20:], folder / "selection.safetensors", max_length=64
    )
    return folder


def job(project: Path, name: str, **changes: Any) -> TrainingJob:
    folder = project / name
    folder.mkdir()
    return TrainingJob(
        train=TrainSpec.model_validate({**BASE, **changes}),
        model=str(project / "model"),
        train_file=str(project / "train.safetensors"),
        selection_file=str(project / "selection.safetensors"),
        output=str(folder / "output"),
        progress_file=str(folder / "progress.jsonl"),
        started_at=time.time(),
        on_gpu=False,
        keeping=CheckpointConfig(folder=str(folder / "checkpoints"), job="job", attempt=""),
    )


def done(*arguments: Any, **named: Any) -> TrainingOutcome:
    outcome = run_with_retries(*arguments, **named)
    assert isinstance(outcome, TrainingOutcome)
    return outcome


def weights(one: TrainingJob) -> bytes:
    return next((Path(one.output) / "weights").glob("*.safetensors")).read_bytes()


@pytest.fixture(scope="module")
def undisturbed(project: Path) -> bytes:
    one = job(project, "undisturbed")
    outcome = done(one, attempt)
    assert (outcome.num_steps, outcome.num_restarts) == (STEPS, 0)
    return weights(one)


class KillOnce:
    """Kills a worker, or all of them, once the run has come to a step."""

    def __init__(
        self,
        one: TrainingJob,
        step: int,
        *,
        everybody: bool = False,
        then: Callable[[], None] = lambda: None,
    ):
        self.one, self.file, self.mark = one, Path(one.progress_file), f'"step":{step},'
        self.everybody, self.then, self.done = everybody, then, False

    def __call__(self, workers: list[ForkServerProcess]) -> None:
        if not self.done and self.file.exists() and self.mark in self.file.read_text():
            self.done = True
            for worker in workers if self.everybody else workers[-1:]:
                worker.kill()
                worker.join()
            self.then()
            let_go(self.one)


def test_a_paused_run_goes_on(project: Path, undisturbed: bytes) -> None:
    one = job(project, "paused", checkpoint={"every_steps": 100})
    assert one.keeping is not None
    first = one.keeping.model_copy(update={"until": 1 / 3})
    pause = run_with_retries(one.model_copy(update={"keeping": first}), attempt)
    assert isinstance(pause, PauseReport)
    assert pause.step == 5
    assert pause.selection_loss is not None
    done(one, attempt)
    assert weights(one) == undisturbed


def test_a_training_can_begin_with_the_checkpoint_of_one_that_was_the_same_so_far(
    project: Path, undisturbed: bytes
) -> None:
    """What a population of trials does: the learning rate alone changes, at the checkpoint."""
    half = {"learning_rate_changes": [{"at": 1 / 3, "learning_rate": BASE["learning_rate"] / 2}]}
    whole = job(project, "changed", **half)
    done(whole, attempt)
    assert weights(whole) != undisturbed
    giver, taker = job(project, "giver"), job(project, "taker", **half)
    assert giver.keeping is not None
    assert taker.keeping is not None
    run_with_retries(
        giver.model_copy(update={"keeping": giver.keeping.model_copy(update={"until": 1 / 3})}),
        attempt,
    )
    files.take_in(
        files.at(Path(giver.keeping.folder), 5), Path(taker.keeping.folder), taker.keeping.job
    )
    outcome = done(taker, attempt)
    assert "going on from step 5" in Path(taker.progress_file).read_text()
    rates = [point.learning_rate for point in outcome.history]
    assert rates[5] < 0.55 * rates[4]
    assert weights(taker) == weights(whole)


@pytest.mark.parametrize("everybody", [False, True], ids=["one worker", "all workers"])
def test_a_killed_run_ends_with_the_same_weights(
    project: Path, undisturbed: bytes, everybody: bool
) -> None:
    one = job(project, f"killed-{everybody}")
    outcome = done(one, partial(attempt, watch=KillOnce(one, 8, everybody=everybody), hold_at=8))
    assert outcome.num_restarts == 1
    assert [point.step for point in outcome.history] == list(range(1, STEPS + 1))
    assert weights(one) == undisturbed
    assert "going on from step 6" in Path(one.progress_file).read_text()
    assert list((Path(one.output).parent / "tensorboard").glob("events.*"))


def test_a_damaged_checkpoint_is_passed_by(project: Path, undisturbed: bytes) -> None:
    one = job(project, "damaged")
    assert one.keeping is not None
    folder = Path(one.keeping.folder)

    def damage() -> None:
        victim = next((folder / "step-000000006").rglob("*optim_states.pt"))
        data = bytearray(victim.read_bytes())
        data[random.Random(0).randrange(len(data))] ^= 4
        victim.write_bytes(bytes(data))

    outcome = done(one, partial(attempt, watch=KillOnce(one, 8, then=damage), hold_at=8))
    assert outcome.num_restarts == 1
    assert weights(one) == undisturbed
    said = Path(one.progress_file).read_text()
    assert "step-000000006: global_step6/" in said
    assert "going on from step 3" in said


def test_a_stopped_run_has_a_checkpoint_and_goes_on(project: Path, undisturbed: bytes) -> None:
    one = job(project, "stopped", checkpoint={"every_steps": 100})
    current: list[TrainingJob] = []

    def stop(workers: list[ForkServerProcess]) -> None:
        keeping, file = current[-1].keeping, Path(one.progress_file)
        if keeping and file.exists() and '"step":5,' in file.read_text():
            keeping.stop_file.touch()
            let_go(one)

    def first(attempted: TrainingJob) -> None:
        current.append(attempted)
        attempt(attempted, watch=stop, hold_at=5)

    with pytest.raises(Stopped):
        run_with_retries(one, first)
    outcome = done(one, attempt)
    assert outcome.history[4].step == 5
    assert weights(one) == undisturbed


def test_fewer_workers_go_on_with_the_same_global_batch(project: Path) -> None:
    plain = {"method": {"lora": {"r": 4}}}  # every worker draws its own dropout
    one = job(project, "elastic", min_workers=1, **plain)
    outcome = done(
        one, partial(attempt, watch=KillOnce(one, 8), hold_at=8), num_workers=lambda _: 1
    )
    assert outcome.adaptations == ("num_workers 1 instead of 2",)
    assert outcome.num_steps == STEPS
    alone = job(project, "two-workers", **plain)
    fixed = done(alone, attempt)
    assert outcome.num_tokens == fixed.num_tokens
    for mine, theirs in zip(outcome.history, fixed.history, strict=True):
        assert mine.learning_rate == theirs.learning_rate, f"step {mine.step}"
        assert mine.loss == pytest.approx(theirs.loss, rel=1e-4), f"step {mine.step}"


def test_too_little_memory_halves_the_micro_batch(project: Path) -> None:
    one = job(project, "memory", num_workers=1, global_batch_size=16, max_steps=2)
    outcome = done(one, partial(attempt, memory_for=250))
    assert outcome.adaptations == ("micro-batch 8 instead of 16",)
    assert outcome.num_steps == 2
    hopeless = job(project, "hopeless", num_workers=1, max_steps=2)
    with pytest.raises(StageFailed, match="out of memory with a single example at a time"):
        run_with_retries(hopeless, partial(attempt, memory_for=3))


def test_early_stopping_keeps_the_best_weights(project: Path) -> None:
    stopping = {"patience": 2, "every_steps": 2, "min_delta": 0.05}
    long = {"schedule": "constant", "num_workers": 1, "max_steps": 60}
    one = job(project, "early", early_stopping=stopping, **long)
    outcome = done(one, attempt)
    assert outcome.num_steps < 60
    assert outcome.best_step == outcome.num_steps - 4
    assert outcome.best_step is not None
    until_best = job(project, "until-best", **long)
    assert until_best.keeping is not None
    part = until_best.keeping.model_copy(update={"until": outcome.best_step / 60})
    pause = run_with_retries(until_best.model_copy(update={"keeping": part}), attempt)
    assert isinstance(pause, PauseReport)
    assert pause.selection_loss == outcome.selection_loss


def test_a_bug_is_not_tried_again(project: Path) -> None:
    def broken(_: TrainingJob) -> None:
        raise ValueError("no such layer")

    with pytest.raises(StageFailed, match="no such layer"):
        run_with_retries(job(project, "bug"), broken)


def test_losing_workers_over_and_over_ends(project: Path) -> None:
    calls = []

    def lost(_: TrainingJob) -> None:
        calls.append(1)
        raise ActorDiedError("killed")

    with pytest.raises(StageFailed, match="failed 4 times without a new checkpoint"):
        run_with_retries(job(project, "over-and-over"), lost)
    assert len(calls) == 4


def test_a_smaller_micro_batch_divides_the_share() -> None:
    assert smaller(TrainSpec(global_batch_size=8, micro_batch_size=1)) is None
    less = smaller(TrainSpec(global_batch_size=12, num_workers=2))
    assert less is not None
    assert (less.examples_per_worker, less.accumulation_steps) == (3, 2)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (
            "WorkerHealthCheckFailedError: A worker health check failed.\nThe actor died "
            "unexpectedly",
            "lost",
        ),
        (
            "RuntimeError: [gloo/transport/tcp/pair.cc:547] Connection closed by peer "
            "[127.0.0.1]:4321",
            "lost",
        ),
        (
            "RuntimeError: DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 "
            "bytes",
            "memory",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "memory"),
        ("Task was killed due to the node running low on memory.", "memory"),
        ("ValueError: no such layer", "other"),
    ],
)
def test_a_fault_is_known_by_its_words(words: str, kind: str) -> None:
    assert fault(RuntimeError(words), killed=False).kind == kind


def test_a_worker_that_the_kernel_has_killed_lacked_memory() -> None:
    assert fault(ActorDiedError("killed"), killed=True).kind == "memory"


def point(step: int, loss: float) -> LossPoint:
    return LossPoint(step=step, loss=loss, learning_rate=1e-3, tokens_per_s=1)


def test_divergence_is_seen() -> None:
    falling = [point(step, 3.0 / step) for step in range(1, 9)]
    assert divergence(falling) is None
    assert divergence([*falling, point(9, 30.0)]) is None  # one bad batch
    exploded = [*falling, *(point(9 + i, 30.0) for i in range(EXPLODED_LINES))]
    assert "30.0, after 3.0" in (divergence(exploded) or "")
    assert divergence([*falling, point(9, 1.7e308)]) == "the loss is not a finite number"
