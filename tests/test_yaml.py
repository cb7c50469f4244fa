"""Reading YAML: what scalars mean, where things stand, and what is refused."""

import time

import pytest

from assay.errors import InvalidInput, Problem
from assay.loader.yaml.reader import MAX_BYTES, Value, read_yaml


def refusals(text: str | bytes) -> list[Problem]:
    """All that is said against a text."""
    try:
        return read_yaml(text if isinstance(text, bytes) else text.encode(), "f.yaml").problems
    except InvalidInput as error:
        return error.problems


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-5", 1e-5),
        ("2E3", 2000.0),
        (".5", 0.5),
        ("-3", -3),
        ("010", 10),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("none", "none"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("5%", "5%"),
        ('"1"', "1"),
        ("'true'", "true"),
        ("|\n  1\n", "1\n"),
    ],
)
def test_scalars_mean_what_yaml_1_2_says(written: str, value: Value) -> None:
    read = read_yaml(f"key: {written}".encode(), "f.yaml").value
    assert isinstance(read, dict)
    assert read["key"] == value
    assert type(read["key"]) is type(value)


def test_keys_and_values_know_their_places() -> None:
    text = "\ufefftrain:\r\n  steps: [1, {é: x}]\r\n  base: &b 3\r\n  again: *b\r\n"
    document = read_yaml(text.encode(), "f.yaml")
    assert document.value == {"train": {"steps": [1, {"é": "x"}], "base": 3, "again": 3}}
    positions = document.positions
    assert positions.of_key(("train", "steps"))[1:] == (2, 3)
    assert positions.of_value(("train", "steps", 1, "é"))[1:] == (2, 18)
    assert positions.of_value(("train", "again"))[1:] == (4, 10)
    assert positions.of_value(("train", "steps", 7, "unheard", "of"))[1:] == (2, 3)
    assert positions.of_value(("elsewhere",))[1:] == (1, 1)


@pytest.mark.parametrize(
    ("text", "line", "column", "words"),
    [
        ("a: 1\nb:\n\tc: 2\n", 3, 1, "a tab in the indentation"),
        ("a: b: c\n", 1, 5, "a colon that cannot stand here"),
        ("a: 1\nb: [1, 2\nc: 3\n", 2, 4, "is not closed with `]`"),
        ("a: {b: 1\n", 1, 4, "is not closed with `}`"),
        ('a: 1\nb: "x\n', 2, 4, "the quote that opens here is never closed"),
        ("a: 1\nb\nc: 2\n", 2, 1, "a colon is missing"),
        ("train: *.jsonl\n", 1, 8, "put it in quotes"),
        ("a: *nobody\n", 1, 4, "names nothing"),
        ("a: &a [*a]\n", 1, 8, "inside the very value"),
        ("a: @x\n", 1, 4, "put it in quotes"),
        ("a:\n  b: 1\n c: 2\n", 3, 2, "check the indentation"),
        ("a: 1\na: 2\n", 2, 1, "written twice"),
        (
            "a: !!python/object/apply:os.system [ls]\n",
            1,
            4,
            "tag `!!python/object/apply:os.system` is refused",
        ),
        ("a: !function x\n", 1, 4, "tag `!function` is refused"),
        ("<<: {a: 1}\n", 1, 1, "merge keys"),
        ("1: a\n", 1, 1, "a key must be text"),
        ("? [a]\n: b\n", 1, 3, "a key must be text"),
        ("a: 1\n---\nb: 2\n", 2, 1, "several documents"),
        ("a: x\x07\n", 1, 5, "control character U+0007"),
        ("a: 1\nb: x\u2028y\n", 2, 5, "control character U+2028"),
        ("a: 1\rb: 2\n", 1, 5, "control character U+000D"),
        ('a: "x\\0"\n', 1, 4, "control character"),
        ('a: "\\ud800"\n', 1, 7, "an escape that is no character"),
        (b"a: 1\nb: \xff\n", 2, 4, "not UTF-8"),
        ("a: .nan\n", 1, 4, "not a finite number"),
        ("a: 1e999\n", 1, 4, "too large for a number"),
        (f"a: {'9' * 5000}\n", 1, 4, "a number of more than 100 characters"),
    ],
)
def test_a_refused_text_is_told_with_its_place(
    text: str | bytes, line: int, column: int, words: str
) -> None:
    (problem,) = refusals(text)
    assert (problem.line, problem.column) == (line, column)
    assert words in f"{problem.message} ({problem.hint})"


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "more than 5,000 values"),
        ("- a\n" * 200_000, "more than 5,000 values"),
        ("[" * 500_000, "more than 50 levels"),
        ("{a: " * 100_000, "more than 50 levels"),
        ("- " * 100_000, "more than 50 levels"),
        ("a" * (MAX_BYTES + 1), "larger than 1 MiB"),
    ],
    ids=["aliases", "many", "lists", "blocks", "dashes", "bytes"],
)
def test_a_text_made_to_explode_is_refused_at_once(text: str, words: str) -> None:
    began = time.process_time()
    assert words in refusals(text)[-1].message
    assert time.process_time() - began < 2


def test_mistakes_that_do_not_stop_the_reading_are_told_together() -> None:
    assert [problem.line for problem in refusals("a: 1\na: 2\n3: x\nb: !t x\n")] == [2, 3, 4]
