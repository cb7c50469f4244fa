"""Data sets as versions: their examples as Parquet shards in the place's folder, under a name that
is the digest of what they say. Nothing there is ever written again."""

import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from assay.engines.data.learned_rows import ListDigest
from assay.engines.data.reading.examples import Example, form_of
from assay.engines.data.reading.sources import stream_rows
from assay.errors import IntegrityError, UsageError
from assay.records.data_set import DataSetManifest, DataShard
from assay.spec.data import DataFormat

FOLDER, MANIFEST = "registry", "manifest.json"
SHARD_BYTES = 10**9
"""Most bytes of a shard, about: it is closed at nine tenths."""
ROWS_AT_ONCE = 2_000


def register(
    home: Path, name: str, patterns: Sequence[str], format: DataFormat, root: Path
) -> DataSetManifest:
    """Keeps the examples of some files as a version; the same examples in the same order are the
    same version, whatever form their files have. Raises `InvalidInput` for broken lines, and
    `UsageError` for data of several forms."""
    parent = home / FOLDER / name
    draft = parent / f".draft-{os.getpid()}"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        made = _written(draft, name, patterns, format, root)
        (draft / MANIFEST).write_text(made.model_dump_json(indent=1) + "\n", encoding="utf-8")
        target = parent / made.version
        if not target.exists():
            draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return made


def manifest(home: Path, name: str, version: str) -> DataSetManifest:
    """What is said of a version. Raises `UsageError` where there is none, with those that are."""
    file = home / FOLDER / name / version / MANIFEST
    if not file.is_file():
        there = ", ".join(versions(home, name)) or "none of that name"
        raise UsageError(
            f"registry:{name}@{version}: there is no such version in this place; there are: "
            f"{there}. `assay data register` makes one"
        )
    return DataSetManifest.model_validate_json(file.read_bytes())


def versions(home: Path, name: str) -> list[str]:
    """Those of a name, sorted."""
    return sorted(file.parent.name for file in (home / FOLDER / name).glob(f"[!.]*/{MANIFEST}"))


def names(home: Path) -> list[str]:
    """All names, sorted."""
    found = (folder.name for folder in (home / FOLDER).glob("*") if folder.is_dir())
    return sorted(name for name in found if versions(home, name))


def shards(home: Path, name: str, version: str) -> list[Path]:
    """A version's files, in order. Raises `IntegrityError` where the bytes of one are not those
    that were registered."""
    folder = home / FOLDER / name / version
    found = []
    for shard in manifest(home, name, version).shards:
        file = folder / shard.file
        if not file.is_file() or _sha256(file) != shard.sha256:
            raise IntegrityError(
                f"registry:{name}@{version}: {file} is not as it was registered; register the "
                "data again from where they came"
            )
        found.append(file)
    return found


def _written(
    folder: Path, name: str, patterns: Sequence[str], format: DataFormat, root: Path
) -> DataSetManifest:
    whole = ListDigest()
    sources: dict[str, Path] = {}
    forms: set[str] = set()

    def examples() -> Iterator[Example]:
        for row in stream_rows(patterns, format, None, root):
            sources.setdefault(os.path.relpath(row.file, root), row.file)
            forms.add(form_of(row.example))
            if len(forms) > 1:
                raise UsageError(
                    f"{row.file}: data of the forms {' and '.join(sorted(forms))} cannot be one "
                    "version; register each by itself"
                )
            whole.add(row.example)
            yield row.example

    files = list(_shards(folder, examples()))
    return DataSetManifest(
        name=name,
        version=whole.hex()[:16],
        digest=whole.hex(),
        form=forms.pop(),
        num_rows=sum(shard.num_rows for shard in files),
        shards=tuple(files),
        sources={path: _sha256(file) for path, file in sorted(sources.items())},
    )


def _shards(folder: Path, examples: Iterable[Example]) -> Iterator[DataShard]:
    from assay.engines.data.cleaning.rows import record_of

    writer = _Writer(folder)
    block: list[dict[str, Any]] = []
    for example in examples:
        block.append(record_of(example))
        if len(block) == ROWS_AT_ONCE:
            writer.add(block)
            block = []
    writer.add(block)
    writer.close()
    for file, num_rows in zip(writer.files, writer.num_rows, strict=True):
        size = file.stat().st_size
        yield DataShard(file=file.name, sha256=_sha256(file), num_rows=num_rows, num_bytes=size)


class _Writer:
    """Parquet files of a folder, each closed before it is too large."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: list[Path] = []
        self.num_rows: list[int] = []
        self._open: Any = None

    def add(self, records: list[dict[str, Any]]) -> None:
        """Adds rows to the file that is open, or to the next."""
        if not records:
            return
        import pyarrow as arrow
        from pyarrow import parquet

        table = arrow.Table.from_pylist(records)
        if self._open is None:
            self.files.append(self.folder / f"{len(self.files):05d}.parquet")
            self.num_rows.append(0)
            self._open = parquet.ParquetWriter(self.files[-1], table.schema, compression="zstd")
        self._open.write_table(table)
        self.num_rows[-1] += len(records)
        if self.files[-1].stat().st_size > 0.9 * SHARD_BYTES:
            self.close()

    def close(self) -> None:
        """Ends the file that is open."""
        if self._open is not None:
            self._open.close()
            self._open = None


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
