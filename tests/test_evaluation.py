"""lm-eval's questions and metrics over a server that can be told to fail."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from assay.engines.evaluation import task_files
from assay.engines.evaluation.client import Endpoint
from assay.engines.evaluation.harness import evaluate
from assay.engines.evaluation.lm_tasks import (
    TaskFile,
    _exact_match,
    documents,
    load,
    task_file,
)
from assay.errors import InvalidInput, UsageError
from assay.records.gate import EvaluationRecord, Sample, TaskResult
from assay.settings import Settings
from assay.spec.gate import SuiteSpec, TaskSettings
from assay.stages import evaluate as stage
from assay.stages.context import Work
from served import Counting, OpenAI, logprobs
from servers import serving
from tiny import make_model

QUESTIONS = [
    {"question": f"what is {i}?", "answer": f"answer to what is {i}?", "source": f"s{i % 3}"}
    for i in range(12)
]


@pytest.fixture
def server() -> Iterator[Counting]:
    with serving(OpenAI, Counting) as server:
        yield server


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model(folder)
    return folder


def endpoint(server: Counting) -> Endpoint:
    return Endpoint(server.url, "tiny", num_concurrent=4, patience_s=0.3, timeout_s=5)


def write_task(folder: Path, name: str = "facts", **more: object) -> Path:
    lines = "".join(json.dumps(line) + "\n" for line in QUESTIONS)
    (folder / f"{name}.jsonl").write_text(lines)
    task = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": f"{name}.jsonl"},
        "test_split": "train",
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 16, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        **more,
    }
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task))
    return folder / f"{name}.yaml"


def choice_task(folder: Path) -> Path:
    choice = {
        "output_type": "multiple_choice",
        "doc_to_choice": ["A", "B", "C"],
        "doc_to_target": 1,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    return write_task(folder, "letters", **choice)


class Thinker(OpenAI):
    """Reasons before it answers, and tells both apart as vLLM does; one question in the middle of
    its reasoning."""

    def reply(self, body: dict[str, Any]) -> dict[str, Any]:
        question = body["messages"][-1]["content"]
        answer = None if "7" in question else f"\n\nanswer to {question}\nand more"
        usage = {"completion_tokens": 30, "completion_tokens_details": {"reasoning_tokens": 20}}
        message = {"role": "assistant", "content": answer, "reasoning": "Let me\nsee."}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


def test_the_answer_is_read_and_not_the_reasoning(tmp_path: Path) -> None:
    with serving(Thinker, Counting) as server:
        asked = replace(endpoint(server), max_reasoning_tokens=64)
        short = task_file("facts", write_task(tmp_path), TaskSettings(max_reasoning_toks=24))
        (first,) = evaluate(asked, [task_file("facts", write_task(tmp_path))]).tasks
        (second,) = evaluate(asked, [short]).tasks
    samples = {sample.prompt: sample for sample in first.items}
    assert samples["what is 3?"].response == "answer to what is 3?"
    assert (
        samples["what is 3?"].scores["exact_match"],
        samples["what is 3?"].reasoning_tokens,
    ) == (1.0, 20)
    assert (samples["what is 7?"].response, samples["what is 7?"].scores["exact_match"]) == (
        "",
        0.0,
    )
    bodies = {(body["max_tokens"], body["thinking_token_budget"]) for body in server.bodies}
    assert bodies == {(16 + 64, 64), (16 + 24, 24)}
    assert not any("stop" in body for body in server.bodies)  # it would end the reasoning
    assert second.items


def test_answers_become_scored_items(server: Counting, tmp_path: Path) -> None:
    task_settings = TaskSettings(cluster_by="source", slice_by=("source",))
    task = task_file("facts", write_task(tmp_path), task_settings)
    server.answer = lambda question: (
        "wrong" if "7" in question else f"answer to {question}\nand more"
    )
    answered = evaluate(endpoint(server), [task], answers=tmp_path / "answers.jsonl")
    items = answered.tasks[0].items
    assert [item.scores for item in items] == [{"exact_match": float(i != 7)} for i in range(12)]
    assert items[7].response == "wrong"
    assert items[5].cluster == "s2"
    assert items[5].slices == {"source": "s2"}
    assert all(item.latency_s and not item.error for item in items)
    assert answered.num_sent == 12

    again = evaluate(endpoint(server), [task], answers=tmp_path / "answers.jsonl")
    assert again.tasks == answered.tasks
    assert (again.num_sent, again.reused) == (0, {"facts": 12})
    assert len(server.bodies) == 12


@pytest.mark.parametrize(
    ("answer", "response", "plainly", "without_punctuation"),
    [
        ("answer", "answer", 1.0, 1.0),
        ("answer", "Answer.", 0.0, 1.0),
        ("answer", "answer ", 0.0, 0.0),
        ("巴黎", "巴黎", 1.0, 1.0),
        ("巴黎", "巴黎。", 0.0, 1.0),
        ("巴黎", "「巴黎」！", 0.0, 1.0),
        ("1987年", "１９８７年", 1.0, 1.0),
        ("惠灵顿(新西兰)", "惠灵顿（新西兰）", 1.0, 1.0),
        ("Bogot\u00e1", "Bogota\u0301", 1.0, 1.0),
        ("巴黎", "里昂", 0.0, 0.0),
    ],
)
def test_exact_match_knows_the_letters_of_other_scripts(
    tmp_path: Path, answer: str, response: str, plainly: float, without_punctuation: float
) -> None:
    strict = load(task_file("strict", write_task(tmp_path, "strict")))
    metric = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
    loose_metric = {**metric, "ignore_case": True, "ignore_punctuation": True}
    loose = load(task_file("loose", write_task(tmp_path, "loose", metric_list=[loose_metric])))
    doc = {"question": "?", "answer": answer, "source": ""}
    assert strict.process_results(doc, [response]) == {"exact_match": plainly}
    assert loose.process_results(doc, [response]) == {"exact_match": without_punctuation}


@given(
    st.text(st.characters(max_codepoint=127)),
    st.text(st.characters(max_codepoint=127)),
    st.booleans(),
)
def test_exact_match_of_ascii_is_what_lm_eval_says(one: str, other: str, loose: bool) -> None:
    from lm_eval.api.metrics import exact_match_fn

    options = {
        "ignore_case": loose,
        "ignore_punctuation": loose,
        "regexes_to_ignore": ["[.]$", ","] if loose else None,
    }
    for response in (other, one, f"{one.upper()}!"):
        said = {"references": [one], "predictions": [response], **options}
        assert _exact_match(exact_match_fn, **said) == exact_match_fn(**said)


def test_a_failing_server_makes_errors_and_no_wrong_answers(
    server: Counting, tmp_path: Path
) -> None:
    server.fault = lambda number: (
        500 if "what is 3?" in json.dumps(server.bodies[number - 1]) else None
    )
    items = evaluate(endpoint(server), [task_file("facts", write_task(tmp_path))]).tasks[0].items
    assert [item.scores for item in items] == [
        {} if i == 3 else {"exact_match": 1.0} for i in range(12)
    ]
    assert "HTTP 500" in str(items[3].error)


def test_choices_are_scored_by_the_model(server: Counting, model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    result = evaluate(
        endpoint(server), [task_file("letters", choice_task(tmp_path))], tokenizer=str(model)
    ).tasks[0]
    words = AutoTokenizer.from_pretrained(model)
    # Twelve prompts, four a request, as four may be in flight; a prompt is sent once for its three
    # choices.
    assert [len(body["prompt"]) for body in server.bodies] == [4, 4, 4]
    for item, line in zip(result.items, QUESTIONS, strict=True):
        chat = [{"role": "user", "content": line["question"]}]
        context = words.apply_chat_template(
            chat, tokenize=True, add_generation_prompt=True, return_dict=False
        )
        table = logprobs(context)
        found = {letter: table[words.encode(letter)[0]] for letter in "ABC"}
        assert item.response == max(found, key=found.__getitem__)
        assert item.target == "B"
        assert item.scores["acc"] == float(item.response == "B")
        assert 1 / 3 <= item.scores["confidence"] <= 1


def test_settings_of_the_suite_overrule_the_task(server: Counting, tmp_path: Path) -> None:
    task_settings = TaskSettings(
        temperature=0.5, max_gen_toks=3, max_items=5, apply_chat_template=False
    )
    result = evaluate(
        endpoint(server), [task_file("facts", write_task(tmp_path), task_settings)]
    ).tasks[0]
    assert len(result.items) == 5
    assert {
        (body["temperature"], body["max_tokens"], "prompt" in body) for body in server.bodies
    } == {(0.5, 3, True)}


def test_few_shots_are_turns_of_the_chat(server: Counting, tmp_path: Path) -> None:
    path = write_task(tmp_path, fewshot_split="train")
    evaluate(endpoint(server), [task_file("facts", path, TaskSettings(num_fewshot=2, max_items=1))])
    roles = [message["role"] for message in server.bodies[0]["messages"]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]


def test_documents_are_question_and_answer(tmp_path: Path) -> None:
    assert documents(task_file("letters", choice_task(tmp_path)))[:2] == [
        ("what is 0?", "B"),
        ("what is 1?", "B"),
    ]


def function_task(folder: Path, digest: str | None = None) -> TaskFile:
    (folder / "shout.py").write_text("def loud(doc):\n    return doc['question'].upper()\n")
    path = write_task(folder)
    path.write_text(path.read_text().replace("'{{question}}'", "!function shout.loud"))
    sha256 = digest or hashlib.sha256((folder / "shout.py").read_bytes()).hexdigest()
    return task_file("facts", path, TaskSettings(functions={"shout.py": sha256}))


def test_a_function_runs_when_the_suite_names_its_digest(server: Counting, tmp_path: Path) -> None:
    evaluate(endpoint(server), [function_task(tmp_path)])
    assert {body["messages"][-1]["content"] for body in server.bodies} == {
        f"WHAT IS {i}?" for i in range(12)
    }


def test_a_function_that_the_suite_does_not_name_is_refused(tmp_path: Path) -> None:
    function_task(tmp_path)
    with pytest.raises(InvalidInput, match="does not allow") as refused:
        task_file("facts", tmp_path / "facts.yaml")
    assert hashlib.sha256((tmp_path / "shout.py").read_bytes()).hexdigest() in str(refused.value)
    with pytest.raises(InvalidInput, match="is not the file"):
        function_task(tmp_path, "0" * 64)


def test_a_function_that_changes_after_it_was_read_does_not_run(
    server: Counting, tmp_path: Path
) -> None:
    task = function_task(tmp_path)
    (tmp_path / "shout.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(InvalidInput, match="is not the file"):
        evaluate(endpoint(server), [task])
    assert not server.bodies


def test_the_digest_is_of_all_that_bears_on_the_items(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("description: Be brief.\n")
    path = write_task(tmp_path, include="base.yaml")
    before = task_file("facts", path)
    digests = {before.digest, task_file("facts", path, TaskSettings(max_items=3)).digest}
    for file in ("facts.jsonl", "base.yaml", "facts.yaml"):
        (tmp_path / file).write_text((tmp_path / file).read_text() + "\n")
        digests.add(task_file("facts", path).digest)
    assert len(digests) == 5
    assert set(task_files.read(path, "facts", {}).files) == {
        "facts.yaml",
        "facts.jsonl",
        "base.yaml",
    }


def test_a_task_of_lm_eval_is_found_by_its_name() -> None:
    found = task_files.packaged("arc_easy")
    assert found is not None
    assert task_files.read(found, "arc_easy", {}).config["dataset_path"] == "allenai/ai2_arc"
    assert task_files.packaged("no_such_task") is None


def test_data_that_cannot_be_had_is_said_in_one_sentence(
    server: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = task_files.packaged("arc_easy")
    assert found is not None
    with pytest.raises(
        UsageError,
        match=r"arc_easy needs the data set allenai/ai2_arc, which is not on this machine",
    ):
        evaluate(endpoint(server), [task_file("arc_easy", found)])


def test_a_group_of_tasks_is_refused() -> None:
    found = task_files.packaged("facts_of_nobody")
    assert found is None
    group = task_files._packaged_folder() / "mmlu" / "default" / "_mmlu.yaml"
    with pytest.raises(InvalidInput, match="group of tasks"):
        task_file("mmlu", group)


def workplace(home: Path) -> Work:
    settings = Settings(home=home, ledger_url=f"sqlite:///{home / 'ledger.db'}", user="ben")
    return Work(settings, home / "runs" / "weigh", home / "progress.jsonl", home)


def result_of(task: TaskFile, *, error: str | None = None) -> TaskResult:
    items = [
        Sample(id=str(i), prompt="p", target="t", response="r", scores={"exact_match": 1.0})
        for i in range(3)
    ]
    failed = (
        Sample(id="9", prompt="p", target="t", response="", scores={}, error=error)
        if error
        else None
    )
    return TaskResult(task=task.name, digest="d", items=(*items, *([failed] if failed else [])))


def test_a_model_that_has_answered_everything_needs_no_deployment(tmp_path: Path) -> None:
    work = workplace(tmp_path)
    tasks = [task_file(name, write_task(tmp_path, name)) for name in ("facts", "more")]
    artifact, cache = "a" * 64, stage._cache(work, "a" * 64, "engine")

    def known(engine: str = "engine", of: str = artifact) -> EvaluationRecord | None:
        return stage.finished(of, "tiny", tasks, engine=engine, work=work)

    cache.put(tasks[0], result_of(tasks[0]))
    assert known() is None
    cache.put(tasks[1], result_of(tasks[1], error="HTTP 500"))
    assert known() is None  # what the server has failed is asked again
    cache.put(tasks[1], result_of(tasks[1]).model_copy(update={"unasked": ("7",)}))
    assert known() is None  # another suite may want to know what this one had no need of
    cache.put(tasks[1], result_of(tasks[1]))
    record = known()
    assert record is not None
    assert (record.num_items, record.num_reused, record.num_errors) == (6, 6, 0)
    assert known(engine="another") is None
    assert known(of="b" * 64) is None


def test_another_setting_is_another_weighing(tmp_path: Path) -> None:
    work = workplace(tmp_path)
    path = write_task(tmp_path)
    task, warmer = task_file("facts", path), task_file("facts", path, TaskSettings(temperature=0.7))
    stage._cache(work, "a" * 64, "engine").put(task, result_of(task))
    assert stage.finished("a" * 64, "tiny", [task], engine="engine", work=work)
    assert stage.finished("a" * 64, "tiny", [warmer], engine="engine", work=work) is None


def test_a_failed_item_is_known_by_its_own_question_where_some_are_asked(
    server: Counting, tmp_path: Path
) -> None:
    task = task_file("facts", write_task(tmp_path), TaskSettings(max_items=5))
    asked = [item.prompt for item in evaluate(endpoint(server), [task]).tasks[0].items]
    for question in asked:
        server.fault = lambda number, q=question: (
            500 if q in json.dumps(server.bodies[number - 1]) else None
        )
        items = evaluate(endpoint(server), [task]).tasks[0].items
        assert [item.prompt for item in items if item.error] == [question]
        assert [item.scores for item in items] == [
            {} if i.prompt == question else {"exact_match": 1.0} for i in items
        ]


def test_a_task_is_asked_until_it_is_settled(server: Counting, tmp_path: Path) -> None:
    task = task_file("facts", write_task(tmp_path))
    (whole,) = evaluate(endpoint(server), [task]).tasks
    before = len(server.bodies)
    seen: list[int] = []

    def settled(result: TaskResult) -> bool:
        seen.append(len(result.items))
        return len(result.items) == 8

    answers = tmp_path / "answers.jsonl"
    (part,) = evaluate(endpoint(server), [task], settled=settled, answers=answers).tasks
    assert seen == [4, 8]  # as many as are in flight
    assert len(server.bodies) == before + 8
    assert part.digest == whole.digest
    assert {item.id for item in part.items} | set(part.unasked) == {item.id for item in whole.items}
    assert [item.prompt for item in part.items] != [item.prompt for item in whole.items][:8], (
        "not the file's order"
    )

    rest = evaluate(endpoint(server), [task], answers=answers)
    assert (rest.num_sent, rest.reused) == (4, {"facts": 8})
    assert rest.tasks[0].unasked == ()


def test_examples_before_the_question_are_the_same_in_whatever_blocks_it_is_asked(
    server: Counting, tmp_path: Path
) -> None:
    task = task_file(
        "facts", write_task(tmp_path, fewshot_split="train"), TaskSettings(num_fewshot=2)
    )
    (result,) = evaluate(endpoint(server), [task], settled=lambda _: True).tasks
    assert len(result.items) == 12


def test_suites_that_are_asked_together_share_what_they_have_in_common(tmp_path: Path) -> None:
    task, other = (
        task_file("facts", write_task(tmp_path)),
        task_file("more", write_task(tmp_path, "more")),
    )
    shorter = task_file("facts", tmp_path / "facts.yaml", TaskSettings(max_items=3))
    assert stage._unlike([task, other, shorter]) == [[task, other], [shorter]]
    suite = SuiteSpec.model_validate({"stop_early": True, "limits": {"facts": {"at_least": 0.9}}})
    wrong = [
        Sample(id=str(i), prompt="p", target="t", response="r", scores={"exact_match": 0.0})
        for i in range(30)
    ]
    part = TaskResult(task="facts", digest="d", items=tuple(wrong), unasked=("30", "31"))
    eager = stage.Stopping(suite, None, None, 0.95)
    assert stage._settled({"facts": [eager]}, part)
    assert not stage._settled({"facts": [eager, None]}, part), "the second suite wants all of it"
