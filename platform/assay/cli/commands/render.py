"""`assay render`: the whole spec that a run would have, each value with where it is from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from assay.loader.annotations import annotation_at
from assay.loader.compose import Override
from assay.loader.load import resolve_spec
from assay.loader.yaml.reader import Document, Location, SourceLocation
from assay.loader.yaml.writer import written
from assay.spec.block import Block
from assay.spec.spec import Spec
from assay.text import width as columns_of

# Comments are aligned no further to the right than this, except behind longer lines.
WIDEST = 60


@dataclass(frozen=True)
class Line:
    """One line of the rendered spec."""

    location: Location
    text: str
    origin: str
    """`default`, a file with its line, or the option; empty for a key that only opens a block."""


def rendered(path: Path, overrides: Sequence[Override]) -> str:
    """The resolved spec as YAML, with comments. Raises InvalidInput."""
    spec, document = resolve_spec(path, overrides)
    lines = list(_lines(spec, (), document))
    width = min(WIDEST, max(columns_of(line.text) for line in lines))
    return "\n".join(_shown(line, width) for line in lines)


def rendered_data(path: Path, overrides: Sequence[Override]) -> dict[str, Any]:
    """The same as data: the spec, and where each of its paths is from. Raises InvalidInput."""
    spec, document = resolve_spec(path, overrides)
    origins = {}
    for line in _lines(spec, (), document):
        if line.origin:
            origins[".".join(map(str, line.location))] = line.origin
    return {"spec": spec.model_dump(mode="json"), "origins": origins}


def _lines(block: Block, location: Location, document: Document) -> Iterator[Line]:
    """A line for each key of a block that says something, those inside a block after its own."""
    for key, field in type(block).model_fields.items():
        value, inner = getattr(block, key), (*location, key)
        is_default = value == field.get_default()
        if not is_default or value is not None or inner in document.positions.values:
            yield from _value_lines(key, value, inner, document, is_default)


def _value_lines(
    key: str, value: Any, location: Location, document: Document, is_default: bool
) -> Iterator[Line]:
    indent = "  " * (len(location) - 1)
    inside = list(_inside(value, location, document, is_default))
    if inside:
        yield Line(location, f"{indent}{key}:", "")
        yield from inside
    else:
        if isinstance(value, Block):
            text = "{}"
        else:
            text = written(value, annotation_at(Spec, location))
        yield Line(location, f"{indent}{key}: {text}", _origin(location, document, is_default))


def _inside(value: Any, location: Location, document: Document, is_default: bool) -> Iterator[Line]:
    """The lines of a value that takes more than one."""
    if isinstance(value, Block):
        yield from _lines(value, location, document)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _value_lines(written(name), inner, (*location, name), document, is_default)
    elif isinstance(value, tuple) and any(isinstance(item, Block) for item in value):
        for index, item in enumerate(value):
            first, *others = _lines(item, (*location, index), document)
            yield replace(first, text="  " * len(location) + "- " + first.text.lstrip())
            yield from others


def _origin(location: Location, document: Document, is_default: bool) -> str:
    """Where a value was said: itself, or the short form that stands for it."""
    places = document.positions.values
    if location in places:
        own = places[location]
        inside = (place for said, place in places.items() if said[: len(location)] == location)
        said = [own, *(place for place in inside if place.file != own.file)]
        return ", ".join(dict.fromkeys(map(_said, said)))
    short = next(
        location[:length]
        for length in range(len(location) - 1, -1, -1)
        if location[:length] in places
    )
    stands_for = _at(document.value, short)
    if is_default or isinstance(stands_for, dict):
        return "default"
    return _said(places[short])


def _said(place: SourceLocation) -> str:
    if place.line:
        return f"{place.file}:{place.line}"
    return place.file


def _at(value: Any, location: Location) -> Any:
    for part in location:
        value = value[part]
    return value


def _shown(line: Line, width: int) -> str:
    if not line.origin:
        return line.text
    key, colon, value = line.text.partition(":")
    is_default = line.origin == "default"
    comment = click.style(f"# {line.origin}", dim=is_default, fg=None if is_default else "cyan")
    gap = " " * max(2, width + 2 - columns_of(line.text))
    return f"{click.style(key, bold=not is_default)}{colon}{value}{gap}{comment}"
