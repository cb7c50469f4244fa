"""How data become splits: what is held out, what is left out, and the rows that an objective learns
from."""

import random
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from assay.engines.data import contamination
from assay.engines.data.families import Families, family_key
from assay.engines.data.groups import DIGEST_BYTES, Groups, TextToGroup, sketches
from assay.engines.data.learned_rows import (
    asked_and_said,
    digest_of_example,
    is_full,
    num_characters_of,
    question,
    worded,
)
from assay.engines.data.reading.examples import Example
from assay.engines.data.reading.sources import check_forms, stream_sources
from assay.errors import UsageError
from assay.spec.data import DataSpec, HeldOut
from assay.spec.objective import ObjectiveSpec
from assay.spec.spec import FORMATS
from assay.spec.suite.measured import ContaminationSpec

EXACT_ALONE = ContaminationSpec(near="ignore")
"""What the platform's own split must never have."""

Fetched = Mapping[str, list[Path]]
"""Local copies of the data that lie elsewhere, by their entry in the spec."""

Mapper = Callable[[Callable[..., bytes], Iterable[tuple[Any, ...]]], Iterable[bytes]]
"""Calls a function with each tuple of arguments; yields the results in their order."""


Split = Literal["train", "selection", "gate"]
Fate = Split | Literal["in_gate", "duplicate", "beyond_max"]
"""A split; or left out, since it asks or quotes what is sealed, stands in a held-out file, or is
beyond `max_samples`."""
SPLITS: tuple[Split, ...] = get_args(Split)
PRODUCT_OF_HELD_OUT: dict[str, Fate] = {"gate": "in_gate", "selection": "duplicate"}
"""What becomes of what `augment` made of an example of a split."""


class Outcome(NamedTuple):
    """What becomes of an example."""

    source: str
    """The entry of the spec that it came from."""
    example: Example
    fate: Fate
    times: int
    """How often it is shown."""


class SplitSource(NamedTuple):
    """Where the examples of the splits come from."""

    data: DataSpec
    root: Path
    """Folder to which the entries are relative."""
    fetched: Fetched
    cleaned: Fetched | None = None
    """What `data.steps` left of the training data, by their entry."""
    families: Families = Families()
    """What the steps made of others."""

    def read(self, entries: Sequence[str]) -> Iterator[tuple[str, Example]]:
        """The examples of some entries of the spec, each with its entry."""
        data = self.data
        if self.cleaned is not None and entries == data.train:
            # The steps write a form of their own, whatever that of the data is.
            return stream_sources(entries, "auto", data.system, self.root, self.cleaned)
        return stream_sources(entries, data.format, data.system, self.root, self.fetched)


class Splits:
    """The three splits, as a stream. `train` leaves out what stands in selection or gate too, and
    is weighted by source. The held-out shares are drawn by the digest of the example and the seed,
    so that adding a line moves no line that is not like it; equal and near-equal examples are never
    parted, and what quotes a sealed example, question and answer, is not trained on."""

    def __init__(
        self,
        source: SplitSource,
        objective: ObjectiveSpec,
        sealed: frozenset[str],
        *,
        each: Mapper = starmap,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Reads everything once: for its mistakes, its classes, what is like what, and what has
        files of its own to be held out. `each` compares the texts of a block, here or
        elsewhere."""
        self.source, self.objective, self.sealed = source, objective, sealed
        self.data = data = source.data
        if _share(data.gate) + _share(data.selection) >= 1:
            raise UsageError("data.selection and data.gate together leave nothing to train on")
        held_out: tuple[tuple[Split, float | HeldOut | None], ...]
        held_out = ("selection", data.selection), ("gate", data.gate)
        self.files: dict[Split, tuple[str, ...]] = {}
        for name, split in held_out:
            if isinstance(split, HeldOut):
                self.files[name] = split.source
        self.num_examples = 0
        """Of `data.train`."""
        self.fates: Counter[Fate] = Counter()
        """What became of the examples; complete when `examples` has come to its end."""
        self.sources = Counter(dict.fromkeys(data.train, 0))
        """Training examples of each entry, weights applied; complete when `examples` has come to
        its end."""
        self._classes: set[str] = set()
        self._held_out: set[bytes] = set()
        self._ranks = array("Q")
        self._first_of: dict[str, bytes] = {}
        """The digest of the first example of each family."""
        self._group_of = self._survey(each, say)
        self.labels = tuple(sorted(self._classes))
        self._last_rank = _last_rank(self._ranks, data.max_samples)
        self._quotes = self._sealed_by_draw()

    def _survey(self, each: Mapper, say: Callable[[str], None]) -> dict[bytes, bytes]:
        """Reads all files; returns the groups of those examples that are like others, where a share
        is drawn."""
        forms = FORMATS[self.objective.name]
        with Groups() as groups:
            surveyed = self._linked(self._surveyed("train", self.data.train), groups)
            if _share(self.data.gate) + _share(self.data.selection):
                say("looking for texts that are alike")
                surveyed = _compared(surveyed, groups, each)
            check_forms(surveyed, forms, ", ".join(self.data.train))
            for name, source in self.files.items():
                check_forms(self._surveyed(name, source), forms, ", ".join(source))
            return groups.keys()

    def examples(self) -> Iterator[tuple[Split, Example]]:
        """Every example that is not dropped, with its split's name, as often as it is shown."""
        for one in self.outcomes():
            self.fates[one.fate] += 1
            if one.fate == "train":
                self.sources[one.source] += one.times
            for _ in range(one.times):
                yield cast(Split, one.fate), self.worded(one.example)

    def outcomes(self) -> Iterator[Outcome]:
        """What becomes of every example, in the order of the files."""
        for source, example in self.source.read(self.data.train):
            yield self._outcome(source, example)
        for split, files in self.files.items():
            for source, example in self.source.read(files):
                fate: Fate = split
                if split != "gate" and self._is_sealed(example):
                    fate = "in_gate"
                yield Outcome(source, example, fate, int(fate in SPLITS))

    def _outcome(self, source: str, example: Example) -> Outcome:
        digest = digest_of_example(example)
        if self._rank(digest) > self._last_rank:
            return Outcome(source, example, "beyond_max", 0)
        split = self._drawn(digest)
        if split != "gate" and (self._is_sealed(example) or self._quotes_sealed(example)):
            return Outcome(source, example, "in_gate", 0)
        if split != "train":
            # What was made is for training: one that belongs to what is held out is held by nobody.
            if self._is_product(example):
                return Outcome(source, example, PRODUCT_OF_HELD_OUT[split], 0)
            return Outcome(source, example, split, 1)
        if bytes.fromhex(digest) in self._held_out:
            return Outcome(source, example, "duplicate", 0)
        times = _times(self.data.weights.get(source, 1.0), f"{self.data.split_seed}:{digest}")
        return Outcome(source, example, split, times)

    def _surveyed(self, split: str, source: Sequence[str]) -> Iterator[Example]:
        for _, example in self.source.read(source):
            if isinstance(example.label, str):
                self._classes.add(example.label)
            if split == "train":
                self.num_examples += 1
                if self.data.max_samples is not None:
                    self._ranks.append(self._rank(digest_of_example(example)))
            elif split == "gate" or not self._is_sealed(example):
                self._held_out.add(bytes.fromhex(digest_of_example(example)))
            yield example

    def _linked(self, examples: Iterable[Example], groups: Groups) -> Iterator[Example]:
        """The same examples; those of one family are said to be of one group."""
        families = self.source.families.of
        for example in examples:
            family = families.get(family_key(example)) if families else None
            if family is not None:
                digest = bytes.fromhex(digest_of_example(example))
                groups.link([(self._first_of.setdefault(family, digest), digest)])
            yield example

    def _is_product(self, example: Example) -> bool:
        products = self.source.families.products
        return bool(products) and family_key(example) in products

    def _rank(self, digest: str) -> int:
        """Where the example stands when `max_samples` are chosen: by a number drawn for it
        alone."""
        if self.data.max_samples is None:
            return 0
        return random.Random(f"sample:{self.data.split_seed}:{digest}").getrandbits(64)

    def _drawn(self, digest: str) -> Split:
        # Those that are alike are drawn by one digest, so that they fall into one split.
        group = self._group_of.get(bytes.fromhex(digest)[:DIGEST_BYTES])
        drawn_by = group.hex() if group else digest
        draw = random.Random(f"{self.data.split_seed}:{drawn_by}").random()
        gate, selection = _share(self.data.gate), _share(self.data.selection)
        if draw < gate:
            return "gate"
        if draw < gate + selection:
            return "selection"
        return "train"

    def _sealed_by_draw(self) -> contamination.Index | None:
        """What the share for the gate holds, to be looked for in the rest; None where nothing is
        drawn."""
        if not _share(self.data.gate):
            return None
        found = []
        for _, example in self.source.read(self.data.train):
            digest = digest_of_example(example)
            is_in = self._rank(digest) <= self._last_rank and not self._is_product(example)
            if is_in and self._drawn(digest) == "gate":
                asked, said = asked_and_said(self.worded(example))
                found.append(contamination.SampleText("heldout", asked, said))
        return contamination.Index(found, EXACT_ALONE)

    def _quotes_sealed(self, example: Example) -> bool:
        """Whether the example has a sealed one's question with its answer after it."""
        if self._quotes is None:
            return False
        turns = []
        for chat in (self.worded(example).messages, example.rejected):
            if chat:
                turns.append([message.content for message in chat])
        return next(contamination.hits_in(self._quotes, turns), None) is not None

    def _is_sealed(self, example: Example) -> bool:
        return bool(self.sealed) and question(example) in self.sealed

    def worded(self, example: Example) -> Example:
        """The example as it is learned from."""
        return worded(example, self.objective, self.labels)


def _last_rank(ranks: Sequence[int], max_samples: int | None) -> int:
    """The rank of the last example that is taken. Equal examples have one rank, and are taken
    together."""
    if max_samples is None or not ranks:
        return 0
    in_order = sorted(ranks)
    if max_samples >= len(in_order):
        return in_order[-1]
    beyond = in_order[max_samples]
    # The first that is too many may have equals among those before it, which then go, too.
    for rank in reversed(in_order[:max_samples]):
        if rank < beyond:
            return rank
    return beyond


def _compared(examples: Iterable[Example], groups: Groups, each: Mapper) -> Iterator[Example]:
    """The same examples, which `groups` gets to know block by block."""
    digests: deque[list[bytes]] = deque()
    passed: deque[Example] = deque()

    def calls() -> Iterator[tuple[list[TextToGroup]]]:
        for block in _comparable(examples):
            digests.append([bytes.fromhex(digest_of_example(example)) for example in block])
            passed.extend(block)
            yield ([_text_to_group(example) for example in block],)

    for sketched in each(sketches, calls()):
        groups.add(digests.popleft(), sketched)
        while passed:
            yield passed.popleft()


def _comparable(examples: Iterable[Example]) -> Iterator[list[Example]]:
    block: list[Example] = []
    num_characters = 0
    for example in examples:
        block.append(example)
        num_characters += num_characters_of(example)
        if is_full(len(block), num_characters):
            yield block
            block, num_characters = [], 0
    if block:
        yield block


def _text_to_group(example: Example) -> TextToGroup:
    if example.text:
        return TextToGroup(example.text, example.text)
    turns = [message.content for message in example.messages if message.role != "system"]
    # A text that has a label has no answer.
    asked = turns if isinstance(example.label, str) else turns[:-1]
    return TextToGroup("\n".join(asked), "\n".join(turns))


def _share(split: float | HeldOut | None) -> float:
    """0 where nothing is drawn."""
    return split if isinstance(split, float) else 0.0


def _times(weight: float, seed: str) -> int:
    """How often an example is shown: the weight's whole part, and once more with the chance that is
    left."""
    return int(weight) + (random.Random(f"weight:{seed}").random() < weight % 1)
