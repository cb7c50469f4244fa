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


def test_a_long_response_is_read_quickly() -> None:
    assert not abstained("I don't know " * 5000 + "Paris")
    assert not abstained("x " * 20_000 + "does not exist, so Paris")
