"""`augment`: products are made of each row, filtered, and put behind it, shard by shard. A shard
that is finished is not made again, nor asked for."""

import hmac
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from assay.engines.data import contamination
from assay.engines.data.cleaning.augment.asked import Ask, Asking
from assay.engines.data.cleaning.augment.local import make, question_of
from assay.engines.data.cleaning.duplicates.facts import facts_of
from assay.engines.data.cleaning.rows import Row, is_learnable, row_id
from assay.engines.data.cleaning.steps.select import language_of
from assay.engines.data.learned_rows import asked_and_said, question
from assay.engines.data.reading.examples import Example
from assay.errors import UsageError
from assay.records.cleaning import Reason
from assay.spec.augment import AugmentSpec
from assay.spec.suite.measured import ContaminationSpec
from assay.text import words

LANGUAGE_LETTERS = 20
"""The language of a shorter question is a guess."""


@dataclass(frozen=True)
class Held:
    """What is held out in files of its own, which no product may ask or quote."""

    questions: frozenset[str]
    index: contamination.Index


def held_of(rows: Iterable[Row]) -> Held:
    """The same of its rows."""
    questions, quoted = set(), []
    for row in rows:
        questions.add(question(row.example))
        if row.example.messages:
            asked, said = asked_and_said(row.example)
            quoted.append(contamination.SampleText("heldout", asked, said))
    index = contamination.Index(quoted, ContaminationSpec(near="ignore"))
    return Held(frozenset(questions), index)


class Augmenter:
    """One step at work."""

    def __init__(self, name: str, spec: AugmentSpec, key: bytes, held: Held, ask: Ask | None):
        self.name, self.spec, self.key, self.held = name, spec, key, held
        self.asking: Asking | None = None
        if spec.ask is not None and ask is not None:
            self.asking = Asking(spec.ask, ask)

    def augmented(self, rows: Sequence[Row]) -> tuple[list[Row], list[Reason]]:
        """The rows with their products behind each, and a reason for each product that was made,
        kept or not."""
        made: dict[int, list[Row]] = {}
        reasons = []
        for place, number, example in self._products(rows):
            parent = rows[place]
            product = Row(
                row_id(example, self.key),
                parent.source,
                f"{parent.at}+{self.spec.way}{number + 1}",
                example,
                parent.parent or parent.id,
            )
            siblings = made.setdefault(place, [])
            fault = self._fault(parent.example, example, [one.example for one in siblings])
            reasons.append(self._reason(product, fault))
            if not fault:
                siblings.append(product)
        found = []
        for place, row in enumerate(rows):
            found += [row, *made.get(place, ())]
        return found, reasons

    def note(self) -> str:
        """What could not be done."""
        if self.spec.ask is None:
            return ""
        if self.asking is None:
            return "the model is not asked for a look"
        if not self.asking.num_skipped:
            return f"{self.asking.num_tokens:,} tokens were used"
        return (
            f"{self.asking.num_tokens:,} tokens were used, all of the budget: "
            f"{self.asking.num_skipped:,} products were not asked for"
        )

    def _products(self, rows: Sequence[Row]) -> Iterator[tuple[int, int, Example]]:
        chosen = [place for place, row in enumerate(rows) if self._is_chosen(row)]
        wanted = [(place, number) for place in chosen for number in range(self.spec.copies)]
        if self.spec.ask is None:
            for place, number in wanted:
                row = rows[place]
                product = make(self.spec, row.example, self._drawn(row, f"copy {number}"))
                if product is not None:
                    yield place, number, product
        elif self.asking is not None:
            asked = [(rows[place].example, number) for place, number in wanted]
            found = self.asking.products(asked)
            for (place, number), product in zip(wanted, found, strict=True):
                if product is not None:
                    yield place, number, product

    def _is_chosen(self, row: Row) -> bool:
        """Products have none themselves."""
        return not row.parent and self._drawn(row, "share").random() < self.spec.share

    def _drawn(self, row: Row, what: str) -> random.Random:
        text = f"augment:{self.name}:{what}:{row.id}"
        return random.Random(hmac.digest(self.key, text.encode(), "sha256"))

    def _reason(self, product: Row, fault: str) -> Reason:
        rule = fault.partition(":")[0] or self.spec.way
        return Reason(
            row=product.id,
            at=product.at,
            step=self.name,
            action="dropped" if fault else "made",
            counts={rule: 1},
            why=fault,
            parent=product.parent,
        )

    def _fault(self, parent: Example, product: Example, siblings: Sequence[Example]) -> str:
        """Why a product is not to be trained on; nothing where it may be."""
        asked, was = question_of(product), question_of(parent)
        similarity = similarity_of(asked, was)
        if not is_learnable(product):
            return "empty: nothing that can be learned"
        if product == parent or product in siblings:
            return "equal: it is there already"
        if not self.spec.min_similarity <= similarity <= self.spec.max_similarity:
            return f"similarity: {similarity:.2f} to its parent's question"
        if self.spec.way in ("paraphrase", "back_translate") and facts_of(asked) != facts_of(was):
            return "facts: it has other numbers than its parent"
        if (other := _other_language(asked, was)) and self.spec.way != "noise":
            return f"language: {other}"
        if question(product) in self.held.questions or self._quotes_held(product):
            return "held_out: it asks or quotes what is held out"
        return ""

    def _quotes_held(self, product: Example) -> bool:
        turns = [turn.content for turn in product.messages] or [product.text]
        return next(contamination.hits_in(self.held.index, [turns]), None) is not None


def similarity_of(one: str, other: str) -> float:
    """Words in common, in order, as a share of all: 2 LCS(a, b) / (|a| + |b|)."""
    from rapidfuzz.distance import LCSseq

    ours, theirs = words(one), words(other)
    if not ours and not theirs:
        return 1.0
    return 2 * int(LCSseq.similarity(ours, theirs)) / (len(ours) + len(theirs))


def _other_language(asked: str, was: str) -> str:
    if min(len(asked), len(was)) < LANGUAGE_LETTERS:
        return ""
    ours, theirs = language_of(asked)[0], language_of(was)[0]
    return f"{ours}, and its parent's is {theirs}" if ours != theirs else ""


def checked_form(spec: AugmentSpec, forms: Sequence[str]) -> None:
    """Raises `UsageError` where the way needs an answer that the data do not have."""
    if spec.way in ("swap", "instruction") and not {"messages", "preference", "kto"} & set(forms):
        raise UsageError(f"data.steps: augment by {spec.way} needs data with answers")


@dataclass(frozen=True)
class AugmentedShard:
    """The files of one shard that is augmented; the rows come last."""

    folder: Path
    number: int

    @property
    def rows(self) -> Path:
        """The rows with their products."""
        return self.folder / f"augmented-{self.number:06d}.jsonl"

    @property
    def reasons(self) -> Path:
        """A line for each product, kept or not."""
        return self.folder / f"made-{self.number:06d}.jsonl"
