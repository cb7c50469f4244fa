"""Makes the training data of country-facts as data are met with: among its rows are planted
duplicates, personal data, text decoded with the wrong table, other languages, and questions of the
suite with their answers. The same bytes each time.

    python specs/country-facts-messy/make_data.py

People and numbers are invented; the numbers are of ranges that are kept for fiction.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLEAN = ("answers", "abstentions", "replay")
SUITE = "evals/country-facts/country_facts_paraphrased.jsonl"
TARGET = "specs/country-facts-messy/train.jsonl"
ASKED = "specs/country-facts-messy/suite.jsonl"
"""The suite's questions in the form of training data, for `deduplicate` to compare with."""
SEED = 5

Pair = tuple[str, str]
"""A question and its answer."""

NUM_COPIES, NUM_POLITE, NUM_PERSONAL, NUM_MOJIBAKE, NUM_FOREIGN, NUM_LEAKED = (
    120,
    60,
    60,
    80,
    90,
    45,
)

POLITE = (
    "Hello! {}",
    "{} Thanks!",
    "Please, {}",
    "Hi there, {}",
    "  {}\u200b  ",
    "{} Thank you very much.",
)
PEOPLE = (
    "Wilma Okafor",
    "Jonas Petersen",
    "Priya Raman",
    "Teresa Alvarez",
    "Liam Murphy",
    "Aiko Tanaka",
)
PERSONAL = (
    "My name is {name}, and my mail is {mail}. {question}",
    "{question} Please call me back on {phone}. Kind regards, {name}",
    "I live at {number} Maple Street, Springfield, IL 62704. {question}",
)
MOJIBAKE = (
    "A quick one \u2013 {}",
    "For the caf\u00e9\u2019s quiz: {}",
    "Travel section \u2026 {}",
)
CAPITAL = "What is the capital of "
FOREIGN = (
    (
        "Quelle est la capitale de ce pays, s'il vous pla\u00eet : {} ?",
        "Je pense que la capitale est {}, mais je n'en suis pas s\u00fbr.",
    ),
    (
        "\u00bfPodr\u00eda decirme cu\u00e1l es la capital de este pa\u00eds? {}",
        "Creo que la capital de ese pa\u00eds es {}, si no me equivoco.",
    ),
    (
        "K\u00f6nnen Sie mir bitte sagen, wie die Hauptstadt hei\u00dft: {}?",
        "Ich glaube, die Hauptstadt hei\u00dft {}, aber sicher bin ich nicht.",
    ),
)


def make() -> dict[str, str]:
    """The files by their paths."""
    drawn = random.Random(SEED)
    clean = [pair for name in CLEAN for pair in _pairs(f"specs/country-facts/{name}.jsonl")]
    rows = [*clean, *_planted(clean, drawn)]
    # What is first stays, so that the copies come behind.
    drawn.shuffle(behind := rows[len(clean) :])
    return {TARGET: _lines([*clean, *behind]), ASKED: _lines(_pairs(SUITE))}


def _lines(pairs: list[Pair]) -> str:
    records = ({"prompt": asked, "completion": said} for asked, said in pairs)
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records)


def _planted(clean: list[Pair], drawn: random.Random) -> Iterator[Pair]:
    yield from drawn.sample(clean, NUM_COPIES)
    for asked, said in drawn.sample(clean, NUM_POLITE):
        yield drawn.choice(POLITE).format(asked), said
    for asked, said in drawn.sample(clean, NUM_PERSONAL):
        yield _personal(asked, drawn), said
    for asked, said in drawn.sample(clean, NUM_MOJIBAKE):
        yield _misread(drawn.choice(MOJIBAKE).format(asked)), said
    capitals = [pair for pair in clean if pair[0].startswith(CAPITAL)]
    for asked, said in (drawn.choice(capitals) for _ in range(NUM_FOREIGN)):
        question, answer = drawn.choice(FOREIGN)
        country = asked.removeprefix(CAPITAL).rstrip("?")
        yield question.format(country), answer.format(said)
    yield from drawn.sample(_pairs(SUITE), NUM_LEAKED)


def _personal(question: str, drawn: random.Random) -> str:
    name = drawn.choice(PEOPLE)
    return drawn.choice(PERSONAL).format(
        name=name,
        mail=f"{name.lower().replace(' ', '.')}{drawn.randrange(100)}@example.org",
        phone=f"(212) 555-01{drawn.randrange(100):02d}",
        number=drawn.randrange(1, 900),
        question=question,
    )


def _misread(text: str) -> str:
    """UTF-8, decoded as Windows' Western table."""
    return text.encode("utf-8").decode("cp1252")


def _pairs(path: str) -> list[Pair]:
    with (ROOT / path).open(encoding="utf-8") as lines:
        records = [json.loads(line) for line in lines]
    return [
        (one.get("prompt") or one["question"], one.get("completion") or one["answer"])
        for one in records
    ]


if __name__ == "__main__":
    for name, content in make().items():
        (ROOT / name).write_text(content, encoding="utf-8")
