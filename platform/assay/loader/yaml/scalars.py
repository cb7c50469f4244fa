"""What an unquoted word of YAML means."""

import re

Scalar = str | int | float | bool | None

MAX_DIGITS = 100


def plain_scalar(text: str) -> Scalar:
    """What an unquoted scalar means in the core schema of YAML 1.2 (section 10.3.2)."""
    # Most text is told by its first character, and a spec is read before every command.
    if text[:1] not in _FIRST:
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _NOT_FINITE.fullmatch(text):
        raise ValueError(f"`{text}` is not a finite number")
    integer = _INT.fullmatch(text)
    if not integer and not _FLOAT.fullmatch(text):
        return text
    # Python's own `int` takes time that grows with the square of the digits.
    if len(text) > MAX_DIGITS:
        raise ValueError(f"a number of more than {MAX_DIGITS} characters")
    if integer:
        return int(text, {"o": 8, "x": 16}.get(text[1:2], 10))
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"`{text}` is too large for a number")
    return number


_FIRST = frozenset(["", *"0123456789+-.~nNtTfF"])
_NULL = re.compile(r"null|Null|NULL|~|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
