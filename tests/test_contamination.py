"""What of a suite stands in the training data: planted copies, near copies, and what only looks
like one."""

import json
from pathlib import Path

import pytest

from assay.engines.data.contamination import Hit, Index, SampleText, hits_in, search
from assay.spec.suite.measured import ContaminationSpec

EVALS = Path(__file__).parents[1] / "evals" / "country-facts"
WANTED = ContaminationSpec()
LONG = (
    "a heron stood in the reeds below the bridge while the last barge of the evening went past "
    "without lights "
    "and the children on the bank counted its crew aloud until nobody could see them any more"
)


def items() -> list[SampleText]:
    """100 items of the demo's suite."""
    found = []
    for task in ("country_facts_paraphrased", "country_facts_unanswerable"):
        for line in (EVALS / f"{task}.jsonl").read_text().splitlines():
            found.append(SampleText(task, json.loads(line)["question"], json.loads(line)["answer"]))
    return found[:100]


def found_in(
    texts: list[list[str]], asked: list[SampleText], wanted: ContaminationSpec = WANTED
) -> list[Hit]:
    return list(hits_in(Index(asked, wanted), texts))


def exact(texts: list[list[str]], asked: list[SampleText]) -> set[int]:
    return {hit.item for hit in found_in(texts, asked) if hit.is_exact}


@pytest.mark.parametrize(
    "plant",
    [
        lambda item: [item.question, item.answer],
        lambda item: [
            "You are helpful.",
            item.question.upper() + "!!",
            f"  {item.answer.lower()} ",
        ],
        lambda item: [f"{LONG} {item.question} {item.answer} {LONG}"],
        lambda item: [f"Please tell me. {item.question}", f"Gladly: {item.answer}"],
    ],
)
def test_a_hundred_planted_copies_are_found_a_hundred_times(plant: object) -> None:
    planted = [plant(item) for item in items()]  # type: ignore[operator]
    assert exact(planted, items()) == set(range(100))


def test_training_data_of_the_same_kind_is_clean() -> None:
    file = EVALS.parents[1] / "specs" / "country-facts" / "answers.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    texts = [[line["prompt"], line["completion"]] for line in lines]
    assert exact(texts, items()) == set()


def test_the_question_with_another_answer_is_near() -> None:
    (hit,) = found_in(
        [["Which river flows through the old town of Arlen?", "The Wend."]], [question()]
    )
    assert (hit.is_exact, hit.similarity) == (False, 1.0)


def question() -> SampleText:
    return SampleText("rivers", "Which river flows through the old town of Arlen?", "The Sill")


def test_a_small_change_of_wording_is_near() -> None:
    (hit,) = found_in(
        [["Which river flows through the old city of Arlen?", "The Sill"]],
        [question()],
        looser(0.6),
    )
    assert not hit.is_exact
    assert 0.6 <= hit.similarity < 1


def looser(similarity: float) -> ContaminationSpec:
    return ContaminationSpec(similarity=similarity)


def test_thirteen_words_in_a_row_are_near() -> None:
    item = SampleText("herons", f"Summarize: {LONG}", "A barge passes a heron.")
    inside = " ".join(["before", *LONG.split()[5:18], "after"])
    (hit,) = found_in([[inside]], [item])
    assert not hit.is_exact
    assert hit.ngram == " ".join(LONG.split()[5:18])
    too_few = " ".join(["before", *LONG.split()[5:17], "after"])
    assert found_in([[too_few]], [item]) == []


def test_a_short_question_inside_a_text_is_chance() -> None:
    item = SampleText("short", "Why?", "Because")
    assert exact([["I asked him why, because I wondered."]], [item]) == set()
    assert exact([["Why?", "Because!"]], [item]) == {0}


CHINESE = [
    SampleText("capitals", "内比都是哪个国家的首都？", "缅甸"),
    SampleText("capitals", "請問紐西蘭的首都叫什麼名字？", "惠靈頓"),
    SampleText("herons", "苍鹭站在桥下的什么地方？", "桥下的芦苇丛里"),
]


@pytest.mark.parametrize(
    "plant",
    [
        lambda item: [item.question, item.answer],
        lambda item: [item.question, f"答案是{item.answer}，没有别的。"],
        lambda item: [f"请回答下面的问题：{item.question}", f"好的。我认为是{item.answer}"],
        lambda item: [f"昨天有人问我：“{item.question}”我说{item.answer}，他很高兴。"],
        lambda item: [item.question.replace("？", "?"), f" {item.answer} "],
    ],
)
def test_a_chinese_answer_inside_a_sentence_is_found(plant: object) -> None:
    planted = [plant(item) for item in CHINESE]  # type: ignore[operator]
    assert exact(planted, CHINESE) == {0, 1, 2}


def test_another_chinese_answer_is_near_and_another_question_is_none() -> None:
    (hit,) = found_in([["内比都是哪个国家的首都？", "老挝"]], CHINESE)
    assert not hit.is_exact
    assert found_in([["布拉格是捷克的首都吗？", "缅甸没有这座城市。"]], CHINESE) == []


def test_a_short_chinese_question_inside_a_text_is_chance() -> None:
    item = SampleText("short", "为什么？", "因为")
    assert exact([["我问他为什么，因为我不懂。"]], [item]) == set()
    assert exact([["为什么？", "因为！"]], [item]) == {0}


def test_as_many_chinese_letters_as_thirteen_words_have_are_near() -> None:
    passage = "一只苍鹭站在桥下的芦苇丛里看着傍晚最后一艘驳船没有亮灯就从旁边驶了过去"
    item = SampleText("herons", f"概括下面的段落：{passage}", "驳船驶过苍鹭。")
    (hit,) = found_in([[f"前面{passage[2:26]}后面"]], [item])
    assert not hit.is_exact
    assert hit.ngram.replace(" ", "") == passage[2:26]
    assert found_in([[f"前面{passage[2:25]}后面"]], [item]) == []


@pytest.mark.slow
def test_a_tokenized_split_is_read_as_the_model_is_shown_it(tmp_path: Path) -> None:
    from assay.engines.data.tokenize import write_split
    from tiny import make_model

    make_model(tmp_path / "model")
    asked = items()[:20]
    chats = [
        [{"role": "user", "content": item.question}, {"role": "assistant", "content": item.answer}]
        for item in asked[:7]
    ]
    write_split(tmp_path / "model", chats, tmp_path / "train.safetensors", max_length=256)
    found = search(
        tmp_path / "model", tmp_path / "train.safetensors", asked, WANTED, in_parallel=False
    )
    assert found.num_texts == 7
    assert [hit.item for hit in found.exact] == [
        f"{item.question} {item.answer}" for item in asked[:7]
    ]
    assert found.near == ()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("on_ray")
def test_a_large_split_is_read_in_parts_by_ray_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from assay.engines.data import contamination
    from assay.engines.data.tokenize import write_split
    from tiny import make_model

    make_model(tmp_path / "model")
    asked = items()[:20]
    lines = [(item.question, item.answer) for item in asked[:7]] + [
        (f"number {i}?", f"{i} it is") for i in range(43)
    ]
    chats = [
        [{"role": "user", "content": ask}, {"role": "assistant", "content": say}]
        for ask, say in lines
    ]
    write_split(tmp_path / "model", chats, tmp_path / "train.safetensors", max_length=256)
    monkeypatch.setattr(contamination, "FEW_EXAMPLES", 10)
    monkeypatch.setattr(contamination, "TEXTS_A_PART", 20)
    arguments = (tmp_path / "model", tmp_path / "train.safetensors", asked, looser(0.5))
    apart = search(*arguments, in_parallel=True)
    assert len(apart.exact) == 7
    assert apart == search(*arguments, in_parallel=False)
