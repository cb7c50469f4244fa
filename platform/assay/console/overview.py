"""What the list of runs shows: where each run stands, in a word and a tone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from assay.flow.place.run_lock import is_worked_on
from assay.records.gate import GateRecord, Outcome
from assay.records.record import digest_of, read_as
from assay.records.releases.release import Approval, Champion
from assay.settings import Settings
from assay.store.ledger import Ledger
from assay.store.overview import RunLine
from assay.store.schema.rows import StageRow

PAGE = 50


@dataclass(frozen=True)
class Standing:
    """Where a run stands."""

    words: str
    tone: str
    """`calm`, `busy`, `good`, `bad`, `open` (somebody is to decide) or `live` (it has the
    traffic)."""


@dataclass(frozen=True)
class Listed:
    """A run in the list."""

    run: RunLine
    stages: tuple[StageRow, ...]
    verdict: Outcome | None
    standing: Standing


@dataclass(frozen=True)
class Verdict:
    """What a gate has said, as far as lists need it."""

    outcome: Outcome
    scorecard: str
    """Digest."""
    artifact: str
    """Digest."""


def listed(settings: Settings, ledger: Ledger, *, page: int = 1, name: str = "") -> list[Listed]:
    """One page of the runs, the one started last first."""
    overview = ledger.overview
    runs = overview.runs(limit=PAGE, offset=PAGE * (page - 1), name=name)
    ids = [run.id for run in runs]
    stages, words = overview.stages(ids), overview.approvals(ids)
    keys = [stage.key for rows in stages.values() for stage in rows if stage.stage == "gate"]
    records = overview.records(keys)
    champion = ledger.champion()
    found = []
    for run in runs:
        rows = seen_now(run.id, stages.get(run.id, []), settings)
        verdict = _verdict(rows, records)
        standing = standing_of(run.id, rows, verdict, words.get(run.id, []), champion)
        outcome = verdict.outcome if verdict else None
        found.append(Listed(run, tuple(rows), outcome, standing))
    return found


def seen_now(run: str, rows: Sequence[StageRow], settings: Settings) -> list[StageRow]:
    """The stages, one that nobody works on any more as killed."""
    if all(row.state != "running" for row in rows) or is_worked_on(settings.run_folder(run)):
        return list(rows)
    return [replace(row, state="killed") if row.state == "running" else row for row in rows]


def standing_of(
    run: str,
    rows: Sequence[StageRow],
    verdict: Verdict | None,
    words: Sequence[Approval],
    champion: Champion | None,
) -> Standing:
    """Where a run stands."""
    last = rows[-1] if rows else None
    if last is None:
        return Standing("not begun", "calm")
    if last.state == "running":
        return Standing(f"{last.stage} runs", "busy")
    if last.state in ("failed", "killed"):
        return Standing(f"{last.stage} {last.state}", "bad")
    if verdict is None:
        return Standing(f"{last.stage} done", "calm")
    if champion and (champion.run, champion.artifact_digest) == (run, verdict.artifact):
        return Standing("has the traffic", "live")
    if verdict.outcome != "PASS":
        return Standing(verdict.outcome, "bad" if verdict.outcome == "FAIL" else "calm")
    return _decided(verdict, words)


def _decided(verdict: Verdict, words: Sequence[Approval]) -> Standing:
    """What was said of a passing scorecard; whether it is enough, the run's own page tells."""
    said = [word.decision for word in words if word.scorecard_digest == verdict.scorecard]
    if "reject" in said:
        return Standing("rejected", "bad")
    if "approve" in said:
        return Standing("approved", "good")
    return Standing("waits for a decision", "open")


def _verdict(rows: Sequence[StageRow], records: dict[str, str]) -> Verdict | None:
    for row in reversed(rows):
        if row.stage == "gate" and row.state in ("done", "cached") and row.key in records:
            return read_verdict(records[row.key])
    return None


@lru_cache(maxsize=512)
def read_verdict(record: str) -> Verdict | None:
    """What a gate's record says; None for one of a form that is not read any more."""
    gate = read_as(GateRecord, record)
    if gate is None:
        return None
    card = gate.scorecard
    return Verdict(card.outcome, digest_of(card.model_dump(mode="json")), card.artifact_digest)
