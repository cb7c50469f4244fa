"""The Chinese country-facts spec: its data are made as they stand, keep training and gate apart,
and are planned."""

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from assay.engines.data.contamination import Index, SampleText, hits_in
from assay.flow.planning.plan import plan
from assay.loader.load import load_spec, load_suites
from assay.rules.gate.abstention import abstained
from assay.settings import Settings
from assay.spec.suite.measured import ContaminationSpec

ROOT = Path(__file__).resolve().parents[1]
TRAINING = ("answers", "abstentions", "replay")
TASKS = ("country_facts_zh", "country_facts_zh_unanswerable", "chemical_elements_zh")
SIZES = {
    "answers": 360,
    "abstentions": 120,
    "replay": 50,
    "selection": 90,
    **dict(zip(TASKS, (90, 120, 60), strict=True)),
}
COUNTED_TOKENS = 8983
"""What Qwen's own vocabulary makes of all training texts, system prompts with them, without a chat
template."""


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "specs/country-facts-zh/make_data.py"))


def pairs(name: str) -> list[tuple[str, str]]:
    folder = "evals" if name in TASKS else "specs"
    text = (ROOT / folder / "country-facts-zh" / f"{name}.jsonl").read_text(encoding="utf-8")
    return [tuple(json.loads(line).values()) for line in text.splitlines()]


def test_the_script_makes_exactly_the_files_of_the_repository(script: dict[str, Any]) -> None:
    made = script["make"]()
    assert made == {path: (ROOT / path).read_text(encoding="utf-8") for path in made}
    folders = (ROOT / "specs/country-facts-zh", ROOT / "evals/country-facts-zh")
    assert set(made) == {
        str(path.relative_to(ROOT)) for folder in folders for path in folder.glob("*.jsonl")
    }


def test_every_file_has_its_size_and_asks_nothing_twice() -> None:
    assert {name: len(pairs(name)) for name in SIZES} == SIZES
    asked = [question for name in SIZES for question, _ in pairs(name)]
    assert len(asked) == len(set(asked))


def test_what_cannot_be_known_is_answered_by_an_abstention_and_nothing_else_is() -> None:
    for name in SIZES:
        declined = {abstained(answer) for _, answer in pairs(name)}
        assert declined == {name in ("abstentions", "country_facts_zh_unanswerable")}, name


def test_training_selection_and_gate_share_no_wording(script: dict[str, Any]) -> None:
    names = every_name(script)
    trained, selected, gated = (
        {wording(question, names) for file in side for question, _ in pairs(file)}
        for side in (TRAINING, ("selection",), TASKS)
    )
    assert len(selected) == 3
    assert not trained & selected
    assert not (trained | selected) & gated


def test_unanswerable_questions_of_the_gate_share_no_name_with_training(
    script: dict[str, Any],
) -> None:
    seen = "\n".join(question for file in (*TRAINING, "selection") for question, _ in pairs(file))
    names = every_name(script)
    for question, _ in pairs("country_facts_zh_unanswerable"):
        (found, *_) = [name for name in names if name in question]
        assert found not in seen, question


def test_nothing_of_the_gate_stands_in_the_training_data() -> None:
    items = [
        SampleText(task, question, answer) for task in TASKS for question, answer in pairs(task)
    ]
    texts = [pair for file in (*TRAINING, "selection") for pair in pairs(file)]
    assert not [hit for hit in hits_in(Index(items, ContaminationSpec()), texts) if hit.is_exact]


def test_it_is_planned_with_tokens_that_are_counted_by_script(tmp_path: Path) -> None:
    spec = load_spec(ROOT / "specs/country-facts-zh.yaml", ROOT)
    settings = Settings(
        home=tmp_path, ledger_url=f"sqlite:///{tmp_path}/ledger.db", engine_python=""
    )
    it = plan(spec, load_suites(spec.gate.suite, ROOT), root=ROOT, settings=settings, cluster=None)
    (data,) = it.data
    assert data is not None
    assert data.num_examples == sum(SIZES[name] for name in TRAINING)
    assert data.num_tokens > COUNTED_TOKENS
    # The plan's figure has the chat template in it: some tokens for each of three turns.
    in_template = data.num_examples * 3
    assert 3 <= (data.num_tokens - COUNTED_TOKENS) / in_template <= 7


def every_name(script: dict[str, Any]) -> list[str]:
    """Every name that a question may hold, longest first."""
    countries = script["countries"]()
    names = {name for country in countries for name in (country.name, country.capital)}
    names |= {name for side in ("train", "gate") for name in script["invented_names"](side)}
    return sorted(names, key=lambda name: (-len(name), name))


def wording(question: str, names: list[str]) -> str:
    """The question without its name, figures and chemical symbol."""
    bare = next((question.replace(name, "_") for name in names if name in question), question)
    return re.sub(r"\d+|[A-Z][a-z]?", "0", bare)
