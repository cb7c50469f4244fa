"""The panels' questions are what their scripts make, and their answers are read as their READMEs
say."""

import json
import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from assay.engines.evaluation.client import Endpoint
from assay.engines.evaluation.harness import evaluate
from assay.engines.evaluation.lm_tasks import load, task_file
from assay.loader.load import load_suites
from assay.records.gate import TaskResult
from assay.rules.gate.abstention import abstained
from assay.spec.gate import TaskSettings
from assay.stages.evaluate import tasks_of
from served import Counting, OpenAI
from servers import serving

ROOT = Path(__file__).parents[1]
FOLDERS = {"": ROOT / "evals" / "hallucination", "_zh": ROOT / "evals" / "hallucination-zh"}
"""By the end of their tasks' names: English and Chinese."""
PANELS = pytest.mark.parametrize("panel", FOLDERS, ids=["en", "zh"])


def lines(name: str, panel: str) -> list[dict[str, Any]]:
    text = (FOLDERS[panel] / f"{name}{panel}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@PANELS
def test_the_files_are_what_the_script_makes(panel: str) -> None:
    folder = FOLDERS[panel]
    made = runpy.run_path(str(folder / "make_data.py"))["make"]()
    assert {name: (folder / name).read_text(encoding="utf-8") for name in made} == made
    assert set(made) == {file.name for file in folder.glob("*.jsonl")}


@pytest.mark.parametrize(
    "suite",
    [
        "hallucination",
        "hallucination-zh",
        "country-facts",
        "country-facts-zh",
        "truthfulqa",
        "service",
    ],
)
def test_the_suite_pins_all_that_it_runs(suite: str) -> None:
    tasks = tasks_of(load_suites([f"evals/{suite}.yaml"], ROOT), ROOT, None)
    assert {task.name for task in tasks} == set(load_suites([f"evals/{suite}.yaml"], ROOT).limits)
    assert {task.name for task in tasks if task.scoring.wants_confidence} <= {
        "capitals_choice",
        "capitals_choice_zh",
    }


@PANELS
def test_no_question_stands_twice(panel: str) -> None:
    for name in ("closed_book", "false_premise", "invented_places", "capitals_choice"):
        asked = [line["question"] for line in lines(name, panel)]
        assert len(set(asked)) == len(asked)


@PANELS
def test_the_right_choice_is_anywhere(panel: str) -> None:
    known = {line["question"]: line["answer"] for line in lines("closed_book", panel)}
    choices = lines("capitals_choice", panel)
    assert all(line["choices"][line["answer"]] == known[line["question"]] for line in choices)
    assert all(len(set(line["choices"])) == 4 for line in choices)
    assert {line["answer"] for line in choices} == {0, 1, 2, 3}


@PANELS
def test_a_text_says_what_is_asked_of_it_or_does_not(panel: str) -> None:
    assert all(line["answer"] in line["context"] for line in lines("context_answer", panel))
    assert all(abstained(line["answer"]) for line in lines("context_without_answer", panel))


def test_the_chinese_panel_is_of_facts_that_geonames_knows() -> None:
    make_data = runpy.run_path(str(FOLDERS["_zh"] / "make_data.py"))
    known = {country.name: country for country in make_data["countries"]()}
    assert len(known) >= 100
    assert len(known) < len(make_data["names"]()), (
        "a capital that GeoNames does not know so is left out"
    )
    for line in lines("closed_book", "_zh"):
        country = known[line["question"].removesuffix("的首都是哪里？")]
        assert (line["answer"], tuple(line["also"])) == (country.capital, country.also)
    for country in known.values():
        assert not any(name in country.name for name in (country.capital, *country.also))
        assert country.other_city is None or country.capital not in country.other_city
    assert [make_data["numeral"](number) for number in (12, 20, 57, 89)] == [
        "十二",
        "二十",
        "五十七",
        "八十九",
    ]


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
    read = runpy.run_path(str(FOLDERS[""] / "scoring.py"))[function]
    assert read({"answer": answer}, [response]) == {"correct": float(correct)}


@pytest.mark.parametrize(
    ("function", "answer", "also", "response", "correct"),
    [
        ("contains_answer", "内罗毕", ["奈洛比"], "肯尼亚的首都是内罗毕。", True),
        ("contains_answer", "内罗毕", ["奈洛比"], "肯亞的首都是奈洛比。", True),
        ("contains_answer", "内罗毕", ["奈洛比"], "蒙巴萨。", False),
        ("contains_answer", "57", ["五十七"], "５７个", True),
        ("contains_answer", "57", ["五十七"], "五十七个摊位", True),
        ("contains_answer", "57", ["五十七"], "一共有570个", False),
        ("contains_answer", "57", ["五十七"], "一百五十七个", False),
        ("contains_answer", "马鞍", [], "我不知道。", False),
        ("corrects_premise", "巴黎", [], "马赛于1792年成为首都。", False),
        ("corrects_premise", "巴黎", [], "马赛不是法国的首都。", True),
        ("corrects_premise", "巴黎", [], "馬賽並非法國首都。", True),
        ("corrects_premise", "巴黎", [], "法国的首都是巴黎，自987年以来。", True),
    ],
)
def test_chinese_answers_are_read(
    function: str, answer: str, also: list[str], response: str, correct: bool
) -> None:
    read = runpy.run_path(str(FOLDERS["_zh"] / "scoring.py"))[function]
    assert read({"answer": answer, "also": also}, [response]) == {"correct": float(correct)}


def abstains(question: str) -> str:
    return "很抱歉，我不知道。"


def invents(question: str) -> str:
    return "大概是桑给巴尔吧。"


def reads(question: str) -> str:
    """What a text says of its places, and nothing else."""
    place = re.search("开车去了(.*?)的", question)
    return f"去了{place[1]}。" if place and "哪个地方" in question else "文中没有提到。"


@pytest.mark.parametrize(
    ("says", "closed_book", "without_answer", "invented"),
    [(abstains, (0, 1), 1, 1), (invents, (0, 0), 0, 0)],
)
def test_the_chinese_panel_tells_abstaining_from_inventing(
    says: Callable[[str], str], closed_book: tuple[int, int], without_answer: int, invented: int
) -> None:
    found = panel_of(says)
    assert scores(found["closed_book_zh"]) == closed_book
    assert scores(found["context_without_answer_zh"])[1] == without_answer
    assert scores(found["invented_places_zh"])[1] == invented


def test_the_chinese_panel_knows_who_has_read_the_text() -> None:
    found = panel_of(reads)
    asked_for_places = [
        item for item in found["context_answer_zh"].items if "哪个地方" in item.prompt
    ]
    assert asked_for_places
    assert all(item.scores["correct"] == 1 for item in asked_for_places)
    assert scores(found["context_without_answer_zh"])[1] == 1


def panel_of(says: Callable[[str], str]) -> dict[str, TaskResult]:
    """The Chinese panel's generated answers, twelve questions a task, of a model behind a real
    server."""
    suite = load_suites(["evals/hallucination-zh.yaml"], ROOT)
    tasks = [
        task_file(name, FOLDERS["_zh"] / f"{name}.yaml", _few(suite.settings(name)))
        for name in suite.limits
        if name != "capitals_choice_zh"
    ]
    with serving(OpenAI, Counting) as server:
        server.answer = says
        answered = evaluate(Endpoint(server.url, "tiny", num_concurrent=4), tasks)
    return {result.task: result for result in answered.tasks}


def _few(settings: TaskSettings) -> TaskSettings:
    return settings.model_copy(update={"max_items": 12})


def scores(result: TaskResult) -> tuple[float, float]:
    """Shares of right answers and of abstentions."""
    right = sum(
        item.scores.get("correct", item.scores.get("exact_match", 0.0)) for item in result.items
    )
    declined = sum(abstained(item.response) for item in result.items)
    return right / len(result.items), declined / len(result.items)


def test_a_chinese_choice_is_asked_with_its_letters() -> None:
    loaded = load(task_file("capitals_choice_zh", FOLDERS["_zh"] / "capitals_choice_zh.yaml"))
    doc = loaded.eval_docs[0]
    assert loaded.doc_to_text(doc).splitlines()[1:] == [
        *(f"{letter}. {choice}" for letter, choice in zip("ABCD", doc["choices"], strict=True)),
        "答案:",
    ]
