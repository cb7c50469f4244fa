"""Preparing on a real Ray: blocks that several workers tokenize come back in their order."""

import json
from pathlib import Path

import pytest

from assay.engines.cluster import tasks
from assay.engines.training.batches import PackedSplit
from assay.errors import StageFailed, UsageError
from assay.records.artifact import Artifact
from assay.records.stages import DatasetRecord, ModelRecord
from assay.settings import Settings
from assay.spec.data import DataSpec
from assay.spec.train import TrainSpec
from assay.stages import prepare
from assay.stages.context import Work
from tiny import make_model

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings(
        "ignore:subprocess .* is still running:ResourceWarning"
    ),  # the head, on purpose
]


def prepared(settings: Settings, model: Path, folder: Path) -> DatasetRecord:
    work = Work(settings, folder / "work", folder / "progress.jsonl", folder)
    record = ModelRecord(
        artifact=Artifact(digest="m", kind="model", path=str(model), size=1),
        architecture="LlamaForCausalLM",
        num_parameters=1,
        num_layers=2,
        context_length=256,
    )
    online = {"grpo": {"rewards": ["exact_match"]}}  # has prompts beside the tokens
    train = TrainSpec.model_validate({"max_length": 64, "objective": online})
    data = DataSpec(train=("train.jsonl",), selection=0.1, gate=0.1)
    return prepare.run(prepare.Inputs(data=data, train=train, model=record), work)


def test_the_split_does_not_depend_on_its_blocks(
    on_ray: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model(tmp_path / "model")
    lines = [
        json.dumps({"prompt": f"number {i}?", "completion": "x" * (i % 50) + "y"})
        for i in range(300)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    whole = prepared(on_ray, tmp_path / "model", tmp_path)
    monkeypatch.setattr("assay.engines.data.learned_rows.BLOCK_ROWS", 30)
    monkeypatch.setattr("assay.stages.prepare.BLOCKS_PER_WORD", 5)
    found = prepared(on_ray, tmp_path / "model", tmp_path)
    assert found == whole
    assert found.num_dropped_too_long > 0
    assert found.gate is not None
    assert found.train.num_examples + found.selection.num_examples + found.gate.num_examples < 300
    split = PackedSplit.load(str(Path(found.artifact.path) / found.train.file))
    assert len(split) == found.train.num_examples
    assert sum(
        len(text[0]) for unit in map(split.__getitem__, range(len(split))) for text in unit.texts
    ) == (found.train.num_tokens)
    assert "examples so far" in (tmp_path / "progress.jsonl").read_text()
    prompts = (Path(found.artifact.path) / "train.jsonl").read_text().splitlines()
    assert len(prompts) == found.train.num_examples


def test_an_error_of_a_worker_comes_as_itself(on_ray: Settings) -> None:
    def halved(number: int) -> int:  # inside, so that it travels as it is
        if number % 2:
            raise UsageError(f"{number} is odd")
        return number // 2

    assert list(tasks.map_in_order(halved, ((number,) for number in range(0, 20, 2)))) == list(
        range(10)
    )
    with pytest.raises(UsageError, match="3 is odd"):
        list(tasks.map_in_order(halved, [(2,), (3,)]))
    with pytest.raises(StageFailed, match="halved failed: TypeError"):
        list(tasks.map_in_order(halved, [("two",)]))
