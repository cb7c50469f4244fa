"""The selection loss on the way, and the warning that it and the training loss part."""

from pathlib import Path
from typing import Any

import pytest

from assay.engines.data.chats.tokens import Row
from assay.engines.data.tokenize import write_rows
from assay.records.losses import parted, with_end
from assay.records.progress import Progress
from assay.records.stages import LossPoint, TrainingOutcome
from tiny import KNOWN, THINGS, make_model
from training import train_here


def history(train: list[float], selection: dict[int, float], error: float = 0.0) -> list[LossPoint]:
    return [
        LossPoint(
            step=step,
            loss=loss,
            learning_rate=1e-3,
            tokens_per_s=1.0,
            selection_loss=selection.get(step),
            selection_loss_se=error if step in selection else None,
        )
        for step, loss in enumerate(train, start=1)
    ]


FALLING = [2.0, 1.5, 1.1, 0.8, 0.5, 0.3]
FLAT = [2.0, 1.5, 1.5, 1.5, 1.5, 1.5]


@pytest.mark.parametrize(
    ("train", "selection", "error", "warns"),
    [
        (FALLING, {2: 1.6, 4: 1.4, 6: 1.9}, 0.0, True),
        (FALLING, {2: 1.4, 6: 1.9}, 0.1, True),
        (FALLING, {2: 1.6, 4: 1.4, 6: 1.3}, 0.0, False),  # both fall
        (FALLING, {2: 1.6, 4: 1.4, 6: 1.41}, 0.0, False),  # hardly risen
        (FALLING, {2: 1.6, 4: 1.4, 6: 1.9}, 0.6, False),  # within its error
        (FLAT, {2: 1.4, 6: 1.9}, 0.0, False),  # nothing was learned meanwhile
        (FALLING, {6: 1.9}, 0.0, False),
        ([], {}, 0.0, False),
    ],
)
def test_losses_that_part_are_told_and_others_are_not(
    train: list[float], selection: dict[int, float], error: float, warns: bool
) -> None:
    assert bool(parted(history(train, selection, error))) is warns


def rows(answers: list[str]) -> list[Row]:
    asked = zip(THINGS, answers, strict=False)
    return [
        Row(
            (
                (
                    {"role": "user", "content": KNOWN.format(thing)},
                    {"role": "assistant", "content": said},
                ),
            )
        )
        for thing, said in asked
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("losses") / "model"
    make_model(folder)
    return folder


TRAIN: dict[str, Any] = {
    "method": "full",
    "neftune_alpha": 1.0,  # noise: a look must not move the random numbers
    "learning_rate": 3e-3,
    "schedule": "constant",
    "global_batch_size": 4,
    "max_steps": 60,
    "deepspeed": {"zero_stage": 0},
}


def learn_by_heart(model: Path, output: Path, **more: Any) -> TrainingOutcome:
    """Answers without rhyme or reason; those of the selection split are others."""
    learned = rows([f"{n * 7919 % 1000:03d}" for n in range(8)])
    others = rows([f"{n * 104729 % 1000:03d}" for n in range(20)])[8:]
    file = output.with_name(f"{output.name}-selection.safetensors")
    write_rows(model, others, file, max_length=64)
    return train_here(model, learned, output, TRAIN, selection_file=str(file), **more)


def test_what_is_learned_by_heart_is_told_on_the_way_and_changes_nothing(
    model: Path, tmp_path: Path
) -> None:
    seen = learn_by_heart(model, tmp_path / "seen", num_looks=5)
    looks = [point.step for point in seen.history if point.selection_loss is not None]
    assert looks == [10, 20, 30, 40, 50]
    words = parted(with_end(seen))
    assert "has risen to" in words
    lines = (tmp_path / "seen/progress.jsonl").read_text().splitlines()
    last = Progress.model_validate_json(lines[-1])
    assert last.selection_loss is not None
    assert any(Progress.model_validate_json(line).warning for line in lines)
    unseen = learn_by_heart(model, tmp_path / "unseen")
    assert all(point.selection_loss is None for point in unseen.history)
    assert "selection_loss" not in unseen.history[0].model_dump()
    assert [point.loss for point in seen.history] == [point.loss for point in unseen.history]
    assert seen.selection_loss == unseen.selection_loss
