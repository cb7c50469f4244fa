"""`assay data register`, `registry:NAME@VERSION` and `feedback:NAME` as sources of a spec."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import ValidationError

from assay.cli.main import assay
from assay.engines.data import feedback, registry, remote
from assay.engines.data.reading.examples import Example
from assay.engines.data.reading.sources import stream_rows
from assay.errors import IntegrityError, InvalidInput, UsageError
from assay.flow.pipeline.keys import data_digests
from assay.spec.data import DataSpec
from cleaned import write

ROWS: list[dict[str, object]] = [
    {"prompt": f"Question {number}?", "completion": f"Answer {number}: 是的"}
    for number in range(25)
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ASSAY_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def examples(pattern: str, root: Path) -> list[Example]:
    fetched = remote.fetch_all([pattern], root / "copies")
    return [row.example for row in stream_rows([pattern], "auto", None, root, fetched)]


def test_a_version_is_what_was_read_and_the_same_examples_are_the_same_version(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "ROWS_AT_ONCE", 10)
    monkeypatch.setattr(registry, "SHARD_BYTES", 100)
    write(tmp_path / "a.jsonl", ROWS[:10])
    write(tmp_path / "b.jsonl", ROWS[10:])
    write(tmp_path / "whole.jsonl", ROWS)
    read = [row.example for row in stream_rows(["whole.jsonl"], "auto", None, tmp_path)]
    said = CliRunner().invoke(assay, ["data", "register", "faq", "a.jsonl", "b.jsonl"])
    source = said.output.splitlines()[0]
    assert examples(source, tmp_path) == read
    again = CliRunner().invoke(assay, ["data", "register", "faq", "whole.jsonl"])
    assert again.output.splitlines()[0] == source
    listed = json.loads(CliRunner().invoke(assay, ["data", "versions", "--json"]).output)
    assert [one["num_rows"] for one in listed] == [25]
    assert [shard["num_rows"] for shard in listed[0]["shards"]] == [10, 10, 5]
    spec = DataSpec.model_validate({"train": source})
    assert data_digests(spec, tmp_path) == {source: listed[0]["digest"]}


def test_changed_bytes_and_unknown_versions_are_refused(tmp_path: Path, home: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    made = registry.register(home, "faq", ["a.jsonl"], "auto", tmp_path)
    (shard,) = registry.shards(home, "faq", made.version)
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="not as it was registered"):
        examples(f"registry:faq@{made.version}", tmp_path)
    with pytest.raises(UsageError, match=made.version):
        examples(f"registry:faq@{'0' * 16}", tmp_path)
    with pytest.raises(ValidationError, match="NAME@VERSION"):
        DataSpec.model_validate({"train": "registry:faq"})


def test_two_forms_are_no_version_and_leave_nothing(tmp_path: Path, home: Path) -> None:
    write(tmp_path / "a.jsonl", ROWS)
    write(tmp_path / "b.jsonl", [{"text": "plain"}])
    with pytest.raises(UsageError, match="cannot be one version"):
        registry.register(home, "faq", ["a.jsonl", "b.jsonl"], "auto", tmp_path)
    assert list((home / "registry" / "faq").iterdir()) == []


def vote(voter: str, answer: str, value: int, **more: str) -> dict[str, object]:
    return {"question": "Open on Sunday?", "answer": answer, "vote": value, "voter": voter, **more}


def write_feedback(home: Path, lines: list[dict[str, object]]) -> None:
    (home / "feedback").mkdir(parents=True, exist_ok=True)
    write(home / "feedback" / "shop.jsonl", lines)


def answers(root: Path) -> list[str]:
    return [example.messages[-1].content for example in examples("feedback:shop", root)]


@pytest.mark.parametrize(
    ("lines", "learned"),
    [
        ([vote("a", "Yes.", 1), vote("b", "Yes.", 1), vote("c", "No.", 1)], ["Yes."]),
        # The last vote of one who votes often is the one that counts.
        ([vote("a", "No.", 1)] * 9 + [vote("b", "Yes.", 1), vote("c", "Yes.", 1)], ["Yes."]),
        ([vote("a", "Yes.", -1, correction="No."), vote("b", "Yes.", 0)], ["No."]),
    ],
)
def test_what_most_voters_are_for_is_learned(
    lines: list[dict[str, object]], learned: list[str], tmp_path: Path, home: Path
) -> None:
    write_feedback(home, lines)
    assert answers(tmp_path) == learned


def test_nothing_is_learned_where_voters_disagree(tmp_path: Path, home: Path) -> None:
    write_feedback(home, [vote("a", "Yes.", 1), vote("b", "Yes.", -1)])
    with pytest.raises(UsageError, match="no answer has more votes"):
        answers(tmp_path)


def test_one_voter_cannot_drive_the_data(tmp_path: Path, home: Path) -> None:
    flood = [
        {"question": f"Question {number}?", "answer": "Buy now!", "vote": 1, "voter": "mallory"}
        for number in range(500)
    ]
    write_feedback(home, [*flood, vote("a", "Yes.", 1)])
    found = answers(tmp_path)
    assert found.count("Buy now!") == feedback.VOTES_OF_ONE
    assert found[-1] == "Yes."


def test_broken_feedback_is_told_with_its_lines(tmp_path: Path, home: Path) -> None:
    write_feedback(home, [vote("a", "Yes.", 1), vote("", "Yes.", 1), vote("a", "Yes.", 7)])
    with pytest.raises(InvalidInput) as told:
        answers(tmp_path)
    assert [problem.line for problem in told.value.problems] == [2, 3]
