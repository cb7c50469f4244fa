"""What the audit tells: every act in its order, and what served at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from assay.errors import IntegrityError, UsageError
from assay.flow.place.book import place_keys, verified
from assay.records.releases.audit import AuditEvent
from assay.records.releases.receipt import Statement
from assay.settings import Settings
from assay.store.ledger import Ledger
from assay.store.receipts import open_receipt


def events_until(ledger: Ledger, moment: float | None) -> list[AuditEvent]:
    """Every event up to a time (seconds since the epoch). Raises `IntegrityError` where the chain
    is broken."""
    return [event for event in ledger.audit.events() if moment is None or event.at <= moment]


def check_audit(ledger: Ledger, settings: Settings) -> int:
    """The number of events. Raises `IntegrityError` unless the chain is whole, goes on from what
    this place has seen, and the tables say what it says."""
    return len(verified(settings, ledger))


def export_head(ledger: Ledger, settings: Settings, file: Path) -> int:
    """Writes the newest event's number and digest to a file, signed by the place's key; returns the
    number. Whoever keeps the file elsewhere can tell later whether anything up to here was
    rewritten, even by somebody who has this place's key and all of its files."""
    events = verified(settings, ledger)
    if not events:
        raise UsageError("nothing was done here yet, so there is nothing to sign")
    newest = events[-1]
    said = {"sequence": newest.sequence, "digest": newest.digest, "at": newest.at}
    statement = Statement(kind="head", run="audit", artifact=newest.digest, predicate=said)
    file.write_text(place_keys(settings).sign(statement).model_dump_json(indent=1) + "\n")
    return newest.sequence


def check_since(ledger: Ledger, settings: Settings, file: Path, keys: Sequence[Path]) -> int:
    """The number of events since a head was exported. Raises `IntegrityError` unless this audit
    goes on from it."""
    statement = open_receipt(file, keys)
    if statement.kind != "head":
        raise UsageError(f"{file} is a receipt of {statement.kind}, and no head of an audit")
    events = verified(settings, ledger)
    sequence, digest = int(statement.predicate["sequence"]), statement.predicate["digest"]
    if len(events) < sequence or events[sequence - 1].digest != digest:
        raise IntegrityError(
            f"the audit was rewritten since {file} was exported: its event {sequence} is another "
            "one now, or gone"
        )
    return len(events) - sequence


def served_at(ledger: Ledger, moment: float) -> dict[str, Any] | None:
    """Who had the traffic then, by whom, and on whose word; None for nobody. Events and changes of
    traffic have the same order, so the n-th of the one is the n-th of the other."""
    events, changes = ledger.verify(), ledger.traffic()
    until = 0
    for event in events:
        if event.kind == "adopted":
            # What an older version has moved has no times here: all of it was before.
            until += len(event.content["traffic"])
        elif event.kind == "traffic" and event.at <= moment:
            until += 1
    champion = changes[until - 1].champion if until else None
    if champion is None:
        return None
    words = [word for word in ledger.approvals(champion.run) if word.given_at <= moment]
    return {
        "run": champion.run,
        "slot": champion.slot,
        "artifact": champion.artifact_digest,
        "since": champion.since,
        "by": changes[until - 1].by,
        "approvals": [word.model_dump(mode="json") for word in words],
    }
