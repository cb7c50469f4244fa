"""Values as a person would write them in YAML. What is written here is read back as the same
value."""

import json
import re
from typing import Any

from assay.loader.annotations import takes_duration, takes_share
from assay.loader.yaml.scalars import plain_scalar
from assay.spec.block import Block, FromEnvironment


def written(value: Any, annotation: Any = None) -> str:
    """A value on one line; `annotation` tells shares and times from plain numbers."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int():
            return str(value)
        case float():
            return _number(value, annotation)
        case FromEnvironment():
            return _text(value.written)
        case str():
            return _text(value)
        case Block():
            said = {key: getattr(value, key) for key in value.model_fields_set}
            return written(said, annotation)
        case dict():
            entries = []
            for key, inner in value.items():
                entries.append(f"{_text(str(key))}: {written(inner, annotation)}")
            return f"{{{', '.join(entries)}}}"
        case list() | tuple():
            return f"[{', '.join(written(item, annotation) for item in value)}]"
    raise TypeError(f"{type(value).__name__} is no value of a spec")


def _number(value: float, annotation: Any) -> str:
    unit, size = "", 1.0
    if takes_share(annotation):
        unit, size = "%", 0.01
    elif takes_duration(annotation):
        unit, size = next((one for one in _UNITS if value >= one[1]), ("s", 1.0))
    count = f"{value / size:g}"
    read = float(count) / 100 if unit == "%" else float(count) * size
    if unit and read == value and "e" not in count:
        return f"{count}{unit}"
    return _shortest(value)


_UNITS = (("h", 3600.0), ("m", 60.0), ("s", 1.0), ("ms", 0.001))


def _shortest(value: float) -> str:
    text = f"{value:g}"
    if float(text) == value:
        return text
    return repr(value)


def _text(text: str) -> str:
    """Text, in quotes where it would otherwise be read as something else."""
    if _NEEDS_NO_QUOTES.fullmatch(text) and _is_text(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(_BREAKS.get(char, char) for char in quoted)


def _is_text(text: str) -> bool:
    try:
        return plain_scalar(text) == text
    except ValueError:  # a number, but one that is refused
        return False


_NEEDS_NO_QUOTES = re.compile(r"[A-Za-z0-9_./](?:(?:[\w ./@+*-]|:(?! ))*[\w./@+*%-])?", re.ASCII)
_BREAKS = {"\x85": "\\N", "\u2028": "\\L", "\u2029": "\\P"}
