"""The base of every record, canonical JSON, and the digest that keys and approvals are built from."""

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """A fact: frozen, and exact about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)  # most commands use few kinds


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no white space; the same value always gives the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def digest_of(value: Any) -> str:
    """SHA-256, in hex, of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
