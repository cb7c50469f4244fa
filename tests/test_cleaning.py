"""`data.steps`: every row that is changed or left out has its reason, and nothing else bears on the
outcome."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from assay.engines.data import learned_rows
from assay.engines.data.cleaning.duplicates import candidates
from assay.engines.data.cleaning.rows import example_of, record_of
from assay.engines.data.reading.examples import Example, Message
from assay.engines.data.reading.sources import read_examples
from assay.errors import UsageError
from assay.spec.data import DataSpec
from cleaned import Cleaned, cleaned, write


def texts(folder: Path, *values: str) -> None:
    write(folder / "train.jsonl", ({"text": value} for value in values))


def pretrain(folder: Path, *steps: object, **data: object) -> Cleaned:
    return cleaned(folder, list(steps), objective="pretrain", **data)


@pytest.mark.parametrize(
    "example",
    [
        Example((Message("system", "s"), Message("user", "q"), Message("assistant", "a"))),
        Example(
            (Message("user", "q"), Message("assistant", "a")),
            rejected=(Message("user", "q"), Message("assistant", "b")),
        ),
        Example((Message("user", "q"), Message("assistant", "a")), label=False),
        Example((Message("user", "a text"),), label="a class"),
        Example(text="plain"),
    ],
)
def test_every_form_is_read_back_as_it_was_written(tmp_path: Path, example: Example) -> None:
    write(tmp_path / "one.jsonl", [{**record_of(example), "row": "0" * 16, "at": "x:1"}])
    assert read_examples(["one.jsonl"], "auto", None, tmp_path) == [example]
    assert example_of(record_of(example)) == example


def test_repair_mends_and_leaves_what_is_right(tmp_path: Path) -> None:
    right = "\u201c引用\u201d，全角（ＡＢＣ）！ 1 < 2"
    texts(tmp_path, "schÃ¶n  \n\n\n\næµ‹è¯•", "a\u0000b\ufeff\u200bc", right, "漢字與電腦")
    found = pretrain(tmp_path, "repair")
    assert found.texts() == ["schön\n\n测试", "abc", right, "漢字與電腦"]
    assert found.reason("train.jsonl:1")["counts"] == {"unicode": 1, "whitespace": 1}
    assert found.reason("train.jsonl:2")["counts"] == {"control": 1}
    assert len(found.reasons) == found.steps["repair"].num_changed == 2


def test_repair_simplifies_and_takes_text_out_of_html_where_asked(tmp_path: Path) -> None:
    page = "<html><nav><a href='/'>Home</a></nav><p>The <b>text</b>.</p></html>"
    texts(tmp_path, "漢字與電腦", page, "if a < b and List<String> c")
    found = pretrain(tmp_path, {"repair": {"simplify": True, "html": True}})
    assert found.texts() == ["汉字与电脑", "The text.", "if a < b and List<String> c"]


def test_what_is_empty_after_a_step_goes_with_a_reason(tmp_path: Path) -> None:
    texts(tmp_path, "\u200b\ufeff", "stays")
    found = pretrain(tmp_path, "repair")
    assert found.texts() == ["stays"]
    assert found.reason("train.jsonl:1")["action"] == "dropped"
    assert found.steps["repair"].dropped == {"empty": 1}


def test_select_says_by_which_rule_a_row_goes(tmp_path: Path) -> None:
    texts(
        tmp_path,
        "This is a sentence in the English language.",
        "Dies ist ein Satz in deutscher Sprache, und er ist lang genug.",
        "这是一个用中文写的句子，大家都能看懂。",
        "short",
        "This English sentence holds a SECRET word that nobody may read.",
        "\n".join(["the same line again"] * 5),
    )
    rules = {"languages": ["en", "zh"], "min_words": 2, "not_matching": "SECRET"}
    found = pretrain(tmp_path, {"select": {**rules, "quality": ["gopher_repetition"]}})
    assert [text[:4] for text in found.texts()] == ["This", "这是一个"]
    assert found.steps["select"].dropped == {
        "gopher_repetition": 1,
        "language": 1,
        "length": 1,
        "not_matching": 1,
    }
    assert "language de" in found.reason("train.jsonl:2")["why"]


def chats(*turns: tuple[str, str]) -> list[dict[str, object]]:
    return [{"prompt": asked, "completion": answer} for asked, answer in turns]


def test_of_equal_rows_the_first_stays_and_the_reason_names_it(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", chats(("one?", "1"), ("two?", "2"), ("one?", "1")))
    write(tmp_path / "b.jsonl", chats(("two?", "2"), ("two?", "another"), ("sealed?", "s")))
    write(tmp_path / "gate.jsonl", chats(("sealed?", "s")))
    found = cleaned(
        tmp_path,
        [{"deduplicate": {"near": None}}],
        train=["a.jsonl", "b.jsonl"],
        gate="gate.jsonl",
    )
    assert {source: len(rows) for source, rows in found.rows.items()} == {
        "a.jsonl": 2,
        "b.jsonl": 1,
    }
    proof = found.reason("a.jsonl:3")
    assert (proof["kept_at"], proof["similarity"]) == ("a.jsonl:1", 1.0)
    assert proof["row"] == proof["kept"] == found.rows["a.jsonl"][0]["row"]
    assert found.reason("b.jsonl:3")["kept_at"] == "gate.jsonl:1"
    assert found.steps["deduplicate"].dropped == {
        "equal": 3,
        "held_out": 1,
        "of_another_source": 1,
    }


ORDER = "Please tell me how I can return the blue garden chair that I bought from your shop in {} on the {} of last month, because its left arm is loose and the paint comes off."
ORDER_ZH = "你们好，我上个月在{}的门店买了一把蓝色的花园椅子，左边的扶手松了，油漆也掉了，请问我应该怎么退货？收据编号是{}。"


LONG = (
    "The river comes from the hills in the north, passes the old mill, and turns west at the bridge "
    "that was built for carts. Below it lie meadows which are under water each spring, so that the "
    "farmers keep their cows on the other side until the grass is dry. In summer children swim."
)


def test_near_equal_rows_go_and_other_facts_stay(tmp_path: Path) -> None:
    first, first_zh = ORDER.format("Leeds", "3rd"), ORDER_ZH.format("上海", "8841")
    stay = [
        first,
        ORDER.format("Bristol", "3rd"),  # another name
        ORDER.format("Leeds", "4th"),  # another number
        first.replace("can return", "can not return"),
        first.replace("blue", "green"),
        first.replace("its left", "its upper left"),  # a word more
        first_zh,
        ORDER_ZH.format("北京", "8841"),
        ORDER_ZH.format("上海", "8842"),
        first_zh.replace("松了", "没松"),
        first_zh.replace("门店", "万达门店"),
        LONG,
    ]
    go = [
        first.replace("Please tell me", "Hello, tell me please,").upper().capitalize(),
        first.replace("because its", "because, its").rstrip(".") + "!",
        first.replace("left arm", "left arm now"),
        LONG.replace("from the hills", "down from the hills"),
        first_zh.replace("，", "、").replace("请问", "") + "谢谢！",
        first_zh.replace("我应该怎么", "我应该 怎么"),
    ]
    texts(tmp_path, *stay, *go)
    found = pretrain(tmp_path, "deduplicate")
    assert found.texts() == stay
    kept = {reason["kept_at"] for reason in found.reasons}
    assert kept == {"train.jsonl:1", "train.jsonl:7", "train.jsonl:12"}
    assert all(0.8 <= reason["similarity"] <= 1 for reason in found.reasons)
    assert "1 x filler" in found.reason("train.jsonl:15")["why"]
    assert "1 x word more or fewer" in found.reason("train.jsonl:16")["why"]


def test_other_labels_and_other_signs_are_no_duplicates(tmp_path: Path) -> None:
    rows = [{"text": "is a < b when c", "label": "yes"}, {"text": "is a < b when c", "label": "no"}]
    write(tmp_path / "train.jsonl", [*rows, {"text": "is a > b when c", "label": "yes"}])
    found = cleaned(tmp_path, ["deduplicate"], objective="classify")
    assert len(found.rows["train.jsonl"]) == 3


def test_a_slip_of_the_pen_is_told_from_another_word(tmp_path: Path) -> None:
    said = "we would like to {} our {} in the old town before the winter begins again"
    many = [
        f"note {number}: the house with the horse was sold, says page {number}"
        for number in range(40)
    ]
    texts(
        tmp_path,
        said.format("visit", "house"),
        said.format("visit", "hosue"),
        said.format("visit", "horse"),
        *many,
    )
    found = pretrain(tmp_path, "deduplicate")
    assert [reason["at"] for reason in found.reasons] == ["train.jsonl:2"]


def test_pairs_of_a_template_that_are_not_compared_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates, "MOST_BEFORE", 2)
    cities = ("Leeds", "Ghent", "Oslo", "Porto", "Lyon", "Graz", "Basel", "Turin")
    texts(tmp_path, *(ORDER.format(city, "3rd") for city in cities))
    found = pretrain(tmp_path, "deduplicate")
    assert len(found.texts()) == len(cities)
    assert "made of one template were not compared" in found.steps["deduplicate"].note


def messy(folder: Path, num: int) -> None:
    """Rows that every step has something to do with."""
    rows = []
    for number in range(num):
        asked = f"Where is parcel {number % (num // 2)}?\u200b My mail is user{number}@mail.test"
        rows.append({"prompt": asked, "completion": f"It is in row {number % 7}."})
    write(folder / "train.jsonl", rows)


STEPS: list[object] = [
    "repair",
    {"mask": {"by": "pseudonym"}},
    "deduplicate",
    {"select": {"not_matching": "row 3"}},
    {"deduplicate": {"near": None}},
    {"augment": {"noise": 0.3, "share": 0.5}},
    {"select": {"max_words": 30}},
]


class Stopped(Exception):
    """Stands for a process that is killed."""


def stopping_after(num_calls: int) -> Callable[..., Iterator[Any]]:
    """Calls functions as `starmap` does, so many times in all."""
    left = [num_calls]

    def each(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
        for arguments in calls:
            if not left[0]:
                raise Stopped
            left[0] -= 1
            yield function(*arguments)

    return each


def test_shards_kills_and_order_of_work_do_not_bear_on_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messy(tmp_path, 60)
    whole = cleaned(tmp_path, STEPS, scratch="whole")
    assert whole.steps["deduplicate"].num_dropped == 0  # every row has a pseudonym of its own
    assert whole.steps["augment"].made["noise"] > 5
    monkeypatch.setattr(learned_rows, "BLOCK_ROWS", 7)
    assert cleaned(tmp_path, STEPS, scratch="shards").content == whole.content
    num_stops = 0
    while True:
        try:
            again = cleaned(tmp_path, STEPS, each=stopping_after(4), scratch="killed")
        except Stopped:
            num_stops += 1
        else:
            break
    assert num_stops > 5
    assert again.content == whole.content

    def backwards(function: Callable[..., Any], calls: Iterable[tuple[Any, ...]]) -> list[Any]:
        return list(starmap(function, reversed(list(calls))))

    assert cleaned(tmp_path, STEPS, each=backwards, scratch="backwards").content == whole.content


def test_what_is_masked_stands_nowhere(tmp_path: Path) -> None:
    messy(tmp_path, 20)
    found = cleaned(tmp_path, ["deduplicate", {"mask": {"kinds": ["email"]}}])
    assert not any(b"mail.test" in content for content in found.content.values())
    assert found.steps["mask"].changed == {"email": 20}


def test_users_own_step_is_run_by_its_digest_alone(tmp_path: Path) -> None:
    write(tmp_path / "train.jsonl", chats(("a", "keep"), ("b", "drop"), ("c", "shout")))
    file = tmp_path / "own.py"
    file.write_text(
        "def step(example):\n"
        "    *_, last = example['messages']\n"
        "    if last['content'] == 'drop':\n"
        "        return 'not wanted here'\n"
        "    if last['content'] == 'shout':\n"
        "        last['content'] = 'SHOUT'\n"
        "    return example\n"
    )
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    steps: list[object] = [{"function": {"file": "own.py", "sha256": digest}}]
    found = cleaned(tmp_path, steps)
    assert found.texts() == ["keep", "SHOUT"]
    assert found.reason("train.jsonl:2")["why"] == "not wanted here"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(UsageError, match="read what has changed"):
        cleaned(tmp_path, steps, scratch="changed")


def test_a_spec_without_steps_is_written_as_before() -> None:
    plain = DataSpec.model_validate({"train": "a.jsonl"})
    assert "steps" not in plain.model_dump()
    with pytest.raises(ValidationError, match="choose one step"):
        DataSpec.model_validate({"train": "a.jsonl", "steps": [{"repair": {}, "mask": {}}]})
    with pytest.raises(ValidationError, match="not a regular expression"):
        DataSpec.model_validate({"train": "a.jsonl", "steps": [{"select": {"matching": "("}}]})


def test_reasons_hold_nothing_of_the_text(tmp_path: Path) -> None:
    texts(tmp_path, "call 13800138000 now", "call 13800138000 now")
    found = pretrain(tmp_path, "mask", "deduplicate")
    assert found.steps["deduplicate"].num_dropped == 1
    assert "13800138000" not in json.dumps(found.reasons)
