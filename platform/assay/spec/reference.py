"""What there is to say about each key of a spec or a suite, for the README, `assay explain` and editors."""

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from pydantic.fields import FieldInfo

from assay.spec.block import Block
from assay.spec.shape import (
    SYNONYMS,
    annotation_at,
    blocks_at,
    choices,
    expected,
    leaves,
    meaning,
    takes_duration,
    takes_share,
)
from assay.spec.written import written
from assay.spec.yaml import Location


@dataclass(frozen=True)
class Entry:
    """One key."""

    path: str
    """From the top, joined by dots; NAME stands for any name."""
    takes: str
    """What may stand there, in words, with its bounds."""
    required: bool
    default: str
    """As one would write it; empty where the key is required or has none."""
    choices: tuple[str, ...]
    """The fixed texts that it offers."""
    unit: str
    example: str
    """As one would write it; empty where the default says enough."""
    meaning: str


def entry(cls: type[Block], location: Location, field: FieldInfo) -> Entry:
    """What there is to say about a field at its location in a `cls`."""
    annotation = annotation_at(cls, location)
    default = "" if field.is_required() or field.default is None else written(field.default, annotation)
    return Entry(
        path=".".join(map(str, location)),
        takes=expected(annotation) + _bounds(annotation, field),
        required=field.is_required(),
        default="" if default == "{}" else default,
        choices=tuple(choices(annotation)),
        unit=_unit(annotation, str(location[-1])),
        example=_example(annotation, field),
        meaning=meaning(cls, location),
    )


def entries(cls: type[Block], location: Location) -> Iterator[Entry]:
    """An entry for each key under a location, those inside a block after the block's own."""
    for block in blocks_at(cls, location):
        for key, field in block.model_fields.items():
            inner: Location = (*location, key)
            yield entry(cls, inner, field)
            yield from entries(cls, (*inner, "NAME") if leaves(annotation_at(cls, inner)) == [dict] else inner)


def about(cls: type[Block], location: Location) -> str:
    """What the block at a location says of itself; empty where there is none."""
    return next((inspect.cleandoc(block.__doc__ or "") for block in blocks_at(cls, location)), "")


def similar_paths(classes: Sequence[type[Block]], said: str) -> list[str]:
    """Paths that were probably meant: those that end in the same key, or else the one that looks most alike."""
    paths = [one.path for cls in classes for one in entries(cls, ())]
    last = said.split(".")[-1]
    ends = [path for path in paths if path.split(".")[-1] == SYNONYMS.get(last, last)]
    return ends[:3] or get_close_matches(said, paths, 1, 0.7)


_BOUNDS = {"gt": "above", "ge": "at least", "lt": "below", "le": "at most"}


def _bounds(annotation: Any, field: FieldInfo) -> str:
    """The smallest and largest number, in words."""
    if expected(annotation) not in ("a number", "a whole number"):
        return ""
    said = [(words, getattr(item, name, None)) for item in field.metadata for name, words in _BOUNDS.items()]
    return "".join(f", {words} {bound:g}" for words, bound in said if bound is not None)


def _unit(annotation: Any, key: str) -> str:
    if takes_duration(annotation):
        return "a time; a plain number is seconds"
    if takes_share(annotation):
        return "a share; 5% is 0.05"
    return next((unit for ending, unit in _UNITS if key.endswith(ending)), "")


_UNITS = (("_gb", "gigabytes"), ("_gb_on_cpu", "gigabytes"), ("_bytes", "bytes"), ("_tokens", "tokens"))


def _example(annotation: Any, field: FieldInfo) -> str:
    if field.examples:
        return written(field.examples[0], annotation)
    return ""
