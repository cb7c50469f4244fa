"""Whether what the ledger tells of still stands."""

from collections.abc import Iterator

from pydantic import ValidationError

from assay.flow.steps import Step
from assay.place import Place
from assay.records.artifact import Artifact
from assay.records.record import Record
from assay.store.artifacts import ArtifactStore


def read_record(step: Step, text: str) -> Record | None:
    """A record from the ledger; None for one that another version wrote in another form: its stage runs again."""
    try:
        return step.record.model_validate_json(text)
    except ValidationError:
        return None


def is_intact(record: Record, place: Place) -> bool:
    """Whether every artifact that the record tells of is as it was put."""
    store = ArtifactStore(place.home / "artifacts")
    return all(store.is_intact(artifact) for artifact in _artifacts(record))


def _artifacts(record: Record) -> Iterator[Artifact]:
    for value in (getattr(record, name) for name in type(record).model_fields):
        if isinstance(value, Artifact):
            yield value
        elif isinstance(value, Record):
            yield from _artifacts(value)
