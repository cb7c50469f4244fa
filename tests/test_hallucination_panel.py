"""The panel's questions are what its script makes, and its answers are read as its README says."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest

from assay.loader.load import load_suites
from assay.stages.evaluate import tasks_of

ROOT = Path(__file__).parents[1]
PANEL = ROOT / "evals" / "hallucination"


def lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (PANEL / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_the_files_are_what_the_script_makes() -> None:
    made = runpy.run_path(str(PANEL / "make_data.py"))["make"]()
    assert {name: (PANEL / name).read_text(encoding="utf-8") for name in made} == made


@pytest.mark.parametrize("suite", ["hallucination", "truthfulqa", "service"])
def test_the_suite_pins_all_that_it_runs(suite: str) -> None:
    tasks = tasks_of(load_suites([f"evals/{suite}.yaml"], ROOT), ROOT, None)
    assert {task.name for task in tasks} == set(load_suites([f"evals/{suite}.yaml"], ROOT).limits)
    assert {task.name for task in tasks if task.wants_confidence} <= {"capitals_choice"}


def test_no_question_stands_twice() -> None:
    for name in ("closed_book", "false_premise", "invented_places", "capitals_choice"):
        asked = [line["question"] for line in lines(name)]
        assert len(set(asked)) == len(asked)


def test_the_right_choice_is_anywhere() -> None:
    known = {line["question"]: line["answer"] for line in lines("closed_book")}
    choices = lines("capitals_choice")
    assert all(line["choices"][line["answer"]] == known[line["question"]] for line in choices)
    assert all(len(set(line["choices"])) == 4 for line in choices)
    assert {line["answer"] for line in choices} == {0, 1, 2, 3}


def test_a_text_says_what_is_asked_of_it_or_does_not() -> None:
    assert all(line["answer"] in line["context"] for line in lines("context_answer"))
    assert all(line["answer"] == "I don't know." for line in lines("context_without_answer"))


@pytest.mark.parametrize(
    ("function", "answer", "response", "correct"),
    [
        ("contains_answer", "Paris", "Paris.", True),
        ("contains_answer", "Paris", "It is PARIS, of course", True),
        ("contains_answer", "Bogota", "Bogot\u00e1", True),
        ("contains_answer", "57", "There were 570 stalls", False),
        ("contains_answer", "Paris", "I don't know.", False),
        ("corrects_premise", "Paris", "Marseille became the capital in 1792.", False),
        ("corrects_premise", "Paris", "Marseille isn\u2019t the capital of France.", True),
        ("corrects_premise", "Paris", "The capital of France is Paris, since 987.", True),
    ],
)
def test_answers_are_read(function: str, answer: str, response: str, correct: bool) -> None:
    read = runpy.run_path(str(PANEL / "scoring.py"))[function]
    assert read({"answer": answer}, [response]) == {"correct": float(correct)}
