"""What the audit tells: every act in its order, and what served at a time."""

from typing import Any

from assay.flow.place.book import verified
from assay.records.releases.audit import AuditEvent
from assay.settings import Settings
from assay.store.ledger import Ledger


def events_until(ledger: Ledger, moment: float | None) -> list[AuditEvent]:
    """Every event up to a time (seconds since the epoch). Raises `IntegrityError` where the chain
    is broken."""
    return [event for event in ledger.audit.events() if moment is None or event.at <= moment]


def check_audit(ledger: Ledger, settings: Settings) -> int:
    """The number of events. Raises `IntegrityError` unless the chain is whole, goes on from what
    this place has seen, and the tables say what it says."""
    return len(verified(settings, ledger))


def served_at(ledger: Ledger, moment: float) -> dict[str, Any] | None:
    """Who had the traffic then, by whom, and on whose word; None for nobody. Events and changes of
    traffic have the same order, so the n-th of the one is the n-th of the other."""
    events, changes = ledger.verify(), ledger.traffic()
    adopted = sum(len(event.content["traffic"]) for event in events if event.kind == "adopted")
    moved = [event for event in events if event.kind == "traffic"]
    until = adopted + sum(event.at <= moment for event in moved)
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
