"""The base of every YAML block, and the value types that several blocks share."""

import os
import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)


class Block(BaseModel):
    """One YAML block: frozen, and refusing keys it does not know. The string under a field says
    what it means; `meanings` reads it (pydantic would read all of them at every start, which takes
    longer than all else)."""

    # A default is validated like what is written: a `1` for a float is 1.0 in both, and so are the
    # digests of both.
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    LIST_FORM: ClassVar[str] = ""
    """The field that a list in place of the block stands for; none where no list may."""


def later(default: Any, **more: Any) -> Any:
    """A field that came after suites and runs were kept: it is written only where it is not the
    default, so that the digests of earlier ones still hold."""
    return Field(default, exclude_if=lambda value: value == default, **more)


class Contradictions(ValueError):
    """Everything in a block that cannot stand together: a validator raises one error, and people
    want all."""

    def __init__(self, reasons: Sequence[str]) -> None:
        self.reasons = tuple(reasons)
        super().__init__("; ".join(reasons))


def refuse(contradictions: Iterable[tuple[bool, str]]) -> None:
    """Raises `Contradictions` with the reason of every pair that holds; nothing where none does."""
    reasons = [reason for holds, reason in contradictions if holds]
    if reasons:
        raise Contradictions(reasons)


_SHARE = r"(\d+(?:\.\d+)?)\s*%"
_TIME = r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)"


def _fraction(value: Any) -> Any:
    """`5%` is 0.05; a plain number stays as it is."""
    if isinstance(value, str) and (match := re.fullmatch(_SHARE, value.strip())):
        return float(match[1]) / 100
    if isinstance(value, str):
        raise ValueError("write a share as 5% or 0.05")
    return value


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _duration_s(value: Any) -> Any:
    """`72h` is 259200 seconds; a plain number is seconds."""
    if isinstance(value, str) and (match := re.fullmatch(_TIME, value.strip())):
        return float(match[1]) * _SECONDS[match[2]]
    if isinstance(value, str):
        raise ValueError("write a time as 500ms, 30s, 10m, 72h or 7d")
    return value


def _one_or_many(value: Any) -> Any:
    """A single string stands for a list of one."""
    if isinstance(value, str):
        return [value]
    return value


class FromEnvironment(str):
    """Text in which `${env:NAME}` was read. It is what the place says, and is written down as the
    user wrote it."""

    written: str

    def __new__(cls, text: str, written: str) -> "FromEnvironment":
        """The text with the references in `written` filled in."""
        made = super().__new__(cls, text)
        made.written = written
        return made

    def __getnewargs__(self) -> tuple[str, str]:  # type: ignore[override]
        return str(self), self.written


class Reference(Enum):
    """Marks, inside `Annotated`, the text that may name the environment as `${env:NAME}`."""

    PLACE = "place"
    """Says where something is: the variable is read, and records keep the reference."""

    SECRET = "secret"
    """Is a secret: the spec keeps the reference alone, and `revealed` reads it where it is used."""


REFERENCE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")


def revealed(secret: str) -> str:
    """The secret that a `Secret` refers to. Only for the edge where it is used: never kept, never
    shown. Raises KeyError when the variable is not set."""
    return REFERENCE.sub(lambda reference: os.environ[reference[1]], secret)


def _as_read(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Validates as text, and keeps what it was made from."""
    text = handler(value)
    if isinstance(value, FromEnvironment):
        return value
    return text


def _as_written(value: str) -> str:
    if isinstance(value, FromEnvironment):
        return value.written
    return value


def _only_a_reference(value: str) -> str:
    if not REFERENCE.fullmatch(value):
        raise ValueError(
            "a secret is not written into a spec: name the variable that holds it, as ${env:NAME}"
        )
    return value


Where = Annotated[
    str, WrapValidator(_as_read), PlainSerializer(_as_written, return_type=str), Reference.PLACE
]
"""Text that says where something is; may name the environment, as `${env:DATA}/train.jsonl`."""

Secret = Annotated[str, AfterValidator(_only_a_reference), Reference.SECRET]
"""A secret, written `${env:NAME}` and never otherwise."""

_SHARE_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "string", "pattern": f"^{_SHARE}$"},
    ]
}
_SCORE_SCHEMA = {
    "anyOf": [
        {"type": "number", "minimum": -100, "maximum": 1},
        {"type": "string", "pattern": f"^{_SHARE}$"},
    ]
}
_TIME_SCHEMA = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^{_TIME}$"}]
}

Fraction = Annotated[
    float, BeforeValidator(_fraction), Field(ge=0, le=1), WithJsonSchema(_SHARE_SCHEMA)
]
"""A share, written `5%` or `0.05`."""

Score = Annotated[
    float, BeforeValidator(_fraction), Field(ge=-100, le=1), WithJsonSchema(_SCORE_SCHEMA)
]
"""A share, or another score of which 1 is the most: `80%`, `0.8` or `-0.2`."""

Duration = Annotated[float, BeforeValidator(_duration_s), Field(ge=0), WithJsonSchema(_TIME_SCHEMA)]
"""Seconds, written `500ms`, `30s`, `10m`, `72h` or `7d`."""

Paths = Annotated[tuple[Where, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
"""One path or glob, or a list of them."""
