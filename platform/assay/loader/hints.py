"""What was probably meant by a value that cannot stand where it stands."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from assay.loader.annotations import (
    annotation_at,
    blocks_at,
    choices,
    field_at,
    fixed_numbers,
    keys_at,
    leaves,
    takes_duration,
    takes_share,
    tuple_item,
)
from assay.loader.yaml.reader import Location, Value
from assay.loader.yaml.writer import written
from assay.spec.block import Block

VALUE_SYNONYMS = {
    "awq": "W4A16",
    "bfloat16": "bf16",
    "bf16": "bfloat16",
    "fp16": "float16",
    "fp32": "float32",
    "fp8": "FP8_DYNAMIC",
    "float16": "fp16",
    "float32": "fp32",
    "half": "fp16",
    "gptq": "W4A16",
    "int4": "W4A16",
    "int8": "W8A8",
    "jsonl": "auto",
    "sharegpt": "messages",
    "chatml": "messages",
    "off": "none",
    "false": "none",
    "all_linear": "all-linear",
}
"""What other tools call a value, and what it is called here where that is offered."""


def value_hint(cls: type[Block], location: Location, value: Value) -> str:
    """For a value of the wrong kind, or one that a rule of its own field refuses."""
    annotation, field = annotation_at(cls, location), field_at(cls, location)
    if value is None:
        if field is None or field.is_required():
            return ""
        return "leave the key out to take its default"
    if isinstance(value, str):
        return _text_hint(cls, location, value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number_hint(annotation, value)
    return ""


def rule_hint(message: str, said: Sequence[str]) -> str:
    """For a rule between keys, from what it says; `said` are those of its keys that were
    written."""
    if found := re.search(r"(\S+) (\d+) is not divisible by (\S+) (\d+)", message):
        number, divisor = int(found[2]), int(found[4])
        near = []
        for multiple in (number - number % divisor, number - number % divisor + divisor):
            if multiple:
                near.append(multiple)
        return f"write {found[1].split('.')[-1]}: {' or '.join(map(str, near))}"
    if found := re.search(r"(\w+) (\S+) is above (\w+) (\S+)", message):
        return f"write {found[3]}: {found[2]} or more"
    if found := re.search(r"needs (\w+: \w+)", message):
        return f"write {found[1]}"
    if len(said) > 1 and re.search(r"exactly one|choose one", message):
        return f"keep one of {' and '.join(f'`{key}`' for key in said)}"
    return ""


def _text_hint(cls: type[Block], location: Location, value: str) -> str:
    annotation = annotation_at(cls, location)
    meant = _as_number(annotation, value)
    if meant and meant != value.strip():
        return f"write {meant}"
    offered = {}
    for name in [*choices(annotation), *keys_at(cls, location)]:
        offered[name.lower()] = name
    synonym = VALUE_SYNONYMS.get(value.lower(), "").lower()
    if synonym in offered:
        close = [synonym]
    else:
        close = get_close_matches(value.lower(), offered, 1, 0.5)
    close = close or [name for name in offered if name.startswith(value.lower())]
    if close:
        return f"did you mean `{offered[close[0]]}`?"
    if takes_share(annotation) and value[:1].isdigit():
        return "a share is written 5% or 0.05"
    if key := _key_for(cls, location, value):
        return f"write {{{key}: {written(value)}}}"
    if leaves(tuple_item(annotation)) == [str]:
        return f"for a single value write [{value}]"
    if takes_share(annotation):
        return "a share is written 5% or 0.05"
    return ""


def _number_hint(annotation: Any, value: int | float) -> str:
    if takes_share(annotation):
        if 1 < value <= 100:
            return f"did you mean {value:g}%?"
        return "a share is written 5% or 0.05"
    if offered := fixed_numbers(annotation):
        return f"did you mean {min(offered, key=lambda one: abs(one - value)):g}?"
    if leaves(tuple_item(annotation)) == [float]:
        return f"for a single value write [{value}]"
    if leaves(annotation) == [str]:
        return "put it in quotes"
    return ""


def _key_for(cls: type[Block], location: Location, value: str) -> str:
    """The key of the block at a location that a lone text was probably meant for."""
    for block in blocks_at(cls, location):
        for key in block.model_fields:
            offered = choices(annotation_at(cls, (*location, key)))
            if value.lower() in map(str.lower, offered):
                return key
        required = [key for key, field in block.model_fields.items() if field.is_required()]
        if len(required) == 1 and str in leaves(annotation_at(cls, (*location, required[0]))):
            return required[0]
    return ""


def _as_number(annotation: Any, text: str) -> str:
    """A number, share or time that was written in another way, as it is written here."""
    found = re.fullmatch(r"([-+]?[\d][\d.,_ ]*?)\s*([a-z%]*)\.?", text.strip().lower())
    if found is None or not (number := _digits(found[1])):
        return ""
    unit = found[2]
    if takes_duration(annotation):
        named = next((own for own, names in _TIME_UNITS.items() if unit in names), "")
        if named:
            return f"{number}{named}"
        return ""
    if takes_share(annotation):
        if unit in ("percent", "pct", "%"):
            return f"{number}%"
        if not unit:
            return number
        return ""
    if not {int, float} & set(leaves(annotation)):
        return ""
    if unit in ("k", "m") and number.isdecimal():
        thousand, kibi = (10**3, 2**10) if unit == "k" else (10**6, 2**20)
        return f"{int(number) * kibi} or {int(number) * thousand}"
    if not unit:
        return number
    return ""


def _digits(text: str) -> str:
    """The number in a text with separators, in plain digits; empty where it is none."""
    if re.fullmatch(r"[-+]?\d{1,3}([,_ ]\d{3})+(\.\d+)?", text) or re.fullmatch(
        r"[-+]?\d+(_\d+)+", text
    ):
        return re.sub(r"[,_ ]", "", text)
    if re.fullmatch(r"[-+]?\d+,\d+", text):
        return text.replace(",", ".")
    if re.fullmatch(r"[-+]?\d+(\.\d+)?", text):
        return text
    return ""


_TIME_UNITS = {
    "ms": ("ms", "msec", "msecs", "millisecond", "milliseconds"),
    "s": ("s", "sec", "secs", "second", "seconds"),
    "m": ("m", "min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "d": ("d", "day", "days"),
}
