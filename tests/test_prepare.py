"""Splits, weights and the rows that objectives are given; and data that lie elsewhere."""

import json
import os
import random
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from assay.engines.data import remote
from assay.engines.data.chats.tokens import Row
from assay.engines.data.learned_rows import ListDigest, Part
from assay.engines.data.reading.examples import Example, Message
from assay.engines.data.splits import Splits, SplitSource
from assay.errors import AssayError, UsageError
from assay.records.record import digest_of
from assay.spec.data import DataSpec
from assay.spec.objective import ObjectiveSpec
from assay.stages.prepare import GateTask, _blocks
from servers import serving


def write(file: Path, records: list[dict[str, object]]) -> None:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


@dataclass
class Found:
    """What came of the splits."""

    splits: Splits
    train: list[Row]
    selection: list[Row]


def splits(
    folder: Path,
    objective: str | dict[str, object],
    sealed: frozenset[str] = frozenset(),
    **data: object,
) -> Found:
    spec, wanted = (
        DataSpec.model_validate({"train": "*.jsonl", **data}),
        ObjectiveSpec.model_validate(objective),
    )
    found = Splits(SplitSource(spec, folder, {}), wanted, sealed)
    rows: dict[str, list[Row]] = {"train": [], "selection": []}
    parts = {name: Part(wanted, found.labels) for name in rows}
    gate = GateTask(folder / "gate")
    for name, block in _blocks(found.examples(), parts, gate, seals_what_fits=False):
        rows[name] += block
    gate.close()
    return Found(found, **rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "a.jsonl", [{"prompt": f"a{i}", "completion": "x"} for i in range(100)])
    write(tmp_path / "b.jsonl", [{"prompt": f"b{i}", "completion": "x"} for i in range(100)])
    return tmp_path


def test_weights_repeat_and_thin_out(folder: Path) -> None:
    found = splits(
        folder,
        "sft",
        train=["a.jsonl", "b.jsonl"],
        weights={"a.jsonl": 2.5, "b.jsonl": 0.3},
        selection=0,
    )
    sources = found.splits.sources
    assert 235 <= sources["a.jsonl"] <= 265
    assert 15 <= sources["b.jsonl"] <= 45
    assert sources["a.jsonl"] + sources["b.jsonl"] == len(found.train)


def test_what_asks_a_sealed_question_is_left_out(folder: Path) -> None:
    found = splits(folder, "sft", frozenset({"a7", "b3"}), selection=0.5)
    asked = {row.chats[0][0]["content"] for row in (*found.train, *found.selection)}
    assert asked.isdisjoint({"a7", "b3"})
    assert (len(asked), found.splits.fates["in_gate"]) == (198, 2)


def test_a_label_becomes_the_answer_to_a_question(tmp_path: Path) -> None:
    write(
        tmp_path / "a.jsonl", [{"text": f"t{i}", "label": ("good", "bad")[i % 2]} for i in range(4)]
    )
    found = splits(tmp_path, "classify", selection=0)
    first = found.train[0].chats[0]
    assert first[0]["content"] == "Which of these is it: bad, good?\n\nt0"
    assert first[1]["content"] == "good"
    rows = splits(tmp_path, {"classify": {"head": "linear"}}, selection=0).train
    assert [row.label for row in rows] == [1, 0, 1, 0]
    assert rows[0].chats[0] == [{"role": "user", "content": "t0"}]


def test_a_kto_example_is_paired_with_anothers_answer(tmp_path: Path) -> None:
    write(
        tmp_path / "a.jsonl",
        [{"prompt": f"q{i}", "completion": f"a{i}", "label": i < 1} for i in range(3)],
    )
    rows = splits(tmp_path, "kto", selection=0).train
    assert [[chat[-1]["content"] for chat in row.chats] for row in rows] == [
        ["a0", "a1"],
        ["a1", "a2"],
        ["a2", "a0"],
    ]
    assert [row.label for row in rows] == [1, 0, 0]


def test_a_split_does_not_depend_on_where_its_blocks_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = splits(folder, "sft", gate=0.1, selection=0.2)
    (folder / "gate").rename(folder / "gate-before")
    monkeypatch.setattr("assay.engines.data.learned_rows.BLOCK_ROWS", 7)
    found = splits(folder, "sft", gate=0.1, selection=0.2)
    assert (found.train, found.selection) == (whole.train, whole.selection)
    assert len(found.train) + len(found.selection) < found.splits.num_examples == 200
    kept = [(folder / name / "heldout.jsonl").read_text() for name in ("gate", "gate-before")]
    assert kept[0] == kept[1]


def test_what_is_held_out_in_a_file_of_its_own_is_not_trained_on(folder: Path) -> None:
    write(folder / "held", [{"prompt": f"a{i}", "completion": "x"} for i in range(10)])
    (folder / "held").rename(folder / "selection.json")
    found = splits(folder, "sft", selection=["selection.json"])
    assert (len(found.train), len(found.selection), found.splits.fates["duplicate"]) == (
        190,
        10,
        10,
    )


def test_the_digest_of_a_stream_is_that_of_the_list() -> None:
    digest, texts = ListDigest(), ["a", "b"]
    for text in texts:
        digest.add(Example((Message("user", text), Message("assistant", text))))
    listed = [
        [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
        for text in texts
    ]
    assert digest.hex() == digest_of(listed)


def test_data_of_the_wrong_form_are_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="the objective learns from preference"):
        splits(folder, "dpo")


def test_a_url_is_fetched_and_its_mark_follows_its_content(folder: Path, tmp_path: Path) -> None:
    pattern = f"file://{folder}/*.jsonl"
    files = remote.fetch(pattern, tmp_path / "copies")
    assert [file.read_bytes() for file in files] == [
        (folder / name).read_bytes() for name in ("a.jsonl", "b.jsonl")
    ]
    before = remote.mark(pattern)
    assert remote.mark(pattern) == before
    write(folder / "b.jsonl", [{"prompt": "other", "completion": "y"}])
    assert remote.mark(pattern) != before
    with pytest.raises(UsageError, match="there is no such file"):
        remote.mark(f"file://{folder}/none.jsonl")
    with pytest.raises(UsageError, match="cannot be read"):
        remote.mark("nosuch://bucket/a.jsonl")


def test_a_web_server_serves_data(folder: Path, tmp_path: Path) -> None:
    """One file, the files of its listing that match, and a change that leaves the length as it
    was."""
    with serving(partial(SimpleHTTPRequestHandler, directory=str(folder))) as server:
        url = f"http://127.0.0.1:{server.port}"
        for pattern, names in (
            (f"{url}/b.jsonl", ["b.jsonl"]),
            (f"{url}/*.jsonl", ["a.jsonl", "b.jsonl"]),
        ):
            files = remote.fetch(pattern, tmp_path / f"copies-{len(names)}")
            assert [file.read_bytes() for file in files] == [
                (folder / name).read_bytes() for name in names
            ]
        before = remote.mark(f"{url}/*.jsonl")
        (folder / "a.jsonl").write_text((folder / "a.jsonl").read_text().replace("x", "y"))
        os.utime(folder / "a.jsonl", (0, 0))  # the server tells whole seconds
        after = remote.mark(f"{url}/*.jsonl")
        assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]
        with pytest.raises(UsageError, match="there is no such file"):
            remote.mark(f"{url}/none.jsonl")
    with pytest.raises(AssayError, match=r"jsonl.*(no such file|cannot be read)"):
        remote.fetch(f"{url}/a.jsonl", tmp_path / "gone")


def test_data_in_a_store_of_objects(folder: Path, tmp_path: Path) -> None:
    """fsspec's own one, in memory: a new mark when it is written anew."""
    import fsspec

    def put(text: str) -> None:
        with fsspec.open("memory://bucket/part-0.jsonl", "w") as file:
            file.write(text)

    text = (folder / "a.jsonl").read_text()
    put(text)
    before = remote.mark("memory://bucket/part-*.jsonl")
    (copy,) = remote.fetch("memory://bucket/part-*.jsonl", tmp_path / "copies")
    assert copy.read_text() == text
    put(text.replace("x", "y"))
    assert remote.mark("memory://bucket/part-*.jsonl") != before


def test_a_split_of_a_data_set_becomes_a_table(folder: Path, tmp_path: Path) -> None:
    """The hub's own library reads it; a folder stands for the hub here."""
    from assay.engines.data.reading.sources import read_examples

    (tmp_path / "set").mkdir()
    (folder / "a.jsonl").rename(tmp_path / "set" / "test.jsonl")
    remote._from_hub(str(tmp_path / "set"), None, "test", tmp_path / "split.parquet")
    assert len(read_examples(["split.parquet"], "auto", None, tmp_path)) == 100
    with pytest.raises(UsageError, match="cannot be read"):
        remote._from_hub(str(tmp_path / "set"), None, "nosuch", tmp_path / "split.parquet")


WORDS = [f"word{number}" for number in range(400)]


def letter(number: int, *, ending: str = "") -> str:
    """A text of sixty words that no other number has in common with it."""
    drawn = random.Random(number)
    return " ".join(drawn.choice(WORDS) for _ in range(60)) + ending


def drawn_texts(
    folder: Path, records: list[dict[str, object]], **data: object
) -> dict[str, list[str]]:
    """What each split holds: the user's texts."""
    write(folder / "a.jsonl", records)
    spec, objective = (
        DataSpec.model_validate({"train": "a.jsonl", **data}),
        ObjectiveSpec.model_validate("sft"),
    )
    found: dict[str, list[str]] = {"train": [], "selection": [], "gate": []}
    found_splits = Splits(SplitSource(spec, folder, {}), objective, frozenset())
    for split, example in found_splits.examples():
        found[split].append(example.messages[0].content)
    return found


def test_texts_that_are_alike_are_never_parted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each letter thrice: as it is, in other writing, and with another end and another answer."""
    records: list[dict[str, object]] = []
    for number in range(150):
        first = letter(number)
        for text in (first, f"  {first.upper()}!", letter(number, ending=f" reference {number}")):
            records.append({"prompt": text, "completion": f"answer {len(records)}"})
    found = drawn_texts(tmp_path, records, gate=0.2, selection=0.2)
    home = {text: split for split, texts in found.items() for text in texts}
    parted = [
        n
        for n in range(150)
        if len({home[str(record["prompt"])] for record in records[3 * n : 3 * n + 3]}) > 1
    ]
    assert not parted
    assert 45 <= len(found["gate"]) <= 135
    monkeypatch.setattr("assay.engines.data.learned_rows.BLOCK_ROWS", 7)
    again = drawn_texts(tmp_path, records[::-1], gate=0.2, selection=0.2)
    assert {split: sorted(texts) for split, texts in again.items()} == {
        k: sorted(v) for k, v in found.items()
    }


@pytest.mark.parametrize("same", ["question", "instruction"])
def test_what_most_examples_share_makes_no_group_of_them(tmp_path: Path, same: str) -> None:
    form = letter(1000) if same == "instruction" else "Write a line of verse."
    records: list[dict[str, object]] = [
        {
            "prompt": f"{form} {number}" if same == "instruction" else form,
            "completion": f"{letter(number)}",
        }
        for number in range(300)
    ]
    found = drawn_texts(tmp_path, records, gate=0.2, selection=0)
    assert 35 <= len(found["gate"]) <= 85


def test_what_quotes_a_sealed_example_is_not_trained_on(tmp_path: Path) -> None:
    asked = [
        {"prompt": f"Where does number {n} of the many roads end?", "completion": f"At {n}."}
        for n in range(200)
    ]
    quoting = [
        {
            "prompt": f"{letter(n)} > {one['prompt']} > {one['completion']} What of it?",
            "completion": "Nothing.",
        }
        for n, one in enumerate(asked)
    ]
    found = drawn_texts(tmp_path, [*asked, *quoting], gate=0.1, selection=0)
    for sealed in found["gate"]:
        assert not [text for text in found["train"] if f" > {sealed} >" in text]
    num_sealed_questions = sum(text.startswith("Where") for text in found["gate"])
    assert num_sealed_questions > 5
    assert sum(map(len, found.values())) < 400


def test_the_most_samples_are_the_same_ones_wherever_they_stand(tmp_path: Path) -> None:
    records: list[dict[str, object]] = [
        {"prompt": letter(number), "completion": "x"} for number in range(100)
    ]
    few = drawn_texts(tmp_path, records, selection=0.1, max_samples=20)
    more = drawn_texts(tmp_path, records[::-1], selection=0.1, max_samples=40)
    assert (sum(map(len, few.values())), sum(map(len, more.values()))) == (20, 40)
    for split, texts in few.items():
        assert set(texts) <= set(more[split])
    all_of_them = drawn_texts(tmp_path, records, selection=0.1, max_samples=1000)
    assert sum(map(len, all_of_them.values())) == 100
