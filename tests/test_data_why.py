"""`assay data why`, `models` and `card`: what became of a row, from a ledger with finished stages."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from assay.cli.main import assay
from assay.records.artifact import Artifact
from assay.records.cleaning import CleaningRecord
from assay.records.stages import ModelRecord
from assay.spec.spec import Spec
from assay.store.artifacts import ArtifactStore
from assay.store.ledger import Ledger
from cleaned import cleaned, counted, write

STEPS: list[object] = [{"mask": {"kinds": ["email"]}}, "deduplicate"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place whose one run has cleaned data and a merged model."""
    rows = [("mail x@y.test?", "no"), ("what is up?", "all"), ("what is up, please?", "all")]
    write(tmp_path / "train.jsonl", ({"prompt": a, "completion": b} for a, b in rows))
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    cleaned(tmp_path, STEPS)
    steps, before, after = counted(tmp_path, STEPS)
    artifact = ArtifactStore(tmp_path / "home" / "artifacts").put(
        tmp_path / "scratch-out", "dataset"
    )
    spec = Spec.model_validate(
        {
            "version": 1,
            "name": "messy",
            "model": "hf:a/b",
            "data": {"train": "train.jsonl", "steps": STEPS},
            "gate": {"suite": "suite.yaml"},
            "approval": {"reviewers": ["anna"]},
        }
    )
    ledger = Ledger(f"sqlite:///{tmp_path / 'home' / 'ledger.db'}")
    ledger.open_run("messy-1", name="messy", spec=spec.model_dump_json(), started_by="anna")
    model = ModelRecord(
        artifact=Artifact(digest="d" * 64, kind="model", path="m", size=1),
        architecture="LlamaForCausalLM",
        num_parameters=1,
        num_layers=1,
        context_length=8,
    )
    record = CleaningRecord(artifact=artifact, steps=steps, before=before, after=after)
    for stage, made in (("fetch", model), ("clean", record), ("train", model), ("merge", model)):
        ledger.finish_stage(ledger.begin_stage("messy-1", stage, stage), made)
    return tmp_path


def said(*arguments: str, exit_code: int = 0) -> str:
    result = CliRunner().invoke(assay, ["data", *arguments])
    assert result.exit_code == exit_code, result.output
    return result.output


def test_why_finds_a_row_by_its_place_and_by_its_id(place: Path) -> None:
    by_place = said("why", "train.jsonl:1")
    assert "mask changed it (email 1)" in by_place
    assert "mail [EMAIL]?" in by_place
    row = by_place.split()[1].rstrip(",")
    assert said("why", row[:8]) == by_place
    dropped = said("why", "train.jsonl:3")
    assert "says nearly the same" in dropped
    assert "train.jsonl:2 stays" in dropped
    assert "is trained on" not in dropped
    assert "stays as it was read" in said("why", "train.jsonl:2")
    told = json.loads(said("why", "train.jsonl:3", "--json", "--run", "messy"))
    assert told[0]["reasons"][0]["kept_at"] == "train.jsonl:2"


def test_a_row_that_nobody_has_is_an_error(place: Path) -> None:
    assert "no row is 'train.jsonl:9'" in str(
        CliRunner().invoke(assay, ["data", "why", "train.jsonl:9"]).exception
    )
    assert "at least 6 digits" in str(CliRunner().invoke(assay, ["data", "why", "ab"]).exception)


def test_models_are_those_made_of_a_row_that_stayed(place: Path) -> None:
    made_of = [line.split()[1] for line in said("models", "train.jsonl:1").splitlines()]
    assert made_of == ["train", "merge"]
    assert said("models", "train.jsonl:3") == "nothing was trained on it\n"


def test_the_card_has_the_hubs_form_and_the_counts(place: Path) -> None:
    out = place / "card.md"
    said("card", "--out", str(out))
    card = out.read_text()
    assert card.startswith('---\npretty_name: "messy"\n')
    assert 'size_categories: ["n<1K"]' in card
    assert "| train.jsonl | 3 | 2 |" in card
    assert "| deduplicate | 0 | 1 | left out by near 1 |" in card
    assert "Masked by rules: email 1." in card
