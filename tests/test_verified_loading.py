"""What a replica does around loading its model, whichever engine it is of."""

import json
from pathlib import Path

import pytest

from assay.files import verified
from assay.store.artifacts import ArtifactStore


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model.safetensors").write_text("weights")
    return Path(ArtifactStore(tmp_path / "artifacts").put(tmp_path / "made", "model").path)


def wanted(model: Path) -> dict[str, str]:
    return {"artifact": model.name, "reports": str(model.parents[1] / "reports")}


def replace_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").write_text("other")


def test_what_was_loaded_is_reported_afterwards(model: Path) -> None:
    report = model.parents[1] / "reports" / "blue#1.json"
    with verified(model, wanted(model), "blue#1"):
        assert not report.exists()
    assert json.loads(report.read_text())["artifact"] == model.name


def test_other_bytes_are_not_loaded(model: Path) -> None:
    (model / "model.safetensors").write_text("Weights")
    with (
        pytest.raises(ValueError, match="is not what was evaluated"),
        verified(model, wanted(model), "blue#1"),
    ):
        pytest.fail("it was loaded")


def test_what_is_replaced_while_it_is_loaded_is_not_reported(model: Path) -> None:
    with (
        pytest.raises(ValueError, match="was changed while the engine loaded it"),
        verified(model, wanted(model), "blue#1"),
    ):
        replace_weights(model)
    assert not (model.parents[1] / "reports").exists()


def test_a_model_that_does_not_load_is_not_reported(model: Path) -> None:
    with pytest.raises(MemoryError), verified(model, wanted(model), "blue#1"):
        raise MemoryError
    assert not (model.parents[1] / "reports").exists()
