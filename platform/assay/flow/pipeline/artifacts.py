"""Whether what the ledger tells of still stands."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from assay.records.artifact import Artifact
from assay.records.record import Record, read_as
from assay.records.releases.release import Champion
from assay.records.stages import ModelRecord
from assay.settings import Settings
from assay.store.artifacts import ArtifactStore

if TYPE_CHECKING:
    from assay.store.ledger import Ledger


def is_intact(record: Record, settings: Settings) -> bool:
    """Whether every artifact that the record tells of is as it was put."""
    store = ArtifactStore(settings.home / "artifacts")
    return all(store.is_intact(artifact) for artifact in _artifacts(record))


def champion_model(champion: Champion, ledger: "Ledger") -> ModelRecord | None:
    """The model that has the traffic; None when the ledger does not know it any more."""
    for stage in ledger.stages(champion.run):
        row = ledger.record(stage.key) if stage.stage == "compress" else None
        model = read_as(ModelRecord, row.record) if row else None
        if model is not None and model.artifact.digest == champion.artifact_digest:
            return model
    return None


def _artifacts(record: Record) -> Iterator[Artifact]:
    for value in (getattr(record, name) for name in type(record).model_fields):
        if isinstance(value, Artifact):
            yield value
        elif isinstance(value, Record):
            yield from _artifacts(value)
