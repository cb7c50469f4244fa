"""`make bench-gate`, third part: what the search for contamination finds, and how fast.

A hundred questions of the country facts are planted in training data: word for word, with other
case and marks, inside a longer text, with one word changed, and in another person's wording of the
same question. What is found of each is printed as it is; only the copies have a bar.
"""

import json
import random
import re
import runpy
import time
from collections.abc import Callable
from itertools import product
from typing import Any

from common import ROOT, met

from assay.engines.data.contamination import Index, SampleText, hits_in
from assay.spec.suite.measured import ContaminationSpec

NUM_ITEMS = 100
NUM_CLEAN = 20_000
FILLER = (
    "Yesterday we went to the harbour and counted the boats that came in before the rain began to "
    "fall again."
)


def main() -> None:
    facts = runpy.run_path(str(ROOT / "specs" / "country-facts" / "make_data.py"))
    items, other = _items(facts)
    index = Index(items, ContaminationSpec())
    plants: dict[str, Callable[[int], list[str]]] = {
        "word for word": lambda i: [items[i].question, items[i].answer],
        "other case and marks": lambda i: [
            f"  {items[i].question.upper()} !",
            items[i].answer.lower(),
        ],
        "inside a longer text": lambda i: [
            f"{FILLER} {items[i].question} {items[i].answer}. {FILLER}"
        ],
        "one word changed": lambda i: [_one_word_changed(items[i].question, i), items[i].answer],
        "another wording": lambda i: [other[i], items[i].answer],
    }
    told: dict[str, Any] = {"bench": "contamination", "items": len(items)}
    for name, plant in plants.items():
        hits = list(hits_in(index, [plant(i) for i in range(len(items))]))
        exact = {hit.item for hit in hits if hit.is_exact}
        near = {hit.item for hit in hits if not hit.is_exact} - exact
        bar = met(len(exact), len(items)) if name in list(plants)[:3] else f"near: {len(near)}"
        print(f"{name:<22} exact {len(exact):3d} of {len(items)}   {bar}")
        told[name] = {"exact": len(exact), "near": len(near)}
    clean = [
        [f"Which number is {i}?", f"It is {i}, and after it comes {i + 1}. {FILLER}"]
        for i in range(NUM_CLEAN)
    ]
    started = time.perf_counter()
    found = sum(1 for _ in hits_in(index, clean))
    seconds = time.perf_counter() - started
    print(f"{NUM_CLEAN} clean texts: {found} hits, {NUM_CLEAN / seconds:,.0f} texts/s on one core")
    print(json.dumps({**told, "clean_hits": found, "texts_per_s": NUM_CLEAN / seconds}))


def _items(facts: dict[str, Any]) -> tuple[list[SampleText], list[str]]:
    """Questions in one person's wording, and the same in another's."""
    items, other = [], []
    for (number, country), attribute in product(
        enumerate(facts["countries"]()), ("capital", "currency", "continent")
    ):
        mine, theirs = facts["WORDINGS"]["train"][attribute], facts["WORDINGS"]["gate"][attribute]
        question = mine[number % len(mine)].format(country.name)
        items.append(SampleText("facts", question, country.facts[attribute]))
        other.append(theirs[number % len(theirs)].format(country.name))
    return items[:NUM_ITEMS], other[:NUM_ITEMS]


def _one_word_changed(question: str, seed: int) -> str:
    words = re.findall(r"\S+", question)
    words[random.Random(seed).randrange(len(words) - 1)] = "really"
    return " ".join(words)


if __name__ == "__main__":
    main()
