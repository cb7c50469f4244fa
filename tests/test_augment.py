"""`augment`: what is made of rows, what is kept of it, and that no split parts a family."""

import json
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from assay.engines.data import learned_rows
from assay.engines.data.cleaning.augment import asked
from assay.engines.data.cleaning.cleaned import families_of, files_of
from assay.engines.data.splits import Splits, SplitSource
from assay.errors import StageFailed
from assay.spec.augment import AugmentSpec
from assay.spec.data import DataSpec
from assay.spec.objective import ObjectiveSpec
from assay.stages.clean import _ask
from cleaned import Cleaned, cleaned, write
from servers import Server, serving

NUM_ROWS = 60


def chats(num: int = NUM_ROWS) -> list[dict[str, object]]:
    return [
        {
            "prompt": f"How many pages has the manual of pump number {row}, and where is it kept?",
            "completion": f"It has {row * 7 + 3} pages.",
        }
        for row in range(num)
    ]


def made(found: Cleaned) -> list[dict[str, Any]]:
    return [row for rows in found.rows.values() for row in rows if "parent" in row]


def said(row: dict[str, Any]) -> list[str]:
    return [turn["content"] for turn in row["messages"]]


def test_noise_makes_slips_in_the_question_alone_and_names_the_parent(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", chats())
    found = cleaned(tmp_path, [{"augment": {"noise": 0.2, "copies": 2}}])
    rows = {row["row"]: row for row in found.rows["train.jsonl"]}
    products = made(found)
    assert len(products) > NUM_ROWS
    for product in products:
        parent = rows[product["parent"]]
        assert said(product)[0] != said(parent)[0]
        assert said(product)[1] == said(parent)[1]
    counts = found.steps["augment"]
    assert counts.made == {"noise": len(products)}
    assert len(products) + counts.num_dropped == 2 * NUM_ROWS
    (reason,) = (one for one in found.reasons if one["row"] == products[0]["row"])
    assert (reason["action"], reason["parent"]) == ("made", products[0]["parent"])


def test_partitioning_does_not_bear_on_what_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "train.jsonl", chats())
    steps: list[object] = [{"augment": {"noise": 0.3, "share": 0.5}}, "deduplicate"]
    whole = cleaned(tmp_path, steps)
    monkeypatch.setattr(learned_rows, "BLOCK_ROWS", 7)
    assert cleaned(tmp_path, steps, scratch="parts").content == whole.content
    assert 0 < len(made(whole)) < NUM_ROWS


def test_names_are_swapped_in_question_and_answer_or_not_at_all(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Does the Router X1 have WLAN?", "completion": "The Router X1 has WLAN."},
        {"prompt": "Does the Router X1 have a plug?", "completion": "It has one."},
        {"prompt": "北京店几点开门？", "completion": "北京店九点开门。"},
    ]
    write(tmp_path / "train.jsonl", rows)
    swap = {"product": ["Router X1", "Router X10"], "city": ["北京", "上海"]}
    products = made(cleaned(tmp_path, [{"augment": {"swap": swap}}]))
    assert [said(one) for one in products] == [
        ["Does the Router X10 have WLAN?", "The Router X10 has WLAN."],
        ["上海店几点开门？", "上海店九点开门。"],
    ]


def test_synonyms_keep_capitals_and_whole_words(tmp_path: Path) -> None:
    rows = [{"prompt": "Big boxes: how big is the bigger one of them all?", "completion": "5 m"}]
    write(tmp_path / "train.jsonl", rows)
    (product,) = made(cleaned(tmp_path, [{"augment": {"synonyms": {"big": ["large"]}}}]))
    assert said(product) == ["Large boxes: how large is the bigger one of them all?", "5 m"]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({}, "choose one of"),
        ({"noise": 0.1, "synonyms": {"a": ["b"]}}, "choose one of"),
        ({"noise": 0.1, "min_similarity": 0.9, "max_similarity": 0.5}, "min_similarity"),
        ({"swap": {"city": ["Rome"]}}, "at least 2"),
    ],
)
def test_a_step_says_what_it_lacks(spec: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AugmentSpec.model_validate(spec)


class Model(BaseHTTPRequestHandler):
    """Says the question otherwise, by its number: kept, unlike, with another number, the same."""

    prompts: ClassVar[list[str]] = []
    fails_after = 10**9

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        if len(self.prompts) >= self.fails_after:
            self.send_error(401)
            return
        self.prompts.append(prompt)
        answer = {
            "choices": [{"message": {"role": "assistant", "content": self.answer(prompt)}}],
            "usage": {"total_tokens": 10},
        }
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, prompt: str) -> str:
        text = prompt.rpartition("\n\n")[2]
        number = int("".join(filter(str.isdigit, text)))
        if number % 4 == 1:
            return "Bananas are yellow."
        if number % 4 == 2:
            return text.replace(str(number), str(number + 100)).replace("where is it", "where's it")
        if number % 4 == 3:
            return text
        return (
            f"What number of pages has the manual of pump number {number}, and where does it lie?"
        )

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def model() -> Iterator[Server]:
    Model.prompts, Model.fails_after = [], 10**9
    with serving(Model) as server:
        yield server


def paraphrase(server: Server, **more: object) -> list[object]:
    ask = {"task": "paraphrase", "url": f"http://127.0.0.1:{server.port}/v1", "model": "m", **more}
    return [{"augment": {"ask": ask}}]


def test_paraphrases_are_filtered_and_each_says_why(tmp_path: Path, model: Server) -> None:
    write(tmp_path / "train.jsonl", chats(16))
    found = cleaned(tmp_path, paraphrase(model), ask=partial(_ask, tmp_path / "answers.jsonl"))
    products = made(found)
    assert len(products) == 4
    assert all(said(one)[0].startswith("What number") for one in products)
    counts = found.steps["augment"]
    assert counts.dropped == {"equal": 4, "facts": 4, "similarity": 4}
    assert counts.note == "160 tokens were used"


def test_what_asks_a_held_out_question_goes(tmp_path: Path, model: Server) -> None:
    write(tmp_path / "train.jsonl", chats(4))
    held = "what number of pages has the manual of pump number 0, and where does it lie?"
    write(tmp_path / "gate.jsonl", [{"prompt": held, "completion": "Nobody knows."}])
    ask = partial(_ask, tmp_path / "answers.jsonl")
    found = cleaned(tmp_path, paraphrase(model), ask=ask, gate="gate.jsonl")
    assert not made(found)
    assert found.steps["augment"].dropped["held_out"] == 1


def test_the_budget_ends_the_asking_and_a_run_goes_on_without_asking_twice(
    tmp_path: Path, model: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asked, "PROMPTS_AT_ONCE", 4)
    monkeypatch.setattr(learned_rows, "BLOCK_ROWS", 6)
    write(tmp_path / "train.jsonl", chats(16))
    ask = partial(_ask, tmp_path / "answers.jsonl")
    Model.fails_after = 5
    with pytest.raises(StageFailed, match="what was answered is kept"):
        cleaned(tmp_path, paraphrase(model, budget=80), ask=ask)
    num_answered = len(Model.prompts)
    Model.fails_after = 10**9
    found = cleaned(tmp_path, paraphrase(model, budget=80), ask=ask)
    assert len(Model.prompts) == len(set(Model.prompts)) == 10 > num_answered
    assert found.steps["augment"].note == (
        "100 tokens were used, all of the budget: 6 products were not asked for"
    )
    again = cleaned(tmp_path, paraphrase(model, budget=80), ask=ask, scratch="again")
    assert len(Model.prompts) == 10
    assert again.content == found.content


def test_an_instruction_is_a_question_with_its_own_answer(
    tmp_path: Path, model: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: Model, prompt: str) -> str:
        if "number 1," in prompt:
            return "I would rather not."
        return 'Here: {"question": "How many pages has the atlas?", "answer": "It has 12."}'

    monkeypatch.setattr(Model, "answer", answer)
    write(tmp_path / "train.jsonl", chats(2))
    steps = paraphrase(model, task="instruction")
    (product,) = made(cleaned(tmp_path, steps, ask=partial(_ask, tmp_path / "answers.jsonl")))
    assert said(product) == ["How many pages has the atlas?", "It has 12."]


def test_back_translation_asks_twice(
    tmp_path: Path, model: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(_: Model, prompt: str) -> str:
        if "into French" in prompt:
            return "Combien de pages a le manuel de la pompe 0 ?"
        assert "Combien" in prompt
        return "How many pages are in the manual of pump number 0, and where is it kept?"

    monkeypatch.setattr(Model, "answer", answer)
    write(tmp_path / "train.jsonl", chats(1))
    steps = paraphrase(model, task="back_translate")
    (product,) = made(cleaned(tmp_path, steps, ask=partial(_ask, tmp_path / "answers.jsonl")))
    assert said(product)[0].startswith("How many pages are in")
    assert len(Model.prompts) == 2


def test_no_split_parts_a_family_and_nothing_made_is_held_out(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", chats(300))
    steps: list[object] = [{"augment": {"noise": 0.9, "copies": 2, "min_similarity": 0}}]
    products = made(cleaned(tmp_path, steps))
    out = tmp_path / "scratch-out"
    data = DataSpec.model_validate(
        {"train": "train.jsonl", "gate": 0.2, "selection": 0.2, "system": "Be brief."}
    )
    source = SplitSource(data, tmp_path, {}, files_of(out, data.train), families_of(out))
    splits = Splits(source, ObjectiveSpec.model_validate("sft"), frozenset())
    where: dict[str, str] = {}
    for one in splits.outcomes():
        where[one.example.messages[1].content] = one.fate
    parents = {row["row"]: said(row)[0] for row in _rows(out) if "parent" not in row}
    for product in products:
        of_parent, of_product = where[parents[product["parent"]]], where[said(product)[0]]
        expected = {"train": "train", "gate": "in_gate", "selection": "duplicate"}[of_parent]
        assert of_product == expected
    assert {where[asked] for asked in parents.values()} == {"train", "gate", "selection"}


def _rows(out: Path) -> list[dict[str, Any]]:
    files = sorted((out / "data").glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]
