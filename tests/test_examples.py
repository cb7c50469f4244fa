"""Reading training examples."""

import json
from pathlib import Path

import pytest

from assay.errors import InvalidInput, Problem
from assay.spec.data import DataFormat
from assay.spec.examples import Example, Message, read_examples

CHAT = {"messages": [{"role": "user", "content": "Capital of Chad?"}, {"role": "assistant", "content": "N'Djamena"}]}
QUESTION, ANSWER = Message("user", "Capital of Chad?"), Message("assistant", "N'Djamena")


def read(folder: Path, text: str | bytes, format: DataFormat = "auto", system: str | None = None) -> list[Example]:
    """The examples of one file with this text."""
    (folder / "d.jsonl").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_examples(["d.jsonl"], format, system, folder)


def refusals(folder: Path, text: str | bytes, format: DataFormat = "auto") -> list[Problem]:
    """All that is said against a file with this text."""
    with pytest.raises(InvalidInput) as caught:
        read(folder, text, format)
    return caught.value.problems


@pytest.mark.parametrize(
    ("line", "format"),
    [
        (CHAT, "messages"),
        ({"prompt": QUESTION.content, "completion": ANSWER.content, "id": 7}, "prompt_completion"),
        ({"instruction": QUESTION.content, "output": ANSWER.content, "input": ""}, "alpaca"),
    ],
)
def test_each_format_is_read_named_or_found_out(tmp_path: Path, line: object, format: DataFormat) -> None:
    assert read(tmp_path, json.dumps(line), format) == [Example((QUESTION, ANSWER))]
    assert read(tmp_path, json.dumps(line), "auto") == [Example((QUESTION, ANSWER))]


def test_alpaca_input_follows_the_instruction(tmp_path: Path) -> None:
    line = json.dumps({"instruction": "Translate.", "input": "chat", "output": "cat"})
    assert read(tmp_path, line)[0].messages[0] == Message("user", "Translate.\n\nchat")


def test_the_system_prompt_goes_to_those_that_bring_none(tmp_path: Path) -> None:
    own = {"messages": [{"role": "system", "content": "Own."}, *CHAT["messages"]]}
    examples = read(tmp_path, f"{json.dumps(CHAT)}\n{json.dumps(own)}", system="Given.")
    assert [example.messages[0] for example in examples] == [Message("system", "Given."), Message("system", "Own.")]


def test_byte_order_mark_carriage_returns_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    line = json.dumps(CHAT).encode()
    assert len(read(tmp_path, b"\xef\xbb\xbf\r\n" + line + b"\r\n\r\n  \r\n" + line)) == 2


def test_globs_are_sorted_and_no_file_is_read_twice(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": name, "completion": "x"}))
    examples = read_examples(["c.jsonl", "*.jsonl", str(tmp_path / "a.jsonl")], "auto", None, tmp_path)
    assert [example.messages[0].content for example in examples] == ["c", "a", "b"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"messages": [', "this is not JSON"),
        ("[1, 2]", "a JSON array, not JSON Lines"),
        ("3", "expected an object, found a number"),
        ("[" * 100_000, "nested too deep"),
        ('{"messages": 3}', "messages: expected a list, found a number"),
        ('{"prompt": "x", "completion": "y"}', "`messages` is missing (it has prompt, completion)"),
        ('{"messages": []}', "the last message must be the assistant's"),
        ('{"messages": [{"role": "user", "content": "x"}]}', "the last message must be the assistant's"),
        ('{"messages": [{"role": "gpt", "content": "x"}]}', "messages.0.role: expected system or user or assistant"),
        ('{"messages": [{"role": "gpt", "content": "x"}]}', "did you mean `assistant`?"),
        ('{"messages": [{"role": "user", "content": ["x"]}]}', "messages.0.content: expected text, found a list"),
        ('{"messages": [{"role": "user", "text": "x"}]}', "messages.0: `content` is missing"),
        (json.dumps({"messages": [CHAT["messages"][0], {"role": "assistant", "content": " "}]}), "the answer is empty"),
        (json.dumps(CHAT).replace("Chad", r"\ud800"), "half a character"),
    ],
)
def test_a_broken_line_is_told_with_its_number(tmp_path: Path, line: str, words: str) -> None:
    (problem,) = refusals(tmp_path, f"{json.dumps(CHAT)}\n\n{line}\n{json.dumps(CHAT)}\n", "messages")
    assert (problem.file, problem.line) == (str(tmp_path / "d.jsonl"), 3)
    assert words in str(problem)


def test_wrong_fields_of_the_other_formats_are_told(tmp_path: Path) -> None:
    (problem,) = refusals(tmp_path, '{"prompt": "x", "completion": null}')
    assert "completion: expected text, found null" in str(problem)
    (problem,) = refusals(tmp_path, '{"instruction": "x", "output": "y", "input": 3}')
    assert "input: expected text, found a number" in str(problem)


def test_a_file_in_no_known_format_is_told_once(tmp_path: Path) -> None:
    (problem,) = refusals(tmp_path, '{"conversations": []}\n' * 5)
    assert problem.line == 1
    assert problem.hint == "rename `conversations` to `messages`"


def test_a_file_that_is_not_json_lines_is_told_once(tmp_path: Path) -> None:
    (problem,) = refusals(tmp_path, json.dumps([CHAT, CHAT], indent=1))
    assert "a JSON array, not JSON Lines" in problem.message
    (problem,) = refusals(tmp_path, json.dumps(CHAT).encode("utf-16"))
    assert problem.message == "this is not UTF-8"


def test_many_broken_lines_are_counted_after_the_twentieth(tmp_path: Path) -> None:
    problems = refusals(tmp_path, json.dumps(CHAT) + "\n" + "{\n" * 50)
    assert [problem.line for problem in problems[:20]] == list(range(2, 22))
    assert [problem.message for problem in problems[20:]] == ["... and 30 more"]


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_data_set_is_refused(tmp_path: Path, text: str) -> None:
    (problem,) = refusals(tmp_path, text)
    assert (problem.file, problem.message) == ("d.jsonl", "there are no examples")


def test_a_pattern_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"none/\*\.jsonl: no file matches"):
        read_examples(["none/*.jsonl"], "auto", None, tmp_path)
