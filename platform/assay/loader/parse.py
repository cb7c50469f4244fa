"""From a file to a validated block, with every mistake at its place."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from pydantic import ValidationError

from assay.errors import InvalidInput, Problem
from assay.loader.validation_errors import mistakes
from assay.loader.yaml.reader import MAX_BYTES, Document, read_around_errors
from assay.spec.block import Block

B = TypeVar("B", bound=Block)


class Parsed(NamedTuple, Generic[B]):
    """A document that was read: its block if that could be built, and its mistakes."""

    block: B | None
    document: Document
    problems: list[Problem]


def parse(path: Path, cls: type[B]) -> Parsed[B]:
    """Read a YAML file as a `cls`. Raises InvalidInput where there is nothing that could be
    validated."""
    return validated(read_file(path), cls)


def read_file(path: Path) -> Document:
    """A YAML file that says something, as far as it can be read. Raises InvalidInput."""
    file = str(path)
    document = read_around_errors(read_bytes(path), file)
    if document.value is None:
        raise InvalidInput(
            document.problems or [Problem(file, 0, 0, "", "empty", "the file is empty")]
        )
    return document


def read_bytes(path: Path) -> bytes:
    """What a file holds, but little more than is allowed. Raises InvalidInput."""
    file = str(path)
    if not os.path.isfile(path):
        if os.path.isdir(path):
            what = "this is a folder, not a file"
        else:
            what = "there is no such file"
        raise InvalidInput([Problem(file, 0, 0, "", "no_file", what)])
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        message = f"the file cannot be read: {error.strerror}"
        raise InvalidInput([Problem(file, 0, 0, "", "no_file", message)]) from error


def validated(document: Document, cls: type[B]) -> Parsed[B]:
    """A document as a `cls`; its own mistakes first, and no second one at the same place."""
    block, error = _block(cls, document)
    errors = error.errors(include_url=False) if error else []
    found = mistakes(cls, document, [one for one in errors if not _is_unread(document, one["loc"])])
    known = set()
    for problem in document.problems:
        known.add((problem.file, problem.line, problem.column))
    new = []
    for one in found:
        if not one.line or (one.file, one.line, one.column) not in known:
            new.append(one)
    return Parsed(block, document, in_order([*document.problems, *new]))


def _is_unread(document: Document, location: Sequence[int | str]) -> bool:
    return bool(location) and location[0] in document.unread


def in_order(problems: list[Problem]) -> list[Problem]:
    """The same problems as they stand in their files."""
    return sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column))


def _block(cls: type[B], document: Document) -> tuple[B | None, ValidationError | None]:
    try:
        return cls.model_validate(document.value), None
    except ValidationError as error:
        return None, error
