"""The base of every record, canonical JSON, and the digest that keys and approvals are built
from."""

import hashlib
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

M = TypeVar("M", bound=BaseModel)

FORMER_NAMES = {"weighing": "evaluation", "spoilt": "corrupted"}
"""What fields of records that older versions wrote are called now."""


class Record(BaseModel):
    """A fact: frozen, and exact about its fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", defer_build=True
    )  # most commands use few kinds

    @model_validator(mode="before")
    @classmethod
    def _read_former_names(cls, data: Any) -> Any:
        """Records of older versions stay readable."""
        if not isinstance(data, dict) or FORMER_NAMES.keys().isdisjoint(data):
            return data
        return {_present_name(cls, name): value for name, value in data.items()}


def _present_name(kind: type[Record], name: str) -> str:
    present = FORMER_NAMES.get(name, name)
    if present in kind.model_fields:
        return present
    return name


def read_as(kind: type[M], data: Any) -> M | None:
    """What was written as a `kind`, from JSON text or data; None for data of another form, such as
    an older version's."""
    try:
        if isinstance(data, str):
            return kind.model_validate_json(data)
        return kind.model_validate(data)
    except ValidationError:
        return None


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space; the same value always gives the same text."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def digest_of(value: Any) -> str:
    """SHA-256, in hex, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
