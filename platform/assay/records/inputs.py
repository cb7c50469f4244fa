"""What a stage's outcome depends on, as data. The key of a stage's record is made of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import BaseModel, JsonValue

from assay.records.artifact import Artifact
from assay.records.record import Record, digest_of

WITHOUT, ONLY, LATER = "without", "only", "later"
ANY = "*"
"""Stands for every key, or every element, in a path."""


@dataclass(frozen=True)
class Pending:
    """Stands where the record of a stage will be that is still to be run."""

    stage: str
    is_new: bool = False
    """Whether that record will differ from the one of before."""


@dataclass(frozen=True)
class StageInputs:
    """The base of every stage's `Inputs`. A record counts as its artifact's digest, a block as its
    keys."""

    def as_data(self) -> dict[str, JsonValue]:
        """JSON data of all that bears on the outcome, by field."""
        data = {}
        for one in fields(self):
            value = getattr(self, one.name)
            # A field that came later and says nothing leaves the keys of before as they were.
            if LATER not in one.metadata or value is not None:
                data[one.name] = _effective(value, one.metadata)
        return data

    @property
    def pending(self) -> tuple[str, ...]:
        """The stages that these inputs still wait for, each once."""
        found: dict[str, None] = {}
        for one in fields(self):
            found |= dict.fromkeys(_pending(getattr(self, one.name)))
        return tuple(found)


@dataclass(frozen=True)
class StoredInputs:
    """Inputs as the ledger keeps them beside a record's key."""

    stage: str
    version: int
    inputs: Mapping[str, JsonValue]

    @property
    def data(self) -> dict[str, JsonValue]:
        """All of it as JSON data."""
        return {"stage": self.stage, "version": self.version, "inputs": dict(self.inputs)}

    @property
    def key(self) -> str:
        """SHA-256 of the canonical JSON."""
        return digest_of(self.data)


def without(*paths: str) -> Any:
    """A field whose keys at these dotted paths do not bear on the outcome."""
    return field(metadata={WITHOUT: paths})


def only(*paths: str) -> Any:
    """A field of which nothing but these dotted paths bears on the outcome; none when there are
    none."""
    return field(metadata={ONLY: paths})


def added_later() -> Any:
    """A field that came after records were kept: None does not count, so that their keys hold."""
    return field(default=None, metadata={LATER: True})


def _effective(value: Any, metadata: Mapping[str, Sequence[str]]) -> JsonValue:
    data = _as_data(value)
    if ONLY in metadata:
        return {path: _at(data, path.split(".")) for path in metadata[ONLY]}
    for path in metadata.get(WITHOUT, ()):
        _remove(data, path.split("."))
    return data


def _as_data(value: Any) -> JsonValue:
    if isinstance(value, Pending):
        return {"pending": value.stage, "is_new": value.is_new}
    if isinstance(value, StageInputs):
        return value.as_data()
    if isinstance(value, Record):
        return _identity(value)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, Mapping):
        return {str(key): _as_data(inner) for key, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_as_data(inner) for inner in value]
    if hasattr(value, "digest"):  # a task file
        return [value.name, value.digest]
    assert value is None or isinstance(value, str | int | float), (
        f"no JSON data: {type(value).__name__}"
    )
    return value


def _identity(record: Record) -> JsonValue:
    """The digest of the record's bytes, where it has any; everything it says, where it has none."""
    for name in ("artifact", "evidence"):
        artifact = getattr(record, name, None)
        if isinstance(artifact, Artifact):
            return artifact.digest
    return record.model_dump(mode="json")


def _pending(value: Any) -> Iterator[str]:
    if isinstance(value, Pending):
        yield value.stage
    elif isinstance(value, tuple | list):
        for inner in value:
            yield from _pending(inner)


def _at(data: Any, path: Sequence[str]) -> JsonValue:
    for name in path:
        data = data.get(name) if isinstance(data, dict) else None
    result: JsonValue = data
    return result


def _remove(data: Any, path: Sequence[str]) -> None:
    first, *rest = path
    if not isinstance(data, dict):
        return
    names = list(data) if first == ANY else [first]
    for name in names:
        if rest:
            _remove(data.get(name), rest)
        else:
            data.pop(name, None)
