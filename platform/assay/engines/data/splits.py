"""How data become splits: what is held out, what is left out, and the rows that an objective learns
from."""

import hashlib
import random
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import starmap
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast, get_args

from assay.engines.data import contamination
from assay.engines.data.chat_masks import split_reasoning
from assay.engines.data.groups import DIGEST_BYTES, Groups, TextToGroup, sketches
from assay.engines.data.readers import Example, Message, check_forms, stream_sources
from assay.engines.data.tokenize import Row
from assay.errors import UsageError
from assay.records.record import canonical_json, digest_of
from assay.spec.data import DataSpec, HeldOut
from assay.spec.objective import ClassifySpec, ObjectiveSpec
from assay.spec.spec import FORMATS
from assay.spec.suite.measured import ContaminationSpec

BLOCK_ROWS, BLOCK_CHARACTERS = 2000, 4_000_000
"""Whichever comes first ends a block that is compared or tokenized at once."""
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


class Outcome(NamedTuple):
    """What becomes of an example."""

    source: str
    """The entry of the spec that it came from."""
    example: Example
    fate: Fate
    times: int
    """How often it is shown."""


class Splits:
    """The three splits, as a stream. `train` leaves out what stands in selection or gate too, and
    is weighted by source. The held-out shares are drawn by the digest of the example and the seed,
    so that adding a line moves no line that is not like it; equal and near-equal examples are never
    parted, and what quotes a sealed example, question and answer, is not trained on."""

    def __init__(
        self,
        data: DataSpec,
        objective: ObjectiveSpec,
        root: Path,
        fetched: Fetched,
        sealed: frozenset[str],
        *,
        cleaned: Fetched | None = None,
        each: Mapper = starmap,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Reads everything once: for its mistakes, its classes, what is like what, and what has
        files of its own to be held out. `each` compares the texts of a block, here or elsewhere.
        `cleaned` has what `data.steps` left of the training data, by their entry."""
        self.data, self.objective, self.root, self.fetched, self.sealed = (
            data,
            objective,
            root,
            fetched,
            sealed,
        )
        self.cleaned = cleaned
        if _share(data.gate) + _share(data.selection) >= 1:
            raise UsageError("data.selection and data.gate together leave nothing to train on")
        held_out: tuple[tuple[Split, float | HeldOut | None], ...]
        held_out = ("selection", data.selection), ("gate", data.gate)
        self.files: dict[Split, tuple[str, ...]] = {
            name: split.source for name, split in held_out if isinstance(split, HeldOut)
        }
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
        self._group_of = self._survey(each, say)
        self.labels = tuple(sorted(self._classes))
        self._last_rank = _last_rank(self._ranks, data.max_samples)
        self._quotes = self._sealed_by_draw()

    def _survey(self, each: Mapper, say: Callable[[str], None]) -> dict[bytes, bytes]:
        """Reads all files; returns the groups of those examples that are like others, where a share
        is drawn."""
        forms = FORMATS[self.objective.name]
        with Groups() as groups:
            surveyed = self._surveyed("train", self.data.train)
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
        for source, example in self._read(self.data.train):
            yield self._outcome(source, example)
        for split, files in self.files.items():
            for source, example in self._read(files):
                fate: Fate = "in_gate" if split != "gate" and self._is_sealed(example) else split
                yield Outcome(source, example, fate, int(fate in SPLITS))

    def _outcome(self, source: str, example: Example) -> Outcome:
        digest = _digest(example)
        if self._rank(digest) > self._last_rank:
            return Outcome(source, example, "beyond_max", 0)
        split = self._drawn(digest)
        if split != "gate" and (self._is_sealed(example) or self._quotes_sealed(example)):
            return Outcome(source, example, "in_gate", 0)
        if split != "train":
            return Outcome(source, example, split, 1)
        if bytes.fromhex(digest) in self._held_out:
            return Outcome(source, example, "duplicate", 0)
        times = _times(self.data.weights.get(source, 1.0), f"{self.data.split_seed}:{digest}")
        return Outcome(source, example, split, times)

    def _read(self, source: Sequence[str]) -> Iterator[tuple[str, Example]]:
        if self.cleaned is not None and source == self.data.train:
            # The steps write a form of their own, whatever that of the data is.
            return stream_sources(source, "auto", self.data.system, self.root, self.cleaned)
        return stream_sources(source, self.data.format, self.data.system, self.root, self.fetched)

    def _surveyed(self, split: str, source: Sequence[str]) -> Iterator[Example]:
        for _, example in self._read(source):
            if isinstance(example.label, str):
                self._classes.add(example.label)
            if split == "train":
                self.num_examples += 1
                if self.data.max_samples is not None:
                    self._ranks.append(self._rank(_digest(example)))
            elif split == "gate" or not self._is_sealed(example):
                self._held_out.add(bytes.fromhex(_digest(example)))
            yield example

    def _rank(self, digest: str) -> int:
        """Where the example stands when `max_samples` are chosen: by a number drawn for it
        alone."""
        if self.data.max_samples is None:
            return 0
        return random.Random(f"sample:{self.data.split_seed}:{digest}").getrandbits(64)

    def _drawn(self, digest: str) -> Split:
        group = self._group_of.get(bytes.fromhex(digest)[:DIGEST_BYTES])
        drawn_by = group.hex() if group else digest
        draw = random.Random(f"{self.data.split_seed}:{drawn_by}").random()
        gate, selection = _share(self.data.gate), _share(self.data.selection)
        return "gate" if draw < gate else "selection" if draw < gate + selection else "train"

    def _sealed_by_draw(self) -> contamination.Index | None:
        """What the share for the gate holds, to be looked for in the rest; None where nothing is
        drawn."""
        if not _share(self.data.gate):
            return None
        found = []
        for _, example in self._read(self.data.train):
            digest = _digest(example)
            if self._rank(digest) <= self._last_rank and self._drawn(digest) == "gate":
                found.append(
                    contamination.SampleText("heldout", *asked_and_said(self.worded(example)))
                )
        return contamination.Index(found, EXACT_ALONE)

    def _quotes_sealed(self, example: Example) -> bool:
        """Whether the example has a sealed one's question with its answer after it."""
        if self._quotes is None:
            return False
        chats = [chat for chat in (self.worded(example).messages, example.rejected) if chat]
        turns = [[message.content for message in chat] for chat in chats]
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
    return max((rank for rank in in_order[:max_samples] if rank < beyond), default=beyond)


def _compared(examples: Iterable[Example], groups: Groups, each: Mapper) -> Iterator[Example]:
    """The same examples, which `groups` gets to know block by block."""
    digests: deque[list[bytes]] = deque()
    passed: deque[Example] = deque()

    def calls() -> Iterator[tuple[list[TextToGroup]]]:
        for block in _comparable(examples):
            digests.append([bytes.fromhex(_digest(example)) for example in block])
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
        num_characters += len(example.text) + sum(len(turn.content) for turn in example.messages)
        if len(block) >= BLOCK_ROWS or num_characters >= BLOCK_CHARACTERS:
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


class ListDigest:
    """`digest_of` a list of examples that nobody holds."""

    def __init__(self) -> None:
        self.num_items = 0
        self._sha256 = hashlib.sha256(b"[")

    def add(self, example: Example) -> None:
        """Adds an example to the end."""
        self._sha256.update(
            (b"," if self.num_items else b"") + canonical_json(_data(example)).encode()
        )
        self.num_items += 1

    def hex(self) -> str:
        """SHA-256 of the canonical JSON of all."""
        whole = self._sha256.copy()
        whole.update(b"]")
        return whole.hexdigest()


class Part:
    """One split on its way to the tokenizer, a block of rows at a time."""

    def __init__(self, objective: ObjectiveSpec, labels: Sequence[str]) -> None:
        self.objective, self.labels = objective, labels
        self.digest = ListDigest()
        self._first: Example | None = None
        self._last: Example | None = None
        self._rows: list[Row] = []
        self._num_characters = 0
        self.has_reasoning = False
        """Whether any answer of the examples has reasoning before it."""

    def add(self, example: Example) -> list[Row]:
        """Takes an example; returns a block when one is full, else nothing."""
        self.digest.add(example)
        if self.objective.kto is None:
            self._put(row_of(example, self.objective, self.labels))
        else:
            self._first = self._first or example
            if self._last is not None:
                self._put(_kto_row(self._last, example))
            self._last = example
        is_full = len(self._rows) >= BLOCK_ROWS or self._num_characters >= BLOCK_CHARACTERS
        return self._take() if is_full else []

    def rest(self) -> list[Row]:
        """The last block."""
        if self._first is not None and self._last is not None:
            self._put(_kto_row(self._last, self._first))
        return self._take()

    def _put(self, row: Row) -> None:
        self._rows.append(row)
        self.has_reasoning |= any("</think>" in chat[-1]["content"] for chat in row.chats)
        self._num_characters += len(row.text) + sum(
            len(turn["content"]) for chat in row.chats for turn in chat
        )

    def _take(self) -> list[Row]:
        rows, self._rows, self._num_characters = self._rows, [], 0
        return rows


def question(example: Example) -> str:
    """What the user said last, without which case and white space."""
    asked = next(
        (message.content for message in reversed(example.messages) if message.role == "user"),
        example.text,
    )
    return " ".join(asked.lower().split())


def _times(weight: float, seed: str) -> int:
    """How often an example is shown: the weight's whole part, and once more with the chance that is
    left."""
    return int(weight) + (random.Random(f"weight:{seed}").random() < weight % 1)


def worded(example: Example, objective: ObjectiveSpec, labels: Sequence[str]) -> Example:
    """The example as it is learned from: a classifier that answers in words is asked."""
    classify = objective.classify
    return (
        _verbalized(example, classify, labels) if classify and classify.head == "text" else example
    )


def _verbalized(example: Example, classify: ClassifySpec, labels: Sequence[str]) -> Example:
    """A question whose answer is the label."""
    ask = classify.instruction or f"Which of these is it: {', '.join(labels)}?"
    *before, text = example.messages
    asked = Message("user", f"{ask}\n\n{text.content}")
    return Example((*before, asked, Message("assistant", str(example.label))))


def row_of(example: Example, objective: ObjectiveSpec, labels: Sequence[str]) -> Row:
    """The example as the tokenizer is given it."""
    if objective.pretrain is not None:
        return Row(text=example.text)
    if objective.classify is not None and objective.classify.head == "linear":
        chat, label = chat_of(example.messages), labels.index(str(example.label))
        return Row((chat,), label=label, is_classified=True)
    return Row(
        (chat_of(example.messages), *([chat_of(example.rejected)] if example.rejected else []))
    )


def _kto_row(example: Example, other: Example) -> Row:
    """Beside the example another's answer, to see how far the model has moved in general."""
    mixed = (*example.messages[:-1], other.messages[-1])
    return Row((chat_of(example.messages), chat_of(mixed)), label=int(bool(example.label)))


def answered(example: Example) -> Example:
    """What is classified is answered by its label."""
    if example.label is None or not example.messages or example.messages[-1].role != "user":
        return example
    return example._replace(messages=(*example.messages, Message("assistant", str(example.label))))


def asked_and_said(example: Example) -> tuple[str, str]:
    """What of a chat is shown, and looked for in the training data: the last answer, and all before
    it, or every "thank you" would be found there."""
    *before, answer = answered(example).messages
    asked = "\n".join(message.content for message in before if message.role != "system")
    return asked, split_reasoning(answer.content)[1]


def _digest(example: Example) -> str:
    return digest_of(_data(example))


def _data(example: Example) -> object:
    """The example as JSON data; a chat alone is the list of its messages."""
    chat = chat_of(example.messages)
    if not (example.rejected or example.text or example.label is not None):
        return chat
    return [chat, chat_of(example.rejected), example.label, example.text]


def chat_of(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as a chat template takes them."""
    return [{"role": message.role, "content": message.content} for message in messages]
