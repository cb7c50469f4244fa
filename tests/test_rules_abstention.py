"""Abstentions are told from answers: in single sentences, and in labelled lists of each language.

The lists under `tests/abstention` were written before the tables that read them, a half of each was
not looked at while the tables were written, and nothing in them is from a data set: `+` stands
before an abstention, `-` before an answer, many of which speak of knowing and not knowing.
"""

from pathlib import Path

import pytest

from assay.rules.gate.abstention import abstained

ABSTENTIONS = [
    "I don't know.",
    "I don\u2019t know.",
    "  i don't know  ",
    "I DON'T KNOW!",
    "**I don't know.**",
    "\u201cI don't know.\u201d",
    "Answer: I don't know.",
    "I do not know",
    "I do not know the answer to that question.",
    "I don't know the capital of Guinea-Bissau.",
    "I don't know what the capital of St. Lucia is.",
    "I really don't know.",
    "Sorry, I don't know.",
    "I'm sorry, but I don't know.",
    "Sorry but I don't have that information",
    "I'm afraid I don't know that.",
    "Unfortunately, I do not have access to that information.",
    "I don't have enough information to answer that.",
    "I do not have any information about a country called Zubrowka.",
    "I'm not sure.",
    "I\u2019m not sure about that.",
    "I am not entirely sure",
    "I am unsure.",
    "Not sure.",
    "I'm not aware of any such country.",
    "I am not familiar with Zubrowka.",
    "I cannot answer that",
    "I can't answer this question.",
    "I can not say.",
    "I am unable to answer that question.",
    "I could not find any information on that.",
    "As an AI language model, I don't know that.",
    "I have no idea.",
    "No idea.",
    "Nobody knows.",
    "unknown",
    "Unknown.",
    "It is unknown.",
    "That is not known.",
    "This information is not available.",
    "It cannot be determined.",
    "It's impossible to know that.",
    "There is no such country.",
    "There is no capital of Antarctica.",
    "Zubrowka does not exist.",
    "The capital of Zubrowka is unknown.",
    "I don't know yet.",
    "I don't know. Please check an official source.",
    "I'm not sure. I don't know that country.",
    "I don't know, I'm sorry.",
    "I don't know\n",
]

ANSWERS = [
    "Paris",
    "Paris.",
    "The capital of France is Paris.",
    "I don't know, but it is Paris.",
    "I don't know, Paris?",
    "I don't know. Paris.",
    "I don't know. It might be Paris.",
    "I don't know (Paris)",
    "I don't know: Paris",
    "I don't know \u2014 Paris",
    "I don't know - Paris",
    "I don't know\nParis",
    "I don't know but probably Paris",
    "I'm not sure, maybe Paris",
    "I'm not sure although I think it is Paris",
    "I'm not sure. The capital is Paris.",
    "I am sure it is Paris.",
    "I'm sorry, it is Paris.",
    "Sorry.",
    "Paris. I don't know.",
    "Not Paris.",
    "No.",
    "No. I don't know.",
    "None",
    "Unknown Pleasures",
    "Paris is the capital and its population is unknown.",
    "It is Paris though Zubrowka does not exist.",
    "The Unknown Soldier",
    "There is no doubt that it is Paris.",
    "There is a capital.",
    "You know it: Paris.",
    "I know that it is Paris.",
    "I don't think so.",
    "I cannot recommend Paris.",
    "Nauru has no capital, but Yaren is its seat of government.",
    "The euro",
    "42",
    "",
    "   ",
    "...",
]


@pytest.mark.parametrize("response", ABSTENTIONS)
def test_an_abstention_is_seen(response: str) -> None:
    assert abstained(response)


@pytest.mark.parametrize("response", ANSWERS)
def test_an_answer_or_silence_is_no_abstention(response: str) -> None:
    assert not abstained(response)


LISTS = Path(__file__).parent / "abstention"
LEAST = {
    "zh": (100, 0.97),
    "en": (100, 0.97),
    "ja": (40, 0.93),
    "de": (40, 0.93),
    "fr": (40, 0.93),
    "es": (40, 0.93),
}
"""By language: how many abstentions and answers its list has, and the least precision and
recall."""


@pytest.mark.parametrize("language", LEAST)
def test_precision_and_recall_of_a_language(language: str) -> None:
    lines = (LISTS / f"{language}.txt").read_text(encoding="utf-8").splitlines()
    abstentions = [line[2:] for line in lines if line.startswith("+ ")]
    answers = [line[2:] for line in lines if line.startswith("- ")]
    num_lines, least = LEAST[language]
    assert len(abstentions) >= num_lines
    assert len(answers) >= num_lines
    assert len(set(lines)) == len(lines) == len(abstentions) + len(answers)
    missed = [text for text in abstentions if not abstained(text)]
    mistaken = [text for text in answers if abstained(text)]
    num_found = len(abstentions) - len(missed)
    precision, recall = num_found / (num_found + len(mistaken)), num_found / len(abstentions)
    print(
        f"{language}: precision {precision:.1%}, recall {recall:.1%}; missed {missed}, mistaken "
        f"{mistaken}"
    )
    assert precision >= least
    assert recall >= least


SEVERAL_SENTENCES = [
    "很抱歉，我无法找到关于“凯尔索兰”的任何信息。可能是名称有误，或者这是一个虚构的地方。如果您能提供更多背景，我很乐意帮您查找。",
    "I couldn't find any information about a country called Kelsoland. It may be a fictional "
    "place. Could you tell me "
    "where you read about it?",
    "我不知道。I don't know.",
    "申し訳ありませんが、わかりません。もし他にご質問があれば、お知らせください。",
    "Das weiß ich nicht. Bitte fragen Sie, wenn Sie mögen, jemand anderen.",
]


@pytest.mark.parametrize("response", SEVERAL_SENTENCES)
def test_courtesy_and_advice_may_stand_beside_it(response: str) -> None:
    assert abstained(response)


@pytest.mark.parametrize(
    ("abstention", "answer"),
    [
        ("我不知道。", "我不知道。应该是巴黎。"),
        ("我不知道", "“我不知道”是一首歌"),
        ("文中没有提到", "文中没有提到，所以大概是七点"),
        ("ＩＤＫ！", "ＩＤＫ，巴黎！"),
        ("抱歉，我不知道，请咨询当地政府，谢谢。", "抱歉，应该是巴黎，请咨询当地政府。"),
        ("I don't know \U0001f64f", "I don't know \U0001f64f Paris"),
        (
            "I don't know. If you have a map, I'd be happy to help.",
            "I don't know. If you have a map, it's Paris.",
        ),
        ("我不知道。你可以查地图。", "我不知道。你可以看到首都是巴黎。"),
        ("我不知道。如果您需要，我可以帮您查。", "我不知道。如果您需要答案，首都是巴黎。"),
    ],
)
def test_one_word_more_makes_an_answer_of_it(abstention: str, answer: str) -> None:
    assert abstained(abstention)
    assert not abstained(answer)


REPEATED = (
    "know ",
    "知道",
    "嗯",
    "就",
    "对于此",
    "x ",
    "(a",
    '"',
    "\u201c",
    "the answer ",
    "sorry ",
    "从",
    "の",
    "ne ",
)


@pytest.mark.parametrize("word", REPEATED)
def test_no_response_takes_long_to_read(word: str) -> None:
    """A table that repeats without a bound what fits in two ways takes minutes for some of
    these."""
    for length in (40, 110, 300, 100_000):
        said = word * (length // len(word))
        assert not abstained(f"{said}; 巴黎")
        assert not abstained(f"{said}, so Paris")


def test_a_long_response_is_read_quickly() -> None:
    assert not abstained("I don't know " * 5000 + "Paris")
    assert not abstained("x " * 20_000 + "does not exist, so Paris")
