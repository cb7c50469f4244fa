"""YAML as plain values with places: the core schema of YAML 1.2, and nothing that can surprise or
explode.

`1e-5` is a number; `no`, `on` and `yes` are text. Tags, duplicate keys, keys that are not text,
several documents and control characters are refused; so is a file that is large, deep, or grows
large through aliases.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple, NoReturn

import yaml

from assay.errors import InvalidInput, Problem
from assay.loader.yaml.scalars import Scalar, plain_scalar
from assay.loader.yaml.syntax_errors import explained

MAX_BYTES = 1 << 20
MAX_DEPTH = 50
MAX_NODES = 5_000
# Blocks with syntax errors of one file that are left out and told.
MAX_BROKEN_BLOCKS = 20

Location = tuple[str | int, ...]
"""Keys and list indices from the root to a value, such as `("train", "learning_rate")`."""


class SourceLocation(NamedTuple):
    """Where something was written. Lines and columns count from 1; 0 where there are none."""

    file: str
    """A file's path, or the option of the command line, such as `--set`."""
    line: int
    column: int


Value = Scalar | list["Value"] | dict[str, "Value"]


@dataclass(frozen=True)
class Positions:
    """Where keys and values stand in `file`, and in the files that it extends."""

    file: str
    keys: dict[Location, SourceLocation] = field(default_factory=dict)
    values: dict[Location, SourceLocation] = field(default_factory=dict)

    def of_key(self, location: Location) -> SourceLocation:
        """Place of a key, or of the nearest thing around it."""
        return self.keys.get(location) or self.of_value(location)

    def of_value(self, location: Location) -> SourceLocation:
        """Place of a value, or of the nearest key around it; the file alone where the text is
        empty."""
        if location in self.values:
            return self.values[location]
        for length in range(len(location) - 1, 0, -1):
            if location[:length] in self.keys:
                return self.keys[location[:length]]
        return self.values.get((), SourceLocation(self.file, 0, 0))


@dataclass(frozen=True)
class Document:
    """A text that was read: its value, the places, and the mistakes that did not stop the
    reading."""

    value: Value
    positions: Positions
    problems: list[Problem]
    unread: frozenset[str] = frozenset()
    """Top-level keys whose blocks could not be read: nothing is known of what stands there."""


def read_yaml(data: bytes, file: str) -> Document:
    """Read one YAML document; an empty text is None. Raises InvalidInput where reading cannot go
    on."""
    return _Reader(_decoded(data, file), file).document()


def read_around_errors(data: bytes, file: str) -> Document:
    """The same, but a top-level block with a syntax error is left out, told, and the others are
    read. Raises InvalidInput where nothing can be left out."""
    lines = _decoded(data, file).split("\n")
    problems: list[Problem] = []
    unread: set[str] = set()
    for _ in range(MAX_BROKEN_BLOCKS):
        try:
            document = _Reader("\n".join(lines), file).document()
        except InvalidInput as error:
            # Where a block was left out, what its anchors named is gone, too: that is nobody's
            # mistake.
            is_first = not problems
            for one in error.problems:
                if is_first or one.code != "alias":
                    problems.append(one)
            found = _block_around(lines, error.problems[-1].line)
            if error.problems[-1].code not in ("yaml", "alias") or found is None:
                raise InvalidInput(problems or error.problems) from None
            key, start, end = found
            unread.add(key)
            # As many empty lines, so that places behind it stay true.
            lines[start:end] = [""] * (end - start)
        else:
            if problems and document.value is None:
                raise InvalidInput(problems)
            return replace(
                document, problems=problems + document.problems, unread=frozenset(unread)
            )
    raise InvalidInput(problems)


def _block_around(lines: list[str], number: int) -> tuple[str, int, int] | None:
    """The top-level block that holds a line (counted from 1): its key, its first line, and where
    the next one begins. None for a line that is empty, so that nothing is left out twice."""
    if not 1 <= number <= len(lines) or not lines[number - 1].strip():
        return None
    start = number - 1
    while start > 0 and not _TOP_KEY.match(lines[start]):
        start -= 1
    if not _TOP_KEY.match(lines[start]):
        start = number - 1  # nothing above it is a block
    end = max(start + 1, number)
    while end < len(lines) and not _TOP_KEY.match(lines[end]):
        end += 1
    key = _TOP_KEY.match(lines[start])
    return key[1] if key else "", start, end


_TOP_KEY = re.compile(r"[\"']?([A-Za-z_][\w.-]*)[\"']?\s*[:：]")


def _decoded(data: bytes, file: str) -> str:
    if len(data) > MAX_BYTES:
        raise InvalidInput([Problem(file, 0, 0, "", "too_large", "the file is larger than 1 MiB")])
    try:
        # Windows' editors put a byte order mark in front.
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - data.rfind(b"\n", 0, error.start)
        message, hint = "this is not UTF-8", "save the file as UTF-8"
        raise InvalidInput([Problem(file, line, column, "", "encoding", message, hint)]) from None
    if found := _NOT_IN_A_FILE.search(text):
        line = text.count("\n", 0, found.start()) + 1
        column = found.start() - text.rfind("\n", 0, found.start())
        message = f"the control character U+{ord(found[0]):04X}"
        raise InvalidInput(
            [Problem(file, line, column, "", "control_character", message, "remove it")]
        )
    return text


@dataclass
class _Node:
    place: SourceLocation


@dataclass
class _Scalar(_Node):
    value: Scalar


@dataclass
class _Sequence(_Node):
    items: list[_Node]


@dataclass
class _Mapping(_Node):
    pairs: list[tuple[str, SourceLocation, _Node]]


class _Reader:
    """Turns the parser's events into nodes (an alias shares its anchor's), and the nodes into plain
    values."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.problems: list[Problem] = []
        self.anchors: dict[str, _Node | None] = {}
        self.num_nodes = 0
        self.events = self._events()

    def document(self) -> Document:
        root: _Node | None = None
        for event in self.events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._stop(
                        self._location(event),
                        "several documents in one file",
                        "keep one, and remove the line `---`",
                    )
                root = self._node(next(self.events), depth=1)
        self.num_nodes = 0
        positions = Positions(self.file)
        value = None if root is None else self._build(root, (), positions)
        return Document(value, positions, self.problems)

    def _events(self) -> Iterator[yaml.Event]:
        # libyaml where PyYAML was built with it: many times as quick.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            yield from yaml.parse(self.text, Loader=loader)
        except yaml.MarkedYAMLError as error:
            line, column, message, hint = explained(error, self.text)
            self._stop(SourceLocation(self.file, line, column), message, hint)
        except (yaml.YAMLError, UnicodeError) as error:
            self._stop(
                SourceLocation(self.file, 1, 1), f"this is not YAML: {' '.join(str(error).split())}"
            )

    def _node(self, event: yaml.Event, depth: int) -> _Node:
        place = self._location(event)
        self._count(place, depth)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event.anchor or "", place)
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag:
            shown = event.tag.replace("tag:yaml.org,2002:", "!!")
            self._note(
                place,
                "tag",
                f"the tag `{shown}` is refused",
                "remove it, or put the text in quotes",
            )
        if event.anchor:
            # Until the value is whole its name leads nowhere: it could stand inside itself.
            self.anchors[event.anchor] = None
        node: _Node
        if isinstance(event, yaml.ScalarEvent):
            node = _Scalar(place, self._scalar(event))
        elif isinstance(event, yaml.SequenceStartEvent):
            items = [self._node(item, depth + 1) for item in self._until(yaml.SequenceEndEvent)]
            node = _Sequence(place, items)
        else:
            node = _Mapping(place, self._pairs(depth + 1))
        if event.anchor:
            self.anchors[event.anchor] = node
        return node

    def _alias(self, name: str, place: SourceLocation) -> _Node:
        if name not in self.anchors:
            hint = "put text that begins with * in quotes"
            self._stop(place, f"`*{name}` names nothing before it", hint, code="alias")
        target = self.anchors[name]
        if target is None:
            self._stop(
                place,
                f"`*{name}` stands inside the very value that it names",
                "write the value out",
            )
        return replace(target, place=place)

    def _pairs(self, depth: int) -> list[tuple[str, SourceLocation, _Node]]:
        pairs: list[tuple[str, SourceLocation, _Node]] = []
        first_lines: dict[str, int] = {}
        for event in self._until(yaml.MappingEndEvent):
            key_node = self._node(event, depth)
            value_node = self._node(next(self.events), depth)
            key = key_node.value if isinstance(key_node, _Scalar) else None
            if not isinstance(key, str):
                self._note(key_node.place, "key", "a key must be text", "put it in quotes")
            elif key == "<<":
                self._note(
                    key_node.place, "key", "merge keys (`<<`) are refused", "write the keys out"
                )
            elif key in first_lines:
                hint = f"it stands on line {first_lines[key]} already"
                self._note(
                    key_node.place, "duplicate_key", f"`{key}` is written twice in one block", hint
                )
            else:
                first_lines[key] = key_node.place.line
                pairs.append((key, key_node.place, value_node))
        return pairs

    def _until(self, end: type[yaml.Event]) -> Iterator[yaml.Event]:
        for event in self.events:
            if isinstance(event, end):
                return
            yield event

    def _scalar(self, event: yaml.ScalarEvent) -> Scalar:
        text: str = event.value
        if _CONTROL.search(text):
            self._note(
                self._location(event),
                "control_character",
                "text with a control character",
                "remove the escape",
            )
            return _CONTROL.sub("", text)
        if not event.implicit[0]:  # quoted, or a block of text
            return text
        try:
            return plain_scalar(text)
        except ValueError as error:
            self._note(
                self._location(event),
                "number",
                str(error),
                "put it in quotes if it is meant as text",
            )
            return None

    def _build(self, node: _Node, location: Location, positions: Positions) -> Value:
        """The plain value of `node`, with its places noted; what an alias repeats is counted
        again."""
        self._count(node.place, len(location) + 1)
        positions.values[location] = node.place
        match node:
            case _Mapping():
                built: dict[str, Value] = {}
                for key, place, child in node.pairs:
                    inner = (*location, key)
                    positions.keys[inner] = place
                    built[key] = self._build(child, inner, positions)
                return built
            case _Sequence():
                items: list[Value] = []
                for index, child in enumerate(node.items):
                    items.append(self._build(child, (*location, index), positions))
                return items
            case _Scalar():
                return node.value
        raise AssertionError(node)

    def _count(self, place: SourceLocation, depth: int) -> None:
        self.num_nodes += 1
        if depth > MAX_DEPTH:
            self._stop(place, f"nested more than {MAX_DEPTH} levels deep")
        if self.num_nodes > MAX_NODES:
            self._stop(
                place,
                f"more than {MAX_NODES:,} values in one file (an alias counts as often as it is "
                "used)",
            )

    def _note(self, place: SourceLocation, code: str, message: str, hint: str) -> None:
        self.problems.append(Problem(*place, "", code, message, hint))

    def _stop(
        self, place: SourceLocation, message: str, hint: str = "", *, code: str = "yaml"
    ) -> NoReturn:
        raise InvalidInput([*self.problems, Problem(*place, "", code, message, hint)]) from None

    def _location(self, event: yaml.Event) -> SourceLocation:
        mark = event.start_mark
        if mark:
            return SourceLocation(self.file, mark.line + 1, mark.column + 1)
        return SourceLocation(self.file, 0, 0)


_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
_NOT_IN_A_FILE = re.compile(rf"{_CONTROL.pattern}|[\u2028\u2029]|\r(?!\n)")
"""Control characters, and what YAML takes for the end of a line and no editor does: escapes in
quotes may name it."""
