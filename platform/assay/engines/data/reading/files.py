"""Lines and rows of the kinds of files that hold examples."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

from assay.engines.data.reading.examples import Record
from assay.engines.data.reading.line_errors import LineError, kind_of

BATCH_ROWS = 1024  # of a table, in memory at a time

Rows = Iterator[tuple[int, Record | LineError]]
"""Numbers of lines or rows, from 1, and what stands there."""


def json_lines(file: Path) -> Rows:
    """One object a line; blank lines are left out, but counted."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                # Windows' editors begin UTF-8 with a byte order mark, which JSON does not allow.
                line = line.removeprefix(b"\xef\xbb\xbf")
            text = line.strip()
            if text:
                try:
                    yield number, _record(text)
                except LineError as wrong:
                    yield number, wrong


def _json(file: Path) -> Rows:
    """One array of objects; JSON Lines under this name are read, too."""
    try:
        whole = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        whole = None
    if not isinstance(whole, list):
        yield from json_lines(file)
        return
    for number, record in enumerate(whole, start=1):
        if isinstance(record, dict):
            yield number, record
        else:
            yield number, LineError("", "type", f"expected an object, found {kind_of(record)}")


def _csv(file: Path) -> Rows:
    """A header and rows; every cell is text, but `label` is true or false where it says so."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.DictReader(text, strict=True)
            for record in reader:
                # DictReader puts cells that are too many under None, and None where one is missing.
                if None in record or None in record.values():
                    wrong = LineError("", "type", "this row has not as many cells as the header")
                    yield reader.line_num, wrong
                    continue
                row: Record = {**record}
                label = str(record.get("label")).lower()
                if label in ("true", "false"):
                    row["label"] = label == "true"
                yield reader.line_num, row
    except UnicodeDecodeError:
        yield 1, LineError("", "not_json_lines", "this is not UTF-8", "save the file as UTF-8")
    except csv.Error as error:
        yield reader.line_num, LineError("", "not_json_lines", f"this is not CSV: {error}")


def _parquet(file: Path) -> Rows:
    import pyarrow as arrow
    import pyarrow.parquet

    try:
        batches = arrow.parquet.ParquetFile(file).iter_batches(BATCH_ROWS)
        yield from _numbered(record for batch in batches for record in batch.to_pylist())
    except arrow.ArrowInvalid as error:
        yield 1, LineError("", "not_json_lines", f"this is not Parquet: {error}")


def _arrow(file: Path) -> Rows:
    """Arrow's file format, or its stream format, which Hugging Face's data sets are kept in."""
    import pyarrow as arrow

    try:
        with arrow.memory_map(str(file)) as source:
            try:
                table = arrow.ipc.open_file(source).read_all()
            except arrow.ArrowInvalid:
                source.seek(0)
                table = arrow.ipc.open_stream(source).read_all()
            batches = table.to_batches(max_chunksize=BATCH_ROWS)
            yield from _numbered(record for batch in batches for record in batch.to_pylist())
    except arrow.ArrowInvalid as error:
        yield 1, LineError("", "not_json_lines", f"this is not Arrow: {error}")


def _numbered(records: Iterator[Record]) -> Rows:
    for number, record in enumerate(records, start=1):
        # A column of a table stands in every row: null is where JSON Lines leaves the key out.
        yield number, {key: value for key, value in record.items() if value is not None}


ROWS: dict[str, Callable[[Path], Rows]] = {
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".arrow": _arrow,
}

TABLES = (".json", ".parquet", ".arrow")


def _record(line: bytes) -> Record:
    try:
        record = json.loads(line.decode())
    except UnicodeDecodeError:
        raise LineError(
            "", "not_json_lines", "this is not UTF-8", "save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        # The first line of an array that goes on breaks off at its end.
        if line.startswith(b"[") and error.pos == len(line):
            raise LineError("", "not_json_lines", *_ONE_ARRAY) from None
        message = f"this is not JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise LineError("", "json", message, column=error.colno) from None
    except (ValueError, RecursionError):
        raise LineError(
            "", "json", "this JSON is nested too deep, or holds a number that is too long"
        ) from None
    if isinstance(record, list):
        raise LineError("", "not_json_lines", *_ONE_ARRAY)
    if not isinstance(record, dict):
        raise LineError("", "type", f"expected an object, found {kind_of(record)}")
    return record


_ONE_ARRAY = (
    "a JSON array, not JSON Lines",
    "write one object a line: jq -c '.[]' FILE > FILE.jsonl",
)
