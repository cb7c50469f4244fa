"""What is wrong with one line or row, before anybody knows where it stands."""

from typing import TypeVar

from assay.engines.data.reading.examples import Record

T = TypeVar("T")


class LineError(Exception):
    """What is wrong with one line."""

    def __init__(self, path: str, code: str, message: str, hint: str = "", column: int = 1) -> None:
        self.path, self.code, self.message = path, code, message
        self.hint, self.column = hint, column


def field_of(record: Record, key: str, kind: type[T], outer: str = "") -> T:
    """One field of a line, of the kind that it must have."""
    if key not in record:
        hint = f"it has {', '.join(list(record)[:8])}" if record else ""
        raise LineError(outer, "missing", f"`{key}` is missing", hint)
    value = record[key]
    if not isinstance(value, kind):
        path = f"{outer}.{key}" if outer else key
        raise LineError(path, "type", f"expected {_KINDS[kind]}, found {kind_of(value)}")
    return value


def kind_of(value: object) -> str:
    """What a value is, in JSON's words."""
    return _KINDS.get(type(value), "another value")


_KINDS: dict[type, str] = {
    str: "text",
    list: "a list",
    dict: "an object",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "null",
}
