"""`deduplicate`: a row goes only with its proof, which is the row that stays, how similar they are,
and by what rule."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from assay.engines.data.cleaning.duplicates.candidates import (
    Sketches,
    equal_pairs,
    near_pairs,
    read_pairs,
    word_counts,
)
from assay.engines.data.cleaning.duplicates.facts import Tokens, compare, tokens_of
from assay.engines.data.cleaning.duplicates.sketches import sketch_shard, word_slot
from assay.engines.data.cleaning.rows import (
    Row,
    row_id,
    row_of_line,
    whole_text,
    write_lines,
    write_rows,
)
from assay.engines.data.cleaning.shards import Shard
from assay.spec.steps import DeduplicateSpec

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

Each = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterable[Any]]
PAIRS_AT_ONCE = 20_000
TOKENS_HELD = 50_000
"""Texts whose words are held while pairs are compared; a row is in several pairs."""
HELD_ROWS, NOTES = "held.jsonl", "notes.json"
EQUAL, NEAR = "equal", "near"


@dataclass(frozen=True)
class Dropped:
    """What is looked for, and where it is written."""

    step: str
    spec: DeduplicateSpec
    folder: Path
    target: Path
    """A JSON line for each row that goes: its shard, its place there, and the proof."""
    key: bytes


@dataclass(frozen=True)
class Compare:
    """What a worker needs to compare pairs."""

    rows: tuple[Path, ...]
    sketches: tuple[Path, ...]
    counts: Path
    spec: DeduplicateSpec


def deduplicate(
    wanted: Dropped, shards: Sequence[Shard], held_out: Iterable[Row], each: Each
) -> None:
    """Finds all rows that go. The first of equal or nearly equal ones stays; of `held_out` all do,
    and come before all others. Sketches and comparisons that are on the disk are not made again."""
    import numpy as np

    rows = _held_rows(wanted, held_out)
    num_held_files = len(rows)
    rows += [shard.rows for shard in shards]
    files, missing = [], []
    for number, source in enumerate(rows):
        file = wanted.folder / f"sketch-{number:06d}.npy"
        files.append(file)
        if not file.exists():
            missing.append((source, wanted.spec.same_facts, file))
    for _ in each(sketch_shard, missing):
        pass
    sketches = Sketches(files)
    is_held = np.arange(sketches.num_rows) < sketches.starts[num_held_files]
    equal, gone = _equal(sketches, is_held)
    near: Iterable[Proof] = ()
    num_skipped = 0
    if wanted.spec.near is not None:
        counts = wanted.folder / "words.npy"
        np.save(counts, word_counts([file.with_suffix(".words.npy") for file in files]))
        num_skipped = near_pairs(sketches, gone, is_held, wanted.folder)
        job = Compare(tuple(rows), tuple(files), counts, wanted.spec)
        near = _chosen(_verified(job, read_pairs(wanted.folder), wanted.folder, each), gone)
    entries = _entries(merge(equal, near), sketches, rows, num_held_files)
    write_lines([{"pairs_not_compared": num_skipped}], wanted.folder / NOTES)
    # Last: whoever finds this file takes all of the step for done.
    write_lines(({"step": wanted.step, **entry} for entry in entries), wanted.target)


Proof = tuple[int, int, float, str, str]
"""The row that goes, the one that stays, their similarity, the rule, and what differs."""


def _held_rows(wanted: Dropped, held_out: Iterable[Row]) -> list[Path]:
    file = wanted.folder / HELD_ROWS
    if not file.exists():
        named = (row._replace(id=row_id(row.example, wanted.key)) for row in held_out)
        write_rows(named, file)
    return [file] if file.stat().st_size else []


def _equal(sketches: Sketches, is_held: "Array") -> "tuple[Iterator[Proof], Array]":
    """Proofs for the equal ones, in the rows' order, and which rows need not be looked at any
    more."""
    import numpy as np

    gone = np.zeros(sketches.num_rows, dtype=bool)
    pairs = equal_pairs(sketches)
    gone[pairs[:, 1]] = True
    going = pairs[~is_held[pairs[:, 1]]]
    going = going[np.argsort(going[:, 1])]
    return ((int(row), int(kept), 1.0, EQUAL, "") for kept, row in going), gone


def _verified(
    job: Compare, pairs: "Array", folder: Path, each: Each
) -> Iterator[tuple[int, int, float, str]]:
    """The pairs that are alike indeed, in order: earlier row, later row, similarity, difference."""
    starts = range(0, len(pairs), PAIRS_AT_ONCE)
    targets = [folder / f"verified-{number:06d}.jsonl" for number in range(len(starts))]

    def missing() -> Iterator[tuple[Any, ...]]:
        # One by one: each call carries its pairs.
        for start, target in zip(starts, targets, strict=True):
            if not target.exists():
                yield job, pairs[start : start + PAIRS_AT_ONCE], target

    for _ in each(verify_pairs, missing()):
        pass
    for target in targets:
        with target.open("rb") as lines:
            yield from map(json.loads, lines)


def verify_pairs(job: Compare, pairs: "Array", target: Path) -> str:
    """Compares the texts of pairs themselves; writes those that are as similar as is wanted, and,
    where that is wanted, say the same. Returns the name of the file."""
    import numpy as np

    counts = np.load(job.counts, mmap_mode="r")
    tokens = _TokenReader(job)
    assert job.spec.near is not None
    found = []
    for earlier, later in pairs.tolist():
        compared = compare(
            tokens.of(earlier),
            tokens.of(later),
            least=job.spec.near,
            same_facts=job.spec.same_facts,
            frequency=lambda word: int(counts[word_slot(word)]),
        )
        if compared is not None:
            found.append((earlier, later, round(compared.similarity, 4), compared.difference))
    write_lines(found, target)
    return target.name


class _TokenReader:
    """Reads rows by their number."""

    def __init__(self, job: Compare) -> None:
        self.sketches = Sketches(job.sketches)
        self.rows = job.rows
        self.of = lru_cache(TOKENS_HELD)(self._read)

    def _read(self, row: int) -> Tokens:
        return tokens_of(whole_text(read_row(self.sketches, self.rows, row).example))


def read_row(sketches: Sketches, rows: Sequence[Path], row: int) -> Row:
    """One row by its number among all."""
    shard, place = sketches.place(row)
    with rows[shard].open("rb") as lines:
        lines.seek(int(sketches.tables[shard]["offset"][place]))
        return row_of_line(lines.readline())


def _chosen(verified: Iterable[tuple[int, int, float, str]], gone: "Array") -> Iterator[Proof]:
    """Row by row, in order: one goes when an earlier one that stays is like it; its proof is the
    most similar of them."""
    import numpy as np

    is_gone = np.array(gone)
    for later, pairs in groupby(verified, key=lambda pair: pair[1]):
        proofs = [pair for pair in pairs if not is_gone[pair[0]]]
        if proofs:
            is_gone[later] = True
            # Of two that are as similar the earlier one.
            earlier, _, similarity, difference = max(proofs, key=lambda pair: (pair[2], -pair[0]))
            yield later, earlier, similarity, NEAR, difference


def _entries(
    proofs: Iterable[Proof], sketches: Sketches, rows: Sequence[Path], num_held_files: int
) -> Iterator[dict[str, Any]]:
    """Lines of the file of rows that go, in the rows' order."""
    for row, kept, similarity, rule, difference in proofs:
        shard, place = sketches.place(row)
        goes, stays = read_row(sketches, rows, row), read_row(sketches, rows, kept)
        yield {
            "shard": shard - num_held_files,
            "place": place,
            "row": goes.id,
            "at": goes.at,
            "source": goes.source,
            "rule": rule,
            "kept": stays.id,
            "kept_at": stays.at,
            "kept_source": stays.source,
            "kept_is_held_out": sketches.place(kept)[0] < num_held_files,
            "similarity": similarity,
            "difference": difference,
        }
