"""Finding one row among cleaned data and their reasons."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from assay.engines.data.cleaning.cleaned import DATA, REASONS
from assay.records.cleaning import Reason


class FoundRow(NamedTuple):
    """A row of the data as they were read."""

    row: str
    at: str
    reasons: tuple[Reason, ...]
    example: str | None
    """As it is now; None where it was left out."""


def find_rows(folder: Path, wanted: str) -> list[FoundRow]:
    """The rows with this id, or the beginning of it, or at this `FILE:LINE`; equal rows have one
    id."""
    reasons: dict[tuple[str, str], list[Reason]] = {}
    for line in _lines(folder / REASONS, wanted):
        reason = Reason.model_validate(line)
        if _is_it(reason.row, reason.at, wanted):
            reasons.setdefault((reason.row, reason.at), []).append(reason)
    examples: dict[tuple[str, str], str] = {}
    for file in sorted((folder / DATA).glob("*.jsonl")):
        for line in _lines(file, wanted):
            row, at = line.pop("row"), line.pop("at")
            if _is_it(row, at, wanted):
                examples[row, at] = json.dumps(line, ensure_ascii=False)
    both = sorted(reasons.keys() | examples.keys())
    found = []
    for row, at in both:
        told = tuple(reasons.get((row, at), ()))
        found.append(FoundRow(row, at, told, examples.get((row, at))))
    return found


def _is_it(row: str, at: str, wanted: str) -> bool:
    return at == wanted or row.startswith(wanted)


def _lines(file: Path, wanted: str) -> Iterator[dict[str, Any]]:
    """The lines in which it stands; most are not parsed."""
    # JSON writes a quotation mark or a backslash in a file's name otherwise.
    mark = json.dumps(wanted, ensure_ascii=False)[1:-1].encode()
    with file.open("rb") as lines:
        for line in lines:
            if mark in line:
                yield json.loads(line)
