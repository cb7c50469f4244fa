"""What the steps leave: the data, the reasons, and the counts, as one folder of files."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from assay.engines.data.cleaning.clean import Segment
from assay.engines.data.cleaning.profile import Profile
from assay.engines.data.cleaning.rows import Row, example_of, read_rows, record_of
from assay.engines.data.cleaning.shards import CHANGED, DROPPED, MADE, read_counts, reason_data
from assay.engines.data.families import Families, family_key
from assay.errors import UsageError
from assay.records.cleaning import CleaningRecord, Reason, RowProfile, StepCounts

DATA, REASONS = "data", "reasons.jsonl"
ROWS_A_FILE = 100_000


def cleaned_files(record: CleaningRecord, train: Sequence[str]) -> dict[str, list[Path]]:
    """The files of each entry of `data.train`; an entry of which nothing is left has an empty
    one."""
    return files_of(Path(record.artifact.path), train)


def files_of(folder: Path, train: Sequence[str]) -> dict[str, list[Path]]:
    """The same for a folder that `write_cleaned` wrote."""
    found: dict[str, list[Path]] = {}
    for index, source in enumerate(train):
        # An entry that stands twice has its rows under its first number.
        if source not in found:
            found[source] = sorted((folder / DATA).glob(f"{index:03d}-*.jsonl"))
    return found


def families_of(folder: Path) -> Families:
    """What was made of others, in a folder that `write_cleaned` wrote."""
    made_of = set()
    for line in _data_lines(folder):
        # Most data have no products, and need not be parsed.
        if b'"parent"' in line and (parent := json.loads(line).get("parent")):
            made_of.add(parent)
    if not made_of:
        return Families()
    found: dict[bytes, str] = {}
    products: set[bytes] = set()
    as_read: set[bytes] = set()
    for line in _data_lines(folder):
        record = json.loads(line)
        parent = record.get("parent", "")
        key = family_key(example_of(record))
        (products if parent else as_read).add(key)
        if (family := parent or record["row"]) in made_of:
            found[key] = family
    return Families(found, frozenset(products - as_read))


def _data_lines(folder: Path) -> Iterator[bytes]:
    for file in sorted((folder / DATA).glob("*.jsonl")):
        with file.open("rb") as lines:
            yield from lines


def read_reasons(folder: Path) -> Iterator[Reason]:
    """Every reason, step after step, each in the order of the data."""
    with (folder / REASONS).open("rb") as lines:
        for line in lines:
            yield Reason.model_validate_json(line)


def write_cleaned(segments: Sequence[Segment], train: Sequence[str], folder: Path) -> int:
    """Writes what is left, and all reasons. Returns the number of rows. Raises `UsageError` when
    nothing is left."""
    (folder / DATA).mkdir(parents=True)
    writer = _DataWriter(folder / DATA)
    for shard in segments[-1].shards():
        for row in read_rows(shard.rows):
            writer.add(row)
    writer.close(len(train))
    with (folder / REASONS).open("w", encoding="utf-8") as lines:
        for line in _reasons(segments):
            lines.write(line)
    if not writer.num_rows:
        raise UsageError(
            "data.steps leave nothing to train on; `assay data show` says what each step does"
        )
    return writer.num_rows


class _DataWriter:
    """Rows as data files by their entry, of one form each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.num_rows = 0
        self._counts: Counter[int] = Counter()
        """Files of each entry."""
        self._now: tuple[int, tuple[str, ...]] | None = None
        self._in_file = 0
        self._file: Any = None

    def add(self, row: Row) -> None:
        """Writes a row, with its id and its place, which the readers pass over."""
        record = record_of(row.example)
        now = row.source, tuple(record)
        if now != self._now or self._in_file == ROWS_A_FILE:
            self._next(row.source)
            self._now = now
        line = {**record, "row": row.id, "at": row.at}
        if row.parent:
            line["parent"] = row.parent
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._in_file += 1
        self.num_rows += 1

    def _next(self, source: int) -> None:
        if self._file is not None:
            self._file.close()
        name = f"{source:03d}-{self._counts[source]:06d}.jsonl"
        self._counts[source] += 1
        self._in_file = 0
        self._file = (self.folder / name).open("w", encoding="utf-8")

    def close(self, num_sources: int) -> None:
        """An entry without rows gets an empty file: without any, its own files would be read."""
        for source in range(num_sources):
            if not self._counts[source]:
                self._next(source)
        if self._file is not None:
            self._file.close()


def _reasons(segments: Sequence[Segment]) -> Iterator[str]:
    """Lines of all reasons, step after step."""
    for segment in segments:
        for entry in segment.dropped():
            yield json.dumps(reason_data(_reason_of(entry)), ensure_ascii=False) + "\n"
        for made in segment.made():
            yield json.dumps(made, ensure_ascii=False) + "\n"
        for shard in segment.shards():
            with shard.reasons.open(encoding="utf-8") as lines:
                yield from lines


def _reason_of(entry: Mapping[str, Any]) -> Reason:
    rule, difference = entry["rule"], entry["difference"]
    why = "says the same" if rule == "equal" else "says nearly the same"
    if difference:
        why = f"{why}: {difference}"
    if entry["kept_is_held_out"]:
        why = f"{why}; the other is held out"
    return Reason(
        row=entry["row"],
        at=entry["at"],
        step=entry["step"],
        action="dropped",
        counts={rule: 1},
        why=why,
        kept=entry["kept"],
        kept_at=entry["kept_at"],
        similarity=entry["similarity"],
    )


def counts_of(
    segments: Sequence[Segment], names: Sequence[str], train: Sequence[str]
) -> tuple[tuple[StepCounts, ...], RowProfile, RowProfile]:
    """What each step did, and what the rows were like before and after."""
    before, after = Profile(), Profile()
    totals: dict[str, Counter[str]] = {name: Counter() for name in names}
    notes: dict[str, str] = {}
    for segment in segments:
        for entry in segment.dropped():
            totals[entry["step"]].update(_counted_drop(entry))
        for made in segment.made():
            action = made["action"]
            totals[made["step"]].update([action, *(f"{action}.{rule}" for rule in made["counts"])])
        for head in (segment.deduplicate, segment.augment):
            if head is not None:
                notes[head[0]] = segment.note()
        for shard in segment.shards():
            counts = read_counts(shard)
            before.merge(counts["before"])
            after.merge(counts["after"])
            for step, found in counts["steps"].items():
                totals[step].update(found)
    steps = tuple(_step_counts(name, totals[name], notes.get(name, "")) for name in names)
    return steps, _row_profile(before, train), _row_profile(after, train)


def _counted_drop(entry: Mapping[str, Any]) -> Iterable[str]:
    yield DROPPED
    yield f"{DROPPED}.{entry['rule']}"
    if entry["kept_is_held_out"]:
        yield f"{DROPPED}.held_out"
    elif entry["kept_source"] != entry["source"]:
        yield f"{DROPPED}.of_another_source"


def _step_counts(name: str, counts: Counter[str], note: str) -> StepCounts:
    return StepCounts(
        name=name,
        num_changed=counts[CHANGED],
        num_dropped=counts[DROPPED],
        changed=_of_action(counts, CHANGED),
        dropped=_of_action(counts, DROPPED),
        made=_of_action(counts, MADE),
        note=note,
    )


def _of_action(counts: Counter[str], action: str) -> dict[str, int]:
    prefix = f"{action}."
    found = {}
    for name, number in sorted(counts.items()):
        if name.startswith(prefix):
            found[name.removeprefix(prefix)] = number
    return found


def _row_profile(profile: Profile, train: Sequence[str]) -> RowProfile:
    data = profile.as_data()
    sources, lengths = {}, {}
    for index, number in data["sources"].items():
        sources[train[int(index)]] = number
    # As numbers: as text 1000 comes before 200.
    for most in sorted(data["lengths"], key=int):
        lengths[int(most)] = data["lengths"][most]
    return RowProfile(sources=sources, languages=data["languages"], lengths=lengths)
