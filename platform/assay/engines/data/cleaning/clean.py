"""All of `data.steps`, shard by shard: what is held in memory does not grow with the data, and a
run that was killed goes on after the last finished shard.

Steps that look at one row are joined to segments, which run in parallel. `deduplicate` compares all
rows, and `augment` makes more of them: both begin a new segment. Neither the size of shards nor the
number of workers bears on the outcome.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from assay.engines.data.cleaning.augment.asked import Ask
from assay.engines.data.cleaning.augment.augment import (
    AugmentedShard,
    Augmenter,
    checked_form,
    held_of,
)
from assay.engines.data.cleaning.duplicates.deduplicate import NOTES, Dropped, deduplicate
from assay.engines.data.cleaning.rows import HELD_OUT, Row, read_rows, write_lines, write_rows
from assay.engines.data.cleaning.shards import RowSteps, Shard, clean_shard, reason_data
from assay.engines.data.learned_rows import BLOCK_ROWS, is_full, num_characters_of
from assay.engines.data.reading.sources import check_forms, stream_rows
from assay.engines.data.splits import Fetched
from assay.spec.data import DataSpec, HeldOut
from assay.spec.steps import StepSpec, step_names

Each = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterable[Any]]
"""Calls a function with each tuple of arguments; yields the results in their order."""
SHARDS_PER_WORD = 25
"""How often it is told how far it is."""


@dataclass(frozen=True)
class Cleaning:
    """What is to be done, where, and by whom."""

    data: DataSpec
    root: Path
    fetched: Fetched
    folder: Path
    """For what is in between. What another attempt at the very same work left there is used."""
    key: bytes
    """Of the place."""
    each: Each
    say: Callable[[str], None]
    ask: Ask | None = None
    """Asks the models of `augment`; None where none is to be asked."""


class Segment:
    """Steps that are done in one go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.deduplicate: tuple[str, StepSpec] | None = None
        """Comes before the others."""
        self.augment: tuple[str, StepSpec] | None = None
        """So does this; a segment has one of the two, or neither."""
        self.steps: list[tuple[str, StepSpec]] = []

    def shards(self) -> list[Shard]:
        """The finished ones, in order."""
        numbers = sorted(int(file.stem[len("counts-") :]) for file in self.folder.glob("counts-*"))
        return [Shard(self.folder, number) for number in numbers]

    @property
    def drops(self) -> Path:
        """What `deduplicate` leaves out."""
        return self.folder / "dropped.jsonl"

    def dropped(self) -> Iterator[dict[str, Any]]:
        """Its lines; none where the segment has no such step."""
        if self.deduplicate is None:
            return
        with self.drops.open("rb") as lines:
            yield from map(json.loads, lines)

    def made(self) -> Iterator[dict[str, Any]]:
        """What `augment` made, kept or not; nothing where the segment has no such step."""
        for file in sorted(self.folder.glob("made-*.jsonl")):
            with file.open("rb") as lines:
                yield from map(json.loads, lines)

    @property
    def budget_note(self) -> Path:
        """What `augment` used and did not do."""
        return self.folder / "augment-note.json"

    def note(self) -> str:
        """What `deduplicate` did not look at, or `augment` did not make."""
        if self.augment is not None:
            return str(json.loads(self.budget_note.read_bytes())["note"])
        notes = json.loads((self.folder / NOTES).read_bytes())
        num_skipped = notes["pairs_not_compared"]
        if not num_skipped:
            return ""
        return f"{num_skipped:,} pairs of rows made of one template were not compared"


def segments_of(steps: Sequence[StepSpec], folder: Path) -> list[Segment]:
    """The steps in order, cut before each that compares all rows."""
    segments = [Segment(folder / "0")]
    for name, step in zip(step_names(tuple(steps)), steps, strict=True):
        if step.deduplicate is not None:
            segments.append(Segment(folder / str(len(segments))))
            segments[-1].deduplicate = name, step
        elif step.augment is not None:
            segments.append(Segment(folder / str(len(segments))))
            segments[-1].augment = name, step
        else:
            segments[-1].steps.append((name, step))
    return segments


def clean(cleaning: Cleaning, forms: Sequence[str]) -> list[Segment]:
    """Does all steps. Raises `InvalidInput` for broken lines, and `UsageError` for data of another
    form than `forms`."""
    for step in cleaning.data.steps:
        if step.augment is not None:
            checked_form(step.augment, forms)
    segments = segments_of(cleaning.data.steps, cleaning.folder)
    for number, segment in enumerate(segments):
        segment.folder.mkdir(parents=True, exist_ok=True)
        row_steps = RowSteps(
            tuple(segment.steps),
            cleaning.key,
            cleaning.root,
            is_first=number == 0,
            is_last=number == len(segments) - 1,
        )
        calls: Iterator[tuple[Any, ...]]
        if number == 0:
            calls = _from_files(cleaning, forms, segment, row_steps)
        elif segment.augment is not None:
            calls = _from_augmented(cleaning, segments[number - 1], segment, row_steps)
        else:
            calls = _from_shards(cleaning, segments[number - 1], segment, row_steps)
        names = ", ".join(name for name, _ in segment.steps) or "reading"
        for done, _ in enumerate(cleaning.each(clean_shard, calls), start=1):
            if done % SHARDS_PER_WORD == 0:
                cleaning.say(f"{names}: {done} shards of up to {BLOCK_ROWS} rows")
    return segments


def _from_files(
    cleaning: Cleaning, forms: Sequence[str], segment: Segment, row_steps: RowSteps
) -> Iterator[tuple[Sequence[Row], Sequence[int], RowSteps, Shard]]:
    """Calls for the shards of the data as they are read; a finished shard is read past."""
    rows = _read(cleaning)
    for number, block in enumerate(_blocks(_of_form(rows, forms, cleaning.data.train))):
        shard = Shard(segment.folder, number)
        if not shard.is_finished:
            yield block, (), row_steps, shard


def _of_form(rows: Iterator[Row], forms: Sequence[str], train: Sequence[str]) -> Iterator[Row]:
    """The same rows; raises at the first of another form than the objective learns from."""
    for row in rows:
        check_forms([row.example], forms, train[row.source])
        yield row


def _read(cleaning: Cleaning) -> Iterator[Row]:
    data = cleaning.data
    indices: dict[str, int] = {}
    for index, source in enumerate(data.train):
        # An entry that stands twice has its rows under its first number.
        indices.setdefault(source, index)
    # The system's prompt is put before them when they are split.
    for row in stream_rows(data.train, data.format, None, cleaning.root, cleaning.fetched):
        at = f"{_place(row.source, row.file, cleaning)}:{row.number}"
        yield Row("", indices[row.source], at, row.example)


def _place(source: str, file: Path, cleaning: Cleaning) -> str:
    """A file as the user knows it: what was fetched has another name on this machine."""
    if source in cleaning.fetched:
        copies = cleaning.fetched[source]
        return source if len(copies) == 1 else f"{source}#{copies.index(file) + 1}"
    return os.path.relpath(file, cleaning.root)


def held_out_rows(cleaning: Cleaning) -> Iterator[Row]:
    """The examples of the files that are held out, or that a step compares with: training data must
    not repeat them."""
    data = cleaning.data
    wanted = [
        (split.source, data.format)
        for split in (data.gate, data.selection)
        if isinstance(split, HeldOut)
    ]
    if data.compared_patterns:
        wanted.append((data.compared_patterns, "auto"))
    for source, form in wanted:
        for row in stream_rows(source, form, None, cleaning.root, cleaning.fetched):
            at = f"{_place(row.source, row.file, cleaning)}:{row.number}"
            yield Row("", HELD_OUT, at, row.example)


def _blocks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    block: list[Row] = []
    num_characters = 0
    for row in rows:
        block.append(row)
        num_characters += num_characters_of(row.example)
        if is_full(len(block), num_characters):
            yield block
            block, num_characters = [], 0
    if block:
        yield block


def _from_shards(
    cleaning: Cleaning, before: Segment, segment: Segment, row_steps: RowSteps
) -> Iterator[tuple[Path, Sequence[int], RowSteps, Shard]]:
    """Calls for the shards of the segment before, once it is known what `deduplicate` drops."""
    shards = before.shards()
    dropped = _dropped(cleaning, shards, segment)
    for source in shards:
        shard = Shard(segment.folder, source.number)
        if not shard.is_finished:
            yield source.rows, dropped.get(source.number, ()), row_steps, shard


def _from_augmented(
    cleaning: Cleaning, before: Segment, segment: Segment, row_steps: RowSteps
) -> Iterator[tuple[Path, Sequence[int], RowSteps, Shard]]:
    """Calls for the shards of the segment before, with what is made of their rows. Here, and one
    after the other: what a model may be asked is counted over all."""
    assert segment.augment is not None
    name, step = segment.augment
    assert step.augment is not None
    held = held_of(held_out_rows(cleaning))
    augmenter = Augmenter(name, step.augment, cleaning.key, held, cleaning.ask)
    for source in before.shards():
        shard = Shard(segment.folder, source.number)
        augmented = AugmentedShard(segment.folder, source.number)
        # What is asked is counted from the first row on: with a budget finished shards are made
        # again, of answers that are on file.
        if step.augment.ask is not None or not augmented.rows.exists():
            cleaning.say(f"{name}: making more of shard {source.number + 1}")
            rows, reasons = augmenter.augmented(list(read_rows(source.rows)))
            write_lines(map(reason_data, reasons), augmented.reasons)
            write_rows(rows, augmented.rows)
        if not shard.is_finished:
            yield augmented.rows, (), row_steps, shard
    write_lines([{"note": augmenter.note()}], segment.budget_note)


def _dropped(
    cleaning: Cleaning, shards: Sequence[Shard], segment: Segment
) -> Mapping[int, Sequence[int]]:
    """Places of the rows that go, by their shard."""
    assert segment.deduplicate is not None
    name, step = segment.deduplicate
    assert step.deduplicate is not None
    if not segment.drops.exists():
        cleaning.say(f"{name}: looking for rows that are alike")
        deduplicate(
            Dropped(name, step.deduplicate, segment.folder, segment.drops, cleaning.key),
            shards,
            held_out_rows(cleaning),
            cleaning.each,
        )
    found: dict[int, list[int]] = {}
    for entry in segment.dropped():
        found.setdefault(entry["shard"], []).append(entry["place"])
    return found
