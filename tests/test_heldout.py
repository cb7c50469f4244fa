"""The task `heldout`: chats that the model has not seen, asked as they were, and scored as fits
their answers."""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from assay.engines.data.contamination import Index as ContaminationIndex
from assay.engines.data.contamination import SampleText, hits_in
from assay.engines.data.reading.examples import Example, Message
from assay.engines.evaluation.client import Endpoint
from assay.engines.evaluation.harness import evaluate
from assay.engines.evaluation.lm_tasks import Scoring, TaskFile, documents, task_file
from assay.records.gate import Evaluation, TaskResult
from assay.rules.gate.verdict import evaluate_limits
from assay.spec.gate import SuiteSpec, TaskSettings
from assay.spec.suite.measured import ContaminationSpec
from assay.spec.values.metrics import fitting_metric, num_words
from assay.stages.prepare import GateTask
from served import Counting, OpenAI
from servers import serving

LONG = "Please restart the router, wait for a minute, and tell me which of its lights are on."


def chat(*turns: str, system: str = "") -> Example:
    """A chat in which the user begins."""
    said = [Message("system", system)] if system else []
    roles = ("user", "assistant")
    return Example(
        (*said, *(Message(roles[number % 2], turn) for number, turn in enumerate(turns)))
    )


def held_out(folder: Path, *examples: Example) -> TaskFile:
    gate = GateTask(folder / "heldout")
    for example in examples:
        gate.add(example)
    gate.close()
    return task_file(
        "heldout", folder / "heldout" / "heldout.yaml", scoring=Scoring(text_metrics=("auto",))
    )


def asked(task: TaskFile, server: Counting) -> TaskResult:
    return evaluate(Endpoint(server.url, "tiny", patience_s=0.3), [task]).tasks[0]


def test_each_chat_is_asked_with_its_turns_and_its_own_system_message(tmp_path: Path) -> None:
    task = held_out(
        tmp_path,
        chat("My router is dead.", "Which one?", "The blue one.", LONG, system="Be brief."),
        chat("Hello", LONG, system="Be kind."),
        chat("Hi", LONG),
    )
    with serving(OpenAI, Counting) as server:
        result = asked(task, server)
    sent = sorted((body["messages"] for body in server.bodies), key=len)
    assert sent[0] == [{"role": "user", "content": "Hi"}]
    assert sent[1] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
    ]
    assert [message["content"] for message in sent[2]] == [
        "Be brief.",
        "My router is dead.",
        "Which one?",
        "The blue one.",
    ]
    assert {item.prompt for item in result.items} == {
        "My router is dead.\nWhich one?\nThe blue one.",
        "Hello",
        "Hi",
    }


@pytest.mark.parametrize(
    ("response", "right"),
    [
        ("内比都。", 1),
        ("「内比都」", 1),
        ("　内比都！", 1),
        ("内比都是首都", 0),
        ("仰光", 0),
        ("我不知道。", 0),
    ],
)
def test_a_short_chinese_answer_is_right_whatever_its_punctuation(
    tmp_path: Path, response: str, right: int
) -> None:
    task = held_out(tmp_path, chat("缅甸的首都是哪里？", "内比都"))
    with serving(OpenAI, Counting) as server:
        server.answer = lambda question: response
        (item,) = asked(task, server).items
    assert item.scores["auto"] == item.scores["exact_match"] == right


def test_an_answer_goes_on_to_the_models_own_end_of_turn(tmp_path: Path) -> None:
    answer = "First step.\n\nSecond step, which is a little longer.\n\nThird step."
    task = held_out(tmp_path, chat("How?", answer))
    with serving(OpenAI, Counting) as server:
        server.answer = lambda question: answer
        (item,) = asked(task, server).items
    assert "stop" not in server.bodies[0]
    assert item.response == answer
    assert item.scores["auto"] == 1


def test_solved_examples_stand_between_the_system_message_and_the_chat(tmp_path: Path) -> None:
    held_out(tmp_path, chat("a", "b", "c", "d", system="s"), chat("e", "f"))
    path = tmp_path / "heldout" / "heldout.yaml"
    path.write_text(json.dumps({**yaml.safe_load(path.read_text()), "fewshot_split": "train"}))
    with serving(OpenAI, Counting) as server:
        evaluate(
            Endpoint(server.url, "tiny"), [task_file("heldout", path, TaskSettings(num_fewshot=1))]
        )
    several = next(
        body["messages"] for body in server.bodies if body["messages"][-1]["content"] == "c"
    )
    assert [message["role"] for message in several] == [
        "system",
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert [message["content"] for message in several][-3:] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("answers", "metric", "score"),
    [
        (["Paris", "the Seine", "in 1889", LONG], "exact_match", 0),
        ([LONG, LONG.replace("router", "modem"), "yes"], "rougeL", 0.5),
        (["法国的首都是巴黎,人口超过两百万,位于塞纳河畔。"] * 2, "rougeL", None),
    ],
)
def test_the_metric_fits_the_answers(
    tmp_path: Path, answers: list[str], metric: str, score: float | None
) -> None:
    task = held_out(
        tmp_path, *(chat(f"question {number}", answer) for number, answer in enumerate(answers))
    )
    with serving(OpenAI, Counting) as server:
        server.answer = lambda question: LONG.partition(",")[0]
        result = asked(task, server)
    assert f"auto is {metric} here" in result.notes["auto"]
    assert ("judge" in result.notes["auto"]) == (metric == "rougeL")
    if score is not None:
        last = result.items[-1 if metric == "exact_match" else 0]
        assert last.scores["auto"] == pytest.approx(score, abs=0.15)
        assert last.scores["auto"] == last.scores[metric]

    suite = SuiteSpec.model_validate({"limits": {"heldout": {"at_least": 0.5}}})
    evaluation = Evaluation(artifact_digest="m", model_name="m", tasks=(result,), seconds=1)
    (limit,) = evaluate_limits(suite, evaluation, None)
    assert limit.metric == "auto"
    assert f"auto is {metric} here" in limit.reason


def test_the_metric_goes_by_the_middle_answer() -> None:
    assert fitting_metric(Counter({1: 50, 5: 1, 90: 50}))[0] == "exact_match"
    assert fitting_metric(Counter({1: 49, 6: 1, 90: 50}))[0] == "rougeL"
    assert fitting_metric({}) == (
        "exact_match",
        "auto is exact_match here: the reference answers have 0 words in the median",
    )
    assert num_words("It's 5 pm.") == 4
    assert num_words("法国的首都是Paris。") == 4


@pytest.mark.parametrize(("num_bytes", "room"), [(10, 256), (600, 512), (100_000, 1024)])
def test_there_is_room_for_answers_like_those_of_the_data(
    tmp_path: Path, num_bytes: int, room: int
) -> None:
    held_out(tmp_path, chat("q", "x" * num_bytes))
    task = yaml.safe_load((tmp_path / "heldout" / "heldout.yaml").read_text())
    assert task["generation_kwargs"]["max_gen_toks"] == room


def test_a_chat_is_contaminated_by_the_same_chat_and_not_by_its_last_turn(tmp_path: Path) -> None:
    turns = (
        "My router has been dead since this morning.",
        "Which one is it?",
        "Thanks!",
        "You are welcome.",
    )
    ((question, answer),) = documents(held_out(tmp_path, chat(*turns)))
    index = ContaminationIndex([SampleText("heldout", question, answer)], ContaminationSpec())
    assert [hit.is_exact for hit in hits_in(index, [["Be brief.", *turns]])][:1] == [True]
    assert list(hits_in(index, [["Where is it?", "There.", "Thanks!", "You are welcome."]])) == []
