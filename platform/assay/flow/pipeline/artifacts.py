"""Whether what the ledger tells of still stands."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from assay.records.artifact import Artifact
from assay.records.record import Record, read_as
from assay.records.releases.release import Champion
from assay.records.stages import ModelRecord
from assay.settings import Settings
from assay.store.artifacts import open_store

if TYPE_CHECKING:
    from assay.store.ledger import Ledger


def is_intact(record: Record, settings: Settings, *, fetches: bool = True) -> bool:
    """Whether every artifact that the record tells of is as it was put. Those that the object store
    alone has are fetched; unless it `fetches`, they are taken at its word."""
    store = open_store(settings)
    for artifact in artifacts_of(record):
        if not fetches and store.is_kept(artifact.digest):
            continue
        if not store.is_intact(artifact):
            return False
    return True


def champion_model(champion: Champion, ledger: "Ledger") -> ModelRecord | None:
    """The model that has the traffic; None when the ledger does not know it any more."""
    for stage in ledger.stages(champion.run):
        row = ledger.record(stage.key) if stage.stage == "compress" else None
        model = read_as(ModelRecord, row.record) if row else None
        if model is not None and model.artifact.digest == champion.artifact_digest:
            return model
    return None


def artifacts_of(record: Record) -> Iterator[Artifact]:
    """Every artifact that a record tells of."""
    for name in type(record).model_fields:
        value = getattr(record, name)
        if isinstance(value, Artifact):
            yield value
        elif isinstance(value, Record):
            yield from artifacts_of(value)
