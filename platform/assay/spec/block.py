"""The base of every YAML block, and the value types that several blocks share."""

import re
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Block(BaseModel):
    """One YAML block: frozen, and refusing keys it does not know."""

    # A default is validated like what is written: a `1` for a float is 1.0 in both, and so are the digests of both.
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True)


def _fraction(value: Any) -> Any:
    """`5%` is 0.05; a plain number stays as it is."""
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)):
        return float(match[1]) / 100
    if isinstance(value, str):
        raise ValueError("write a share as 5% or 0.05")
    return value


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _duration_s(value: Any) -> Any:
    """`72h` is 259200 seconds; a plain number is seconds."""
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", value)):
        return float(match[1]) * _SECONDS[match[2]]
    if isinstance(value, str):
        raise ValueError("write a time as 500ms, 30s, 10m, 72h or 7d")
    return value


def _one_or_many(value: Any) -> Any:
    """A single string stands for a list of one."""
    return [value] if isinstance(value, str) else value


Fraction = Annotated[float, BeforeValidator(_fraction), Field(ge=0, le=1)]
"""A share, written `5%` or `0.05`."""

Score = Annotated[float, BeforeValidator(_fraction), Field(ge=-100, le=1)]
"""A share, or another score of which 1 is the most: `80%`, `0.8` or `-0.2`."""

Duration = Annotated[float, BeforeValidator(_duration_s), Field(ge=0)]
"""Seconds, written `500ms`, `30s`, `10m`, `72h` or `7d`."""

Paths = Annotated[tuple[str, ...], BeforeValidator(_one_or_many), Field(min_length=1)]
"""One path or glob, or a list of them."""
