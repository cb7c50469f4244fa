"""datasketch and Ray Data: which of a suite's items stand in the training data, word for word or
nearly.

The training data is read as it was tokenized, so what is compared is what the model is shown. A
large split is read in parts by Ray Data, a small one right here; both go through `hits_in`.
"""

import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from assay.records.gate import ContaminationHit
from assay.spec.suite.measured import ContaminationSpec
from assay.text import UNSPACED, word_weight, words

FEW_EXAMPLES = 20_000
"""Up to so many training texts are compared without Ray Data."""
TEXTS_A_PART = 2_000
SHINGLE, SHINGLE_UNSPACED = 3, 2
"""Letters in a row, of which similarity is counted: few, since questions are short; and of scripts
without spaces, whose letters say more."""
NUM_PERMUTATIONS = 128
ANCHOR_WORDS = 8
SHORT_WORDS = 4
"""A question of fewer words must be a whole turn of the training data; in longer text it may stand
by chance. Letters of scripts without spaces count as the parts of words that they are."""
EXCERPT = 300
ROLES = ("system", "user", "assistant", "human", "model", "tool")

Words = tuple[str, ...]
Turns = Sequence[str]
"""The turns of one training text, without the words of the chat template."""


@dataclass(frozen=True)
class SampleText:
    """One item of a task, as training data would hold it."""

    task: str
    question: str
    answer: str


@dataclass(frozen=True)
class Found:
    """The worst hit of each item that has one."""

    exact: tuple[ContaminationHit, ...]
    near: tuple[ContaminationHit, ...]
    num_texts: int


def search(
    tokenizer_folder: Path,
    split: Path,
    items: Sequence[SampleText],
    wanted: ContaminationSpec,
    *,
    in_parallel: bool,
) -> Found:
    """Compares a tokenized split with the items. `in_parallel` reads a large one on all of the
    cluster."""
    num_texts = _num_texts(split)
    index = Index(items, wanted)
    # To start Ray Data takes longer than to compare so few right here.
    if in_parallel and num_texts > FEW_EXAMPLES:
        hits = _search_with_ray_data(tokenizer_folder, split, index, num_texts)
    else:
        hits = list(hits_in(index, _texts(tokenizer_folder, split, 0, num_texts)))
    exact, near = _worst_of_each_kind(hits)
    # An item that is there word for word is not told a second time.
    for item in exact:
        near.pop(item, None)
    return Found(_in_order(index, exact), _in_order(index, near), num_texts)


def _in_order(index: "Index", hits: dict[int, "Hit"]) -> tuple[ContaminationHit, ...]:
    return tuple(index.told(hit) for _, hit in sorted(hits.items()))


@dataclass(frozen=True)
class Hit:
    """One item, found in one training text."""

    item: int
    is_exact: bool
    similarity: float
    training: str
    ngram: str = ""


@dataclass
class Index:
    """The items, ready to be looked for."""

    items: Sequence[SampleText]
    wanted: ContaminationSpec
    questions: list[Words] = field(init=False)
    answers: list[Words] = field(init=False)
    anchors: dict[Words, list[int]] = field(default_factory=dict)
    """The first words of a question, of which there are eight or all, to the items."""
    ngrams: dict[Words, list[int]] = field(default_factory=dict)
    """So many words in a row, of a question and its answer, to the items."""
    num_ngrams: list[int] = field(default_factory=list)
    shingles: list[frozenset[str]] = field(init=False)
    has_chats: bool = field(init=False)
    """Whether a question may be a chat of several turns, whose words go on from one turn to the
    next."""
    near: Any = field(init=False)
    """MinHash index of the questions' shingles."""

    def __post_init__(self) -> None:
        from datasketch import MinHashLSH

        self.questions, self.answers, self.shingles = [], [], []
        self.has_chats = False
        for item in self.items:
            question = words(item.question)
            self.questions.append(question)
            self.answers.append(words(item.answer))
            self.shingles.append(shingles_of(question))
            # A chat's turns are put together with a line's end between them.
            self.has_chats = self.has_chats or "\n" in item.question
        # Candidates are found a little below the wanted similarity, which is then counted exactly.
        self.near = MinHashLSH(
            threshold=max(0.1, self.wanted.similarity - 0.1), num_perm=NUM_PERMUTATIONS
        )
        for number, question in enumerate(self.questions):
            self.anchors.setdefault(question[:ANCHOR_WORDS], []).append(number)
            if self.wanted.near == "ignore":
                continue
            grams = set(_grams((*question, *self.answers[number]), self.wanted.ngram))
            self.num_ngrams.append(len(grams))
            for gram in grams:
                self.ngrams.setdefault(gram, []).append(number)
            if self.shingles[number]:
                self.near.insert(number, _minhash(self.shingles[number]))

    def told(self, hit: Hit) -> ContaminationHit:
        """The hit as the record has it."""
        item = self.items[hit.item]
        text = f"{item.question} {item.answer}".strip()
        return ContaminationHit(
            task=item.task,
            item=text,
            training=hit.training,
            similarity=hit.similarity,
            ngram=hit.ngram,
        )


def hits_in(index: Index, texts: Iterable[Turns]) -> Iterator[Hit]:
    """Every item that one of the texts holds: its question and, after it, its answer (exact); as
    many words in a row as `ngram`, or a turn as similar as `similarity` (near)."""
    lengths = sorted({len(anchor) for anchor in index.anchors if anchor})
    for turns in texts:
        spoken = [words(turn) for turn in turns]
        excerpt = " / ".join(turns)[:EXCERPT]
        for item in _exact(index, spoken, lengths):
            yield Hit(item, True, 1.0, excerpt)
        if index.has_chats and len(spoken) > 1:
            for item in _exact(index, [_joined(spoken)], lengths):
                yield Hit(item, True, 1.0, excerpt)
        if index.wanted.near != "ignore":
            yield from _near(index, spoken, excerpt)


def _joined(spoken: Sequence[Words]) -> Words:
    """The words of all turns in a row."""
    whole: list[str] = []
    for turn in spoken:
        whole += turn
    return tuple(whole)


def shingles_of(said: Words) -> frozenset[str]:
    """Each three letters in a row of the words with a space between them; each two of a script
    without spaces."""
    text = _BETWEEN_UNSPACED.sub("", " ".join(said))
    if not _UNSPACED_LETTER.search(text):  # the same, at half the time
        starts = range(max(1, len(text) - SHINGLE + 1))
        return frozenset(text[start : start + SHINGLE] for start in starts)
    found = set()
    for start, letter in enumerate(text):
        size = SHINGLE_UNSPACED if _UNSPACED_LETTER.match(letter) else SHINGLE
        if start == 0 or start + size <= len(text):
            found.add(text[start : start + size])
    return frozenset(found)


_UNSPACED_LETTER = re.compile(f"[{UNSPACED}]")
_BETWEEN_UNSPACED = re.compile(rf"(?<=[{UNSPACED}]) (?=[{UNSPACED}])")


def _exact(index: Index, spoken: Sequence[Words], lengths: Sequence[int]) -> Iterator[int]:
    for number, turn in enumerate(spoken):
        for length in lengths:
            for start in range(len(turn) - length + 1):
                for item in index.anchors.get(turn[start : start + length], ()):
                    question = index.questions[item]
                    if turn[start : start + len(question)] != question:
                        continue
                    if _num_words(question) < SHORT_WORDS and turn != question:
                        continue
                    after = [turn[start + len(question) :], *spoken[number + 1 :]]
                    if _is_answered(after, index.answers[item]):
                        yield item


def _is_answered(after: Sequence[Words], answer: Words) -> bool:
    """Whether the answer stands in what comes after the question; there may be none to look for."""
    return not answer or any(_holds(text, answer) for text in after)


def _holds(text: Words, part: Words) -> bool:
    starts = range(len(text) - len(part) + 1)
    return any(text[start : start + len(part)] == part for start in starts)


def _near(index: Index, spoken: Sequence[Words], excerpt: str) -> Iterator[Hit]:
    whole = set(_grams(_joined(spoken), index.wanted.ngram))
    shared: dict[int, list[Words]] = {}
    # Sorted: the order of a set changes from process to process, and the first one is told.
    for gram in sorted(whole & index.ngrams.keys()):
        for item in index.ngrams[gram]:
            shared.setdefault(item, []).append(gram)
    for item, grams in shared.items():
        yield Hit(item, False, len(grams) / index.num_ngrams[item], excerpt, " ".join(grams[0]))
    for turn in spoken:
        shingles = shingles_of(turn)
        if not shingles:
            continue
        for item in index.near.query(_minhash(shingles)):
            mine = index.shingles[item]
            similarity = len(mine & shingles) / len(mine | shingles)
            if similarity >= index.wanted.similarity:
                yield Hit(item, False, similarity, excerpt)


def _grams(said: Words, length: int) -> Iterator[Words]:
    """Each run of `length` words; of letters of scripts without spaces it takes as many as make up
    so many words."""
    weights = [word_weight(word) for word in said]
    end, weight = 0, 0.0
    for start in range(len(said)):
        while weight < length - _ROUNDING and end < len(said):
            weight += weights[end]
            end += 1
        if weight < length - _ROUNDING:
            return
        yield said[start:end]
        weight -= weights[start]


_ROUNDING = 1e-6
"""Sums of weights are not exact."""


def _num_words(said: Words) -> float:
    return sum(map(word_weight, said))


def _minhash(shingles: frozenset[str]) -> Any:
    # Drawing the permutations anew costs more than the sketch of a question.
    sketch = _empty_minhash().copy()
    sketch.update_batch([shingle.encode() for shingle in sorted(shingles)])
    return sketch


@cache
def _empty_minhash() -> Any:
    from datasketch import MinHash

    return MinHash(num_perm=NUM_PERMUTATIONS, seed=1, hashfunc=zlib.crc32)


def _worst_of_each_kind(hits: Iterable[Hit]) -> tuple[dict[int, Hit], dict[int, Hit]]:
    """Of each item the most similar exact hit, and the most similar near one; among equals the one
    whose text comes first."""
    exact: dict[int, Hit] = {}
    near: dict[int, Hit] = {}
    for hit in hits:
        worst = exact if hit.is_exact else near
        known = worst.get(hit.item)
        # The text decides between equals, so that the order in which parts end does not.
        if known is None or (-hit.similarity, hit.training) < (-known.similarity, known.training):
            worst[hit.item] = hit
    return exact, near


def _num_texts(split: Path) -> int:
    from safetensors import safe_open

    with safe_open(str(split), framework="numpy") as tensors:
        return int(tensors.get_slice("offsets").get_shape()[0]) - 1


def _texts(tokenizer_folder: Path, split: Path, start: int, end: int) -> Iterator[list[str]]:
    """The turns of each text from `start` to `end`: what stands between special tokens, without the
    roles' names."""
    from safetensors import safe_open
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    special = set(tokenizer.all_special_ids)
    for number, token in tokenizer.added_tokens_decoder.items():
        if token.special:
            special.add(number)
    with safe_open(str(split), framework="numpy") as tensors:
        offsets = tensors.get_slice("offsets")[start : end + 1]
        tokens = tensors.get_slice("tokens")[int(offsets[0]) : int(offsets[-1])].tolist()
    for first, last in zip(offsets[:-1] - offsets[0], offsets[1:] - offsets[0], strict=True):
        parts = _between(tokens[int(first) : int(last)], special)
        yield [turn for turn in map(_without_role, tokenizer.batch_decode(parts)) if turn]


def _between(tokens: Sequence[int], special: set[int]) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for token in tokens:
        if token in special:
            parts.append([])
        else:
            parts[-1].append(token)
    return [part for part in parts if part]


def _without_role(turn: str) -> str:
    role, line, rest = turn.strip().partition("\n")
    if role.strip().casefold() in ROLES:
        return rest.strip() if line else ""
    return turn.strip()


def _search_with_ray_data(
    tokenizer_folder: Path, split: Path, index: Index, num_texts: int
) -> list[Hit]:
    import ray

    index_ref = ray.put(index)
    starts = range(0, num_texts, TEXTS_A_PART)

    def search_part(batch: dict[str, Any]) -> dict[str, list[Any]]:
        here = ray.get(index_ref)
        found: list[Hit] = []
        for start in batch["item"]:
            end = min(start + TEXTS_A_PART, num_texts)
            found += hits_in(here, _texts(tokenizer_folder, split, start, end))
        # The worst of a part are all that the worst of the whole can be, and far fewer rows.
        exact, near = _worst_of_each_kind(found)
        columns: dict[str, list[Any]] = {name: [] for name in Hit.__dataclass_fields__}
        for hit in (*exact.values(), *near.values()):
            for name, column in columns.items():
                column.append(getattr(hit, name))
        return columns

    parts = ray.data.from_items(list(starts)).map_batches(search_part, batch_size=1)
    return [Hit(**row) for row in parts.take_all()]
