"""The demo's messy data: what the script plants, and that the spec's steps leave nothing of it, and
all of the rest."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from assay.engines.data import contamination
from assay.loader.load import load_spec
from assay.spec.data import DataSpec
from assay.spec.suite.measured import ContaminationSpec
from cleaned import Cleaned, cleaned

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "specs/country-facts-messy"
NUM_CLEAN = 733


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_messy", FOLDER / "make_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data() -> DataSpec:
    return load_spec(ROOT / "specs/country-facts-messy.yaml", ROOT).data


@pytest.fixture(scope="module")
def after(data: DataSpec, tmp_path_factory: pytest.TempPathFactory) -> Cleaned:
    folder = tmp_path_factory.mktemp("messy")
    (folder / "specs").symlink_to(ROOT / "specs")
    written = data.model_dump(mode="json", exclude_defaults=True)
    return cleaned(folder, written.pop("steps"), **written)


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def num_leaked(texts: list[list[str]]) -> int:
    """Questions of the suite that stand in texts with their answers."""
    asked = [
        contamination.SampleText("suite", row["prompt"], row["completion"])
        for row in rows_of(FOLDER / "suite.jsonl")
    ]
    index = contamination.Index(asked, ContaminationSpec(near="ignore"))
    return len({hit.item for hit in contamination.hits_in(index, texts)})


def test_the_script_makes_exactly_the_files_of_the_repository(script: ModuleType) -> None:
    made = script.make()
    assert made == {path: (ROOT / path).read_text(encoding="utf-8") for path in made}
    assert {ROOT / path for path in made} == set(FOLDER.glob("*.jsonl"))


def test_all_that_is_planted_goes_and_all_of_the_rest_stays(
    script: ModuleType, after: Cleaned
) -> None:
    steps = after.steps
    assert steps["select"].dropped == {"language": script.NUM_FOREIGN}
    assert steps["repair"].changed["unicode"] == script.NUM_MOJIBAKE
    gone = steps["deduplicate"].dropped
    assert gone["held_out"] == script.NUM_LEAKED
    num_copies = script.NUM_COPIES + script.NUM_POLITE
    assert num_copies <= gone["equal"] + gone["near"] - script.NUM_LEAKED <= 1.05 * num_copies
    lines = [
        int(one["at"].rpartition(":")[2]) for one in after.reasons if one["action"] == "dropped"
    ]
    assert not [line for line in lines if line <= NUM_CLEAN]


def test_no_person_is_left(script: ModuleType, after: Cleaned) -> None:
    text = json.dumps(after.rows, ensure_ascii=False)
    assert text.count("[EMAIL]") + text.count("[PHONE]") + text.count("[ADDRESS]") == (
        script.NUM_PERSONAL
    )
    left = [name for name in script.PEOPLE if name in text]
    assert not left
    assert "@example.org" not in text
    assert "555-01" not in text


def test_the_suite_stands_in_the_data_before_and_not_after(
    script: ModuleType, after: Cleaned
) -> None:
    before = rows_of(FOLDER / "train.jsonl")
    assert num_leaked([[row["prompt"], row["completion"]] for row in before]) == script.NUM_LEAKED
    rows = [row for rows in after.rows.values() for row in rows]
    assert num_leaked([[turn["content"] for turn in row["messages"]] for row in rows]) == 0
