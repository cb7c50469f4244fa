"""Examples as an objective learns from them: the words that are shown, the rows that the tokenizer
is given, and the digest of them all."""

import hashlib
from collections.abc import Sequence

from assay.engines.data.chats.templates import split_reasoning
from assay.engines.data.chats.tokens import Row
from assay.engines.data.reading.examples import Example, Message
from assay.records.record import canonical_json, digest_of
from assay.spec.objective import ClassifySpec, ObjectiveSpec

BLOCK_ROWS, BLOCK_CHARACTERS = 2000, 4_000_000
"""Whichever comes first ends a block that is compared or tokenized at once."""


def is_full(num_rows: int, num_characters: int) -> bool:
    """Whether a block of so much is to be worked on."""
    return num_rows >= BLOCK_ROWS or num_characters >= BLOCK_CHARACTERS


def num_characters_of(example: Example) -> int:
    """Of its text, or of its chat."""
    return len(example.text) + sum(len(turn.content) for turn in example.messages)


class ListDigest:
    """`digest_of` a list of examples that nobody holds."""

    def __init__(self) -> None:
        self.num_items = 0
        self._sha256 = hashlib.sha256(b"[")

    def add(self, example: Example) -> None:
        """Adds an example to the end."""
        if self.num_items:
            self._sha256.update(b",")
        self._sha256.update(canonical_json(_data(example)).encode())
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
        if is_full(len(self._rows), self._num_characters):
            return self._take()
        return []

    def rest(self) -> list[Row]:
        """The last block."""
        if self._first is not None and self._last is not None:
            self._put(_kto_row(self._last, self._first))
        return self._take()

    def _put(self, row: Row) -> None:
        self._rows.append(row)
        self._num_characters += len(row.text)
        for chat in row.chats:
            self.has_reasoning |= "</think>" in chat[-1]["content"]
            self._num_characters += sum(len(turn["content"]) for turn in chat)

    def _take(self) -> list[Row]:
        rows, self._rows, self._num_characters = self._rows, [], 0
        return rows


def question(example: Example) -> str:
    """What the user said last, without which case and white space."""
    asked = example.text
    for message in example.messages:
        if message.role == "user":
            asked = message.content
    return " ".join(asked.lower().split())


def worded(example: Example, objective: ObjectiveSpec, labels: Sequence[str]) -> Example:
    """The example as it is learned from: a classifier that answers in words is asked."""
    classify = objective.classify
    if classify is not None and classify.head == "text":
        return _verbalized(example, classify, labels)
    return example


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
    chats = [chat_of(example.messages)]
    if example.rejected:
        chats.append(chat_of(example.rejected))
    return Row(tuple(chats))


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


def digest_of_example(example: Example) -> str:
    """SHA-256 of the example as JSON."""
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
