"""Models of a place, each with what it was made of and what became of it: `assay models`."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from assay.records.artifact import Artifact
from assay.records.gate import GateRecord, Outcome
from assay.records.record import Record, read_as
from assay.records.releases.release import Approval, Champion, Traffic
from assay.records.stages import DatasetRecord, ModelRecord
from assay.rules.release.slots import former_champion
from assay.spec.spec import Spec
from assay.store.ledger import Ledger
from assay.store.schema.rows import RunRow

Stage = Literal[
    "champion",
    "former champion",
    "approved",
    "rejected",
    "passed",
    "failed",
    "inconclusive",
    "made",
]


class Served(Record):
    """A time in which a model had the traffic; seconds since the epoch."""

    slot: str
    since: float
    until: float | None
    """None while it still has it."""


class ModelVersion(Record):
    """One run's model."""

    name: str
    run: str
    stage: Stage
    artifact: Artifact
    scheme: str
    num_parameters: int
    base: str
    """What the spec names as its base model."""
    base_digest: str
    data: tuple[str, ...]
    """Artifacts of the prepared data, by digest, in the order of the training runs."""
    spec: dict[str, Any]
    """The whole spec."""
    outcome: Outcome | None
    """The gate's verdict; None where the run has not come so far."""
    words: tuple[Approval, ...]
    served: tuple[Served, ...]


def models(ledger: Ledger, name: str = "") -> list[ModelVersion]:
    """Every model that a run has made, the newest first; of the specs of one name, where one is
    said. Runs that have made none are left out."""
    moves = _moves(ledger)
    found = []
    for row in ledger.runs():
        if name and row.name != name:
            continue
        version = _version(row, ledger, moves)
        if version is not None:
            found.append(version)
    return found


def _version(
    row: RunRow, ledger: Ledger, moves: Sequence[tuple[float, Traffic]]
) -> ModelVersion | None:
    records = dict(_records(row.id, ledger))
    model = read_as(ModelRecord, records.get("compress", "{}"))
    base = read_as(ModelRecord, records.get("fetch", "{}"))
    gate = read_as(GateRecord, records.get("gate", "{}"))
    if model is None:
        return None
    words, spec = tuple(ledger.approvals(row.id)), json.loads(row.spec)
    data = []
    for stage, text in records.items():
        prepared = read_as(DatasetRecord, text) if stage.partition("-")[0] == "prepare" else None
        if prepared is not None:
            data.append(prepared.artifact.digest)
    outcome = gate.scorecard.outcome if gate else None
    return ModelVersion(
        name=row.name,
        run=row.id,
        stage=_stage(row.id, outcome, words, [change for _, change in moves]),
        artifact=model.artifact,
        scheme=model.scheme,
        num_parameters=model.num_parameters,
        base=Spec.model_validate(spec).model.source,
        base_digest=base.artifact.digest if base else "",
        data=tuple(data),
        spec=spec,
        outcome=outcome,
        words=words,
        served=tuple(_served(row.id, moves)),
    )


def _records(run: str, ledger: Ledger) -> Iterator[tuple[str, str]]:
    """Each stage with its newest record, as JSON."""
    for stage in ledger.stages(run):
        row = ledger.record(stage.key)
        if row is not None:
            yield stage.stage, row.record


def _stage(
    run: str, outcome: Outcome | None, words: Sequence[Approval], changes: Sequence[Traffic]
) -> Stage:
    champion = changes[-1].champion if changes else None
    former = former_champion(changes)
    if champion is not None and champion.run == run:
        return "champion"
    if any(word.decision == "reject" for word in words):
        return "rejected"
    if former is not None and former.run == run:
        return "former champion"
    if words:
        return "approved"
    stages: dict[Outcome | None, Stage] = {
        "PASS": "passed",
        "FAIL": "failed",
        "INCONCLUSIVE": "inconclusive",
        None: "made",
    }
    return stages[outcome]


def _moves(ledger: Ledger) -> list[tuple[float, Traffic]]:
    """Every change of traffic with its time. Events and changes have the same order; of changes
    that are older than the audit the champion's own time is all there is."""
    changes = ledger.traffic()
    times = [event.at for event in ledger.audit.events() if event.kind == "traffic"]
    for change in reversed(changes[: len(changes) - len(times)]):
        times.insert(0, change.champion.since if change.champion else 0.0)
    return list(zip(times, changes, strict=True))


def _served(run: str, moves: Sequence[tuple[float, Traffic]]) -> Iterator[Served]:
    """When a run's model had the traffic: until the next change that gave it to another, or to
    nobody."""
    current: Champion | None = None
    for at, change in moves:
        if current == change.champion:
            continue
        if current is not None and current.run == run:
            yield Served(slot=current.slot, since=current.since, until=at)
        current = change.champion
    if current is not None and current.run == run:
        yield Served(slot=current.slot, since=current.since, until=None)
