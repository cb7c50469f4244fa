"""Reading training examples."""

import json
from pathlib import Path

import pytest

from assay.engines.data.reading.examples import Example, Message
from assay.engines.data.reading.sources import check_forms, read_examples
from assay.errors import InvalidInput, Problem, UsageError
from assay.spec.data import DataFormat

CHAT = {
    "messages": [
        {"role": "user", "content": "Capital of Chad?"},
        {"role": "assistant", "content": "N'Djamena"},
    ]
}
QUESTION, ANSWER = Message("user", "Capital of Chad?"), Message("assistant", "N'Djamena")


def read(
    folder: Path, text: str | bytes, format: DataFormat = "auto", system: str | None = None
) -> list[Example]:
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
def test_each_format_is_read_named_or_found_out(
    tmp_path: Path, line: object, format: DataFormat
) -> None:
    assert read(tmp_path, json.dumps(line), format) == [Example((QUESTION, ANSWER))]
    assert read(tmp_path, json.dumps(line), "auto") == [Example((QUESTION, ANSWER))]


USER, BETTER, WORSE = (QUESTION,), (QUESTION, ANSWER), (QUESTION, Message("assistant", "Lagos"))


@pytest.mark.parametrize(
    ("line", "format", "example"),
    [
        (
            {
                "conversations": [
                    {"from": "human", "value": QUESTION.content},
                    {"from": "gpt", "value": ANSWER.content},
                ]
            },
            "sharegpt",
            Example(BETTER),
        ),
        (
            {"prompt": QUESTION.content, "chosen": ANSWER.content, "rejected": "Lagos"},
            "preference",
            Example(BETTER, rejected=WORSE),
        ),
        (
            {
                "chosen": CHAT["messages"],
                "rejected": [CHAT["messages"][0], {"role": "assistant", "content": "Lagos"}],
            },
            "preference",
            Example(BETTER, rejected=WORSE),
        ),
        (
            {
                "prompt": [{"role": "user", "content": QUESTION.content}],
                "completion": "Lagos",
                "label": False,
            },
            "kto",
            Example(WORSE, label=False),
        ),
        ({"text": "Chad is a country."}, "text", Example(text="Chad is a country.")),
        ({"text": QUESTION.content, "label": 3}, "classification", Example(USER, label="3")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_other_form_is_read_named_or_found_out(
    tmp_path: Path, line: object, format: DataFormat, example: Example
) -> None:
    assert read(tmp_path, json.dumps(line), format) == [example]
    assert read(tmp_path, json.dumps(line)) == [example]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
        ({"prompt": "a", "chosen": "b", "rejected": " "}, "the answer is empty"),
        ({"text": " "}, "the text is empty"),
        ({"text": "a", "label": ""}, "the label is empty"),
        (
            {"conversations": [{"from": "someone", "value": "x"}]},
            "expected human, gpt or system, found 'someone'",
        ),
        (
            {"chosen": CHAT["messages"], "rejected": [{"role": "user", "content": "x"}]},
            "must be the assistant's",
        ),
    ],
)
def test_what_is_wrong_with_another_form_is_told(tmp_path: Path, line: object, words: str) -> None:
    (problem,) = refusals(tmp_path, json.dumps(line))
    assert (problem.line, words in str(problem)) == (1, True), str(problem)


def test_tables_are_read_like_lines(tmp_path: Path) -> None:
    import pyarrow as arrow
    import pyarrow.parquet

    records = [
        {"prompt": QUESTION.content, "completion": ANSWER.content},
        {"prompt": "a", "completion": "b"},
    ]
    table = arrow.Table.from_pylist(records)
    arrow.parquet.write_table(table, tmp_path / "a.parquet")
    with arrow.ipc.new_file(str(tmp_path / "b.arrow"), table.schema) as file:
        file.write_table(table)
    with arrow.ipc.new_stream(str(tmp_path / "c.arrow"), table.schema) as stream:
        stream.write_table(table)
    (tmp_path / "d.json").write_text(json.dumps(records, indent=1))
    (tmp_path / "e.csv").write_text('prompt,completion\n"Capital of Chad?","N\'Djamena"\n"a","b"\n')
    for name in ("a.parquet", "b.arrow", "c.arrow", "d.json", "e.csv"):
        examples = read_examples([name], "auto", None, tmp_path)
        assert examples == [
            Example(BETTER),
            Example((Message("user", "a"), Message("assistant", "b"))),
        ], name


def test_a_broken_row_of_a_table_is_told_with_its_number(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": ""}, 3]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    with pytest.raises(InvalidInput) as caught:
        read_examples(["d.json"], "auto", None, tmp_path)
    told = [str(problem).removeprefix(f"{tmp_path}/") for problem in caught.value.problems]
    assert told == [
        "d.json: row 2: the answer is empty",
        "d.json: row 3: expected an object, found a number",
    ]
    (tmp_path / "d.csv").write_text("prompt,completion\na,b\na\n")
    with pytest.raises(
        InvalidInput, match=r"d.csv:3:1: this row has not as many cells as the header"
    ):
        read_examples(["d.csv"], "auto", None, tmp_path)
    (tmp_path / "d.parquet").write_text("no table")
    with pytest.raises(InvalidInput, match="this is not Parquet"):
        read_examples(["d.parquet"], "auto", None, tmp_path)


def test_data_of_another_form_than_the_objectives_is_refused() -> None:
    check_forms([Example(BETTER)], ("messages", "alpaca"), "a.jsonl")
    with pytest.raises(
        UsageError,
        match=r"a.jsonl holds data of the form messages; the objective learns from preference",
    ):
        check_forms([Example(BETTER, rejected=WORSE), Example(BETTER)], ("preference",), "a.jsonl")


def test_alpaca_input_follows_the_instruction(tmp_path: Path) -> None:
    line = json.dumps({"instruction": "Translate.", "input": "chat", "output": "cat"})
    assert read(tmp_path, line)[0].messages[0] == Message("user", "Translate.\n\nchat")


def test_the_system_prompt_goes_to_those_that_bring_none(tmp_path: Path) -> None:
    own = {"messages": [{"role": "system", "content": "Own."}, *CHAT["messages"]]}
    examples = read(tmp_path, f"{json.dumps(CHAT)}\n{json.dumps(own)}", system="Given.")
    assert [example.messages[0] for example in examples] == [
        Message("system", "Given."),
        Message("system", "Own."),
    ]


def test_byte_order_mark_carriage_returns_and_blank_lines_do_no_harm(tmp_path: Path) -> None:
    line = json.dumps(CHAT).encode()
    assert len(read(tmp_path, b"\xef\xbb\xbf\r\n" + line + b"\r\n\r\n  \r\n" + line)) == 2


def test_globs_are_sorted_and_no_file_is_read_twice(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"prompt": name, "completion": "x"}))
    examples = read_examples(
        ["c.jsonl", "*.jsonl", str(tmp_path / "a.jsonl")], "auto", None, tmp_path
    )
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
        (
            '{"messages": [{"role": "user", "content": "x"}]}',
            "the last message must be the assistant's",
        ),
        (
            '{"messages": [{"role": "gpt", "content": "x"}]}',
            "messages.0.role: expected system or user or assistant",
        ),
        ('{"messages": [{"role": "gpt", "content": "x"}]}', "did you mean `assistant`?"),
        (
            '{"messages": [{"role": "user", "content": ["x"]}]}',
            "messages.0.content: expected text, found a list",
        ),
        ('{"messages": [{"role": "user", "text": "x"}]}', "messages.0: `content` is missing"),
        (
            json.dumps({"messages": [CHAT["messages"][0], {"role": "assistant", "content": " "}]}),
            "the answer is empty",
        ),
        (json.dumps(CHAT).replace("Chad", r"\ud800"), "half a character"),
    ],
)
def test_a_broken_line_is_told_with_its_number(tmp_path: Path, line: str, words: str) -> None:
    (problem,) = refusals(
        tmp_path, f"{json.dumps(CHAT)}\n\n{line}\n{json.dumps(CHAT)}\n", "messages"
    )
    assert (problem.file, problem.line) == (str(tmp_path / "d.jsonl"), 3)
    assert words in str(problem)


def test_wrong_fields_of_the_other_formats_are_told(tmp_path: Path) -> None:
    (problem,) = refusals(tmp_path, '{"prompt": "x", "completion": null}')
    assert "completion: expected text, found null" in str(problem)
    (problem,) = refusals(tmp_path, '{"instruction": "x", "output": "y", "input": 3}')
    assert "input: expected text, found a number" in str(problem)


def test_a_file_in_no_known_format_is_told_once(tmp_path: Path) -> None:
    (problem,) = refusals(tmp_path, '{"dialogue": []}\n' * 5)
    assert problem.line == 1
    assert problem.hint == "say `data.format`, or rename the keys"


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
