"""`assay init --from`: what LLaMA-Factory and Axolotl list becomes data that are read here."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from assay.cli.main import assay
from assay.engines.data.reading.sources import read_examples
from assay.errors import UsageError
from cleaned import write


def init(*more: str) -> Result:
    typed = ["--template", "lora", "--model", "hf:a/b", "--reviewer", "anna", "--name", "bot"]
    return CliRunner().invoke(assay, ["init", *typed, *more])


def said(file: str) -> list[list[tuple[str, str]]]:
    found = read_examples([file], "auto", None, Path())
    return [[tuple(turn) for turn in (*one.messages, *one.rejected[-1:])] for one in found]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    alpaca = {"instruction": "Add", "input": "1 and 2", "output": "3", "system": "Be brief."}
    (tmp_path / "raw").mkdir()
    write(tmp_path / "raw/alpaca.jsonl", [alpaca])
    chat = [{"who": "Q", "says": "Hi"}, {"who": "A", "says": "Hello"}]
    write(tmp_path / "raw/chat.jsonl", [{"talk": chat}])
    write(tmp_path / "raw/pairs.jsonl", [{"q": "Hi", "good": "Hello", "bad": "What?"}])


LLAMA_FACTORY: dict[str, Any] = {
    "plain": {"file_name": "raw/alpaca.jsonl"},
    "chat": {
        "file_name": "raw/chat.jsonl",
        "formatting": "sharegpt",
        "columns": {"messages": "talk"},
        "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "Q", "assistant_tag": "A"},
    },
    "pairs": {
        "file_name": "raw/pairs.jsonl",
        "ranking": True,
        "columns": {"prompt": "q", "chosen": "good", "rejected": "bad"},
    },
}
SAID = {
    "plain": [("system", "Be brief."), ("user", "Add\n1 and 2"), ("assistant", "3")],
    "chat": [("user", "Hi"), ("assistant", "Hello")],
    "pairs": [("user", "Hi"), ("assistant", "Hello"), ("assistant", "What?")],
}


@pytest.mark.parametrize("name", SAID)
def test_a_set_of_llama_factory_is_read_by_its_columns_and_tags(name: str) -> None:
    Path("dataset_info.json").write_text(json.dumps(LLAMA_FACTORY))
    result = init("--from", f"dataset_info.json#{name}")
    assert result.exit_code == 0, result.output
    assert said(f"{name}.jsonl") == [SAID[name]]
    assert f"train: {name}.jsonl" in Path("spec.yaml").read_text()


def test_a_set_of_axolotl_is_read(tmp_path: Path) -> None:
    mapped = {"role": "who", "content": "says"}
    turns = [{"who": "user", "says": "Hi"}, {"who": "assistant", "says": "Hello"}]
    write(tmp_path / "axolotl.jsonl", [{"messages": turns}])
    entry = {"path": "axolotl.jsonl", "type": "chat_template", "message_property_mappings": mapped}
    Path("config.yaml").write_text(yaml.safe_dump({"base_model": "a/b", "datasets": [entry]}))
    result = init("--from", "config.yaml")
    assert result.exit_code == 0, result.output
    assert said("datasets-0.jsonl") == [SAID["chat"]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LLAMA_FACTORY, "the list has plain, chat, pairs"),
        ({"far": {"hf_hub_url": "a/b"}}, "hf:ORG/NAME@REVISION"),
        ({"odd": {"file_name": "raw/alpaca.jsonl", "formatting": "openai"}}, "can be imported"),
        ({"lost": {"file_name": "raw/nowhere.json"}}, "no file here"),
        ({"wrong": {"file_name": "raw/chat.jsonl"}}, "the row lacks 'output'"),
        ([1], "neither"),
    ],
)
def test_what_cannot_be_taken_over_says_why(content: object, message: str) -> None:
    Path("dataset_info.json").write_text(json.dumps(content))
    result = init("--from", "dataset_info.json")
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert not Path("spec.yaml").exists()
