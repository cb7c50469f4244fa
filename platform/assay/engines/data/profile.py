"""What the answers of a data set are like, seen in one pass."""

import json
import math
from collections import Counter
from itertools import islice
from pathlib import Path

from assay.engines.data.chats.templates import split_reasoning
from assay.engines.data.reading.examples import Example, form_of
from assay.engines.data.reading.sources import stream_sources
from assay.errors import AssayError
from assay.records.record import digest_of
from assay.spec.values.metrics import num_words

SAMPLED_EVERY, SAMPLED_CHARACTERS = 20, 5000
"""Of `sample`."""
MOST_EXAMPLES = 50_000
"""Read of a data set; a first suite needs no more."""


def answers_in(data: str, root: Path) -> "Answers | None":
    """The answers of a data file; None when it is not there, cannot be read, or asks nothing (plain
    text)."""
    found = Answers()
    try:
        for _, example in islice(stream_sources([data], "auto", None, root), MOST_EXAMPLES):
            found.add(example)
    except (AssayError, OSError):
        return None
    return found if found.num_examples else None


class Answers:
    """Answers that were counted."""

    def __init__(self) -> None:
        self.forms: Counter[str] = Counter()
        self._distinct: set[bytes] = set()
        self._answers: Counter[str] = Counter()
        self._lengths: list[int] = []
        self._num_json = 0
        self._characters: list[int] = []
        self.sample = ""
        """The beginnings of some texts."""

    @property
    def num_examples(self) -> int:
        """Different examples that have an answer."""
        return len(self._distinct)

    @property
    def commonest(self) -> float:
        """Share of the commonest answer."""
        return self._answers.most_common(1)[0][1] / self._answers.total()

    @property
    def median_words(self) -> int:
        """Words of an answer, in the median."""
        return sorted(self._lengths)[(len(self._lengths) - 1) // 2]

    @property
    def long_characters(self) -> int:
        """Characters of a whole example: 95 of 100 have no more."""
        return sorted(self._characters)[math.ceil(0.95 * len(self._characters)) - 1]

    @property
    def json_share(self) -> float:
        """Share of the answers that are a JSON object or list."""
        return self._num_json / self._answers.total()

    def add(self, example: Example) -> None:
        """Counts one example; what has no answer is left out."""
        form = form_of(example)
        if form == "text":
            return
        answer = (
            str(example.label)
            if form == "classification"
            else split_reasoning(example.messages[-1].content)[1]
        )
        self.forms[form] += 1
        self._distinct.add(bytes.fromhex(digest_of([list(map(list, example.messages)), answer])))
        self._answers[" ".join(answer.casefold().split())] += 1
        self._lengths.append(num_words(answer))
        self._num_json += _is_json(answer)
        texts = [turn.content for turn in (*example.messages, *example.rejected)]
        self._characters.append(sum(map(len, texts)) + len(str(example.label or "")))
        if len(self._characters) % SAMPLED_EVERY == 1:
            self.sample += "\n".join(texts)[:SAMPLED_CHARACTERS]


def _is_json(answer: str) -> bool:
    if not answer.strip().startswith(("{", "[")):
        return False
    try:
        json.loads(answer)
    except (ValueError, RecursionError):
        return False
    return True
