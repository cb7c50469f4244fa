"""One spec out of several texts: what it extends, what the command line sets, and what the
environment says.

Blocks are merged key by key, and the later word wins; everything else, lists included, is replaced
whole.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from assay.errors import InvalidInput, Problem
from assay.loader.annotations import (
    EXTENDS,
    annotation_at,
    reference_kind,
    reference_paths,
    spelled_out,
)
from assay.loader.parse import read_bytes, read_file
from assay.loader.yaml.reader import Document, Location, Positions, SourceLocation, Value, read_yaml
from assay.settings import Settings
from assay.spec.block import REFERENCE, FromEnvironment, Reference
from assay.spec.spec import Spec

# Files in a chain of `extends`.
MAX_CHAIN = 20


Override = tuple[str, str]
"""An option of the command line and its value: `--set` and `PATH=VALUE`, or `--set-file` and
`PATH=FILE`."""


def compose(path: Path, overrides: Sequence[Override] = ()) -> Document:
    """The spec in `path` over the files that it extends, with the overrides on top, in their order,
    and with references to the environment read. Raises InvalidInput where there is nothing that
    could be validated."""
    document = _with_bases(path, ())
    for override in overrides:
        document = _overridden(document, override)
    return replace(document, value=_with_environment(document.value, (), document))


def _with_bases(path: Path, chain: tuple[Path, ...]) -> Document:
    """The file over what it extends; `chain` are the files that led to it."""
    document = read_file(path)
    if not isinstance(document.value, dict) or EXTENDS not in document.value:
        return document
    # Taken out before the blocks are read: none of them knows the key.
    place = document.positions.of_value((EXTENDS,))
    document.positions.keys.pop((EXTENDS,))
    document.positions.values.pop((EXTENDS,))
    target = _base(document.value.pop(EXTENDS), place, path, chain, document.problems)
    try:
        base = _with_bases(target, (*chain, path))
    except InvalidInput as error:
        raise InvalidInput([*document.problems, *error.problems]) from error
    value = _Merger(base.positions, document.positions).over(base.value, document.value, ())
    unread = base.unread | document.unread
    return Document(value, base.positions, [*base.problems, *document.problems], unread)


def _base(
    said: Value, place: SourceLocation, path: Path, chain: tuple[Path, ...], problems: list[Problem]
) -> Path:
    """The file that `extends` names, if it can be used."""

    def refuse(message: str, hint: str = "") -> NoReturn:
        raise InvalidInput([*problems, Problem(*place, "extends", "extends", message, hint)])

    if not isinstance(said, str) or not said.strip():
        refuse("expected the path of one other spec", "write `extends: other.yaml`")
    target = path.parent / said
    files = [*chain, path]
    if not os.path.isfile(target):
        refuse(f"there is no file {target}", f"the path starts at {path.parent.absolute()}")
    # By what they are, not by their names: a link leads to a file that has another one.
    seen = [file for file in files if os.path.samefile(file, target)]
    if seen:
        shown = " → ".join(str(file) for file in [*files[files.index(seen[0]) :], target])
        refuse(f"the files extend each other in a circle: {shown}", "let one of them stand alone")
    if len(files) == MAX_CHAIN:
        refuse(f"more than {MAX_CHAIN} files that extend each other")
    return target


def places_named(spec: Spec) -> list[str]:
    """The environment variables that the spec's places refer to; those of its secrets are not among
    them."""
    return sorted(set(_named(spec.model_dump(mode="json"), ())))


def variables_named(spec: Spec) -> list[str]:
    """Every environment variable that the spec refers to, for places and for secrets."""
    return sorted(set(REFERENCE.findall(spec.model_dump_json())))


def _named(value: Value, location: Location) -> Iterator[str]:
    for part, inner in _items(value):
        yield from _named(inner, (*location, part))
    if isinstance(value, str) and reference_kind(annotation_at(Spec, location)) is Reference.PLACE:
        yield from REFERENCE.findall(value)


class _Merger:
    """Lays a value over another. The places of what is said anew move from `new` to `positions`;
    with `blocks_stay`, a block to which keys are added stays where it was."""

    def __init__(self, positions: Positions, new: Positions, *, blocks_stay: bool = False) -> None:
        self.positions = positions
        self.new = new
        self.blocks_stay = blocks_stay

    def over(self, old: Value, value: Value, location: Location) -> Value:
        """The merged value at a location."""
        if isinstance(value, dict) and not isinstance(old, dict):
            old = self._spelled_out(old, location)
        # Something else, a list too, takes the whole place, and the places in it are gone.
        if not isinstance(value, dict) or not isinstance(old, dict):
            _forget(self.positions, old, location)
            self._adopt(value, location)
            return value
        if not self.blocks_stay or location not in self.positions.values:
            self.positions.values[location] = self.new.values[location]
        for key, inner in value.items():
            place = (*location, key)
            if not (self.blocks_stay and isinstance(inner, dict) and place in self.positions.keys):
                self.positions.keys[place] = self.new.keys[place]
            old[key] = self.over(old.get(key), inner, place)
        return old

    def _spelled_out(self, old: Value, location: Location) -> Value:
        """A short form as the block that it stands for, so that a key can be laid over it."""
        full: Value = spelled_out(annotation_at(Spec, location), old)
        if isinstance(full, dict):
            for key in full:
                self.positions.values[(*location, key)] = self.positions.of_value(location)
                self.positions.keys[(*location, key)] = self.positions.of_value(location)
        return full

    def _adopt(self, value: Value, location: Location) -> None:
        self.positions.values[location] = self.new.values[location]
        for part, inner in _items(value):
            place: Location = (*location, part)
            if place in self.new.keys:
                self.positions.keys[place] = self.new.keys[place]
            self._adopt(inner, place)


def _forget(positions: Positions, value: Value, location: Location) -> None:
    positions.values.pop(location, None)
    for part, inner in _items(value):
        positions.keys.pop((*location, part), None)
        _forget(positions, inner, (*location, part))


def _items(value: Value) -> Iterator[tuple[str | int, Value]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)


def _overridden(document: Document, override: Override) -> Document:
    """The document with what one option says laid over it."""
    option, setting = override
    path, equals, text = setting.partition("=")
    parts = path.strip().split(".")
    place = SourceLocation(option, 0, 0)
    if not equals or not all(parts):
        if option == "--set":
            what = "PATH=VALUE, such as train.seed=7"
        else:
            what = "PATH=FILE"
        raise InvalidInput(
            [Problem(*place, "", "set", f"{setting!r} sets nothing", f"write {what}")]
        )
    if option == "--set-file":
        said = _from_file(Path(text), place, path)
    else:
        said = _from_text(text, place, path)
    value = _laid(document, _settled(document, parts, place, path), said)
    return replace(document, value=value, problems=[*document.problems, *said.problems])


def _from_text(text: str, place: SourceLocation, path: str) -> Document:
    """A value of the command line, read as YAML; every place in it is the option."""
    try:
        said = read_yaml(text.encode(), place.file)
    except InvalidInput as error:
        problems = []
        for one in error.problems:
            problems.append(
                Problem(*place, path, one.code, one.message, one.hint or "put it in quotes")
            )
        raise InvalidInput(problems) from error
    positions = Positions(
        place.file,
        dict.fromkeys(said.positions.keys, place),
        dict.fromkeys([(), *said.positions.values], place),
    )
    problems = [Problem(*place, path, one.code, one.message, one.hint) for one in said.problems]
    return Document(said.value, positions, problems)


def _from_file(file: Path, place: SourceLocation, path: str) -> Document:
    """What a file says: a value in YAML or JSON if it is called so, else its text without the last
    line's end."""
    if not os.path.isfile(file):
        raise InvalidInput([Problem(*place, path, "no_file", f"there is no file {file}")])
    if file.suffix in (".yaml", ".yml", ".json"):
        return read_file(file)
    try:
        text = read_bytes(file).decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InvalidInput(
            [Problem(str(file), 0, 0, "", "encoding", "this is not UTF-8")]
        ) from error
    return Document(text, Positions(str(file), {}, {(): SourceLocation(str(file), 1, 1)}), [])


def _settled(document: Document, parts: list[str], place: SourceLocation, path: str) -> Location:
    """The location that a dotted path names in the document; list items are counted from 0."""
    value, location = document.value, Location()
    for part in parts:
        if isinstance(value, list):
            if not part.isdecimal() or int(part) >= len(value):
                name = ".".join(map(str, location))
                message = f"`{name}` is a list of {len(value)}, and has no item `{part}`"
                hint = f"items are counted from 0; `{name}=[...]` replaces the list"
                raise InvalidInput([Problem(*place, path, "set", message, hint)])
            location, value = (*location, int(part)), value[int(part)]
        else:
            location = (*location, part)
            value = value.get(part) if isinstance(value, dict) else None
    return location


def _laid(document: Document, location: Location, said: Document) -> Value:
    """The document's value with another merged in at a location, with the blocks that lead
    there."""
    place = said.positions.values[()]
    keys, values = {}, {}
    for inner, at in said.positions.keys.items():
        keys[(*location, *inner)] = at
    for inner, at in said.positions.values.items():
        values[(*location, *inner)] = at
    positions = Positions(place.file, keys, values)
    value, head = said.value, location
    while head and isinstance(head[-1], str):
        value = {head[-1]: value}
        positions.keys[head] = place
        head = head[:-1]
        positions.values[head] = place
    merger = _Merger(document.positions, positions, blocks_stay=True)
    if not head:
        return merger.over(document.value, value, ())
    items = _at(document.value, head[:-1])
    assert isinstance(items, list)
    assert isinstance(head[-1], int)
    items[head[-1]] = merger.over(items[head[-1]], value, head)
    return document.value


def _at(value: Value, location: Location) -> Value:
    for part in location:
        assert isinstance(value, dict | list)
        value = value[part]  # type: ignore[index]
    return value


def _with_environment(value: Value, location: Location, document: Document) -> Value:
    """The value with its references to the environment read, where they are allowed."""
    if isinstance(value, dict):
        named = {}
        for key, inner in value.items():
            named[key] = _with_environment(inner, (*location, key), document)
        return named
    if isinstance(value, list):
        items = []
        for index, inner in enumerate(value):
            items.append(_with_environment(inner, (*location, index), document))
        return items
    if not isinstance(value, str) or "${env:" not in value:
        return value
    found = _reference_fault(value, location)
    if found is not None:
        path = ".".join(map(str, location))
        place = document.positions.of_value(location)
        document.problems.append(Problem(*place, path, "environment", *found))
        return value
    # A secret is read where it is used: the spec is kept in the ledger, and shown.
    if reference_kind(annotation_at(Spec, location)) is Reference.SECRET:
        return value
    return FromEnvironment(REFERENCE.sub(lambda found: os.environ[found[1]], value), value)


FETCHED_URL = re.compile(r"\s*((https?|ftps?|sftp|webdavs?|github|git)://|hf:)", re.IGNORECASE)


def _reference_fault(value: str, location: Location) -> tuple[str, str] | None:
    """What is wrong with a text that refers to the environment, and what to do; None if nothing
    is."""
    kind = reference_kind(annotation_at(Spec, location))
    if kind is None:
        return (
            "no reference to the environment may stand here",
            f"it may in {', '.join(reference_paths(Spec))}",
        )
    # What is left after all that are well formed, such as `${env:}`.
    if "${env:" in REFERENCE.sub("", value):
        return "this is no reference to the environment", "write ${env:NAME}"
    if kind is Reference.PLACE:
        if FETCHED_URL.match(value):
            return (
                "no reference may stand in a URL that is fetched: its server would read it",
                "write the URL out",
            )
        settings = Settings()
        for name in REFERENCE.findall(value):
            if not settings.is_readable_by_specs(name):
                hint = (
                    "whoever looks after this place may allow it: "
                    f"ASSAY_SPEC_ENV={settings.spec_env},{name}"
                )
                return f"specs may not read the environment variable {name} here", hint
    unset = [name for name in REFERENCE.findall(value) if name not in os.environ]
    if unset:
        return (f"the environment variable {unset[0]} is not set", f"export {unset[0]}=...")
    return None
