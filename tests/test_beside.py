"""What `assay chat --with` can name, before anything is started for it."""

import json
from pathlib import Path

import pytest

from assay.errors import UsageError
from assay.flow.evaluation.beside import find
from assay.records.record import Record
from assay.records.stages import ModelRecord, TrainingRecord
from assay.settings import Settings
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger

SPEC = {
    "version": 1,
    "name": "bot",
    "model": "model",
    "data": {"train": "train.jsonl", "system": "Be brief."},
    "gate": {"suite": "suite.yaml"},
    "approval": {"reviewers": ["anna"]},
    "serve": {"engine": {"max_model_len": 64}},
}


class Place:
    """A ledger with one run, and artifacts that are there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = Settings(home=folder / "home", ledger_url=f"sqlite:///{folder}/ledger.db")
        self.ledger = Ledger(self.settings.ledger_url)
        self.ledger.open_run("bot-1", name="bot", spec=json.dumps(SPEC), started_by="ben")

    def did(self, stage: str, record: Record) -> None:
        attempt = self.ledger.begin_stage("bot-1", stage, f"key-of-{stage}", "{}")
        self.ledger.finish_stage(attempt, record)

    def model(self, name: str) -> ModelRecord:
        made = self.folder / "made" / name
        made.mkdir(parents=True)
        (made / "model.safetensors").write_text(name)
        artifact = ArtifactStore(self.settings.home / "artifacts").put(made, "model")
        return ModelRecord(
            artifact=artifact, architecture="A", num_parameters=1, num_layers=1, context_length=64
        )

    def training(self) -> TrainingRecord:
        return TrainingRecord(
            artifact=self.model("adapter").artifact,
            method="lora",
            learning_rate=1e-3,
            seconds=1.0,
            num_steps=1,
            num_tokens=1,
            precision="fp32",
            selection_loss=None,
            selection_loss_se=None,
            seconds_to_first_step=1.0,
            tokens_per_s=1.0,
            peak_memory_bytes=1,
            history=(),
        )

    def find(self, named: str) -> tuple[str, ModelRecord | None]:
        """The title, and the model where it is there already."""
        found = find(named, self.ledger, self.folder, self.settings)
        args = getattr(found.make, "args", ())
        given = args[0] if args and isinstance(args[0], ModelRecord) else None
        return found.title, given


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_a_runs_candidate_is_as_far_as_the_run_has_come(place: Place) -> None:
    with pytest.raises(UsageError, match="has made nothing yet"):
        place.find("bot-1")
    place.did("fetch", base := place.model("base"))
    place.did("train", place.training())
    assert place.find("bot") == ("bot-1 (its adapter)", None)
    place.did("merge", merged := place.model("merged"))
    assert place.find("bot") == ("bot-1", merged)
    place.did("compress", compressed := place.model("compressed"))
    assert place.find("bot") == ("bot-1", compressed)
    assert place.find("base") == ("base (model)", base)
    (Path(compressed.artifact.path) / "model.safetensors").unlink()
    assert place.find("bot") == ("bot-1", merged)  # what is gone cannot answer


def test_its_engine_and_system_prompt_are_the_runs(place: Place) -> None:
    place.did("merge", place.model("merged"))
    for named in ("bot", "base"):
        found = find(named, place.ledger, place.folder, place.settings)
        assert (found.serve.engine.max_model_len, found.system) == (64, "Be brief.")


def test_an_adapters_folder_names_its_base(place: Place) -> None:
    folder = place.folder / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="base_model_name_or_path"):
        place.find("adapter")
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "someone/tiny"}')
    assert place.find("adapter") == ("adapter on someone/tiny", None)


def test_what_stands_for_nothing_is_told(place: Place) -> None:
    with pytest.raises(UsageError, match="no run starts with 'nobody'"):
        place.find("nobody")
    assert place.find("hf:someone/tiny") == ("hf:someone/tiny", None)
