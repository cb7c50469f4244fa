"""The newest event of the audit that this place has seen, kept beside the gateway and not in the
database: whoever can write to the database alone cannot write the whole audit anew without being
noticed."""

import json
from collections.abc import Sequence
from pathlib import Path

from assay.errors import IntegrityError
from assay.records.releases.audit import AuditEvent
from assay.serving import supervisor
from assay.settings import Settings


def check_head(settings: Settings, events: Sequence[AuditEvent]) -> None:
    """Raises `IntegrityError` unless the audit goes on from what was seen last."""
    file = head_file(settings)
    try:
        head = json.loads(file.read_text())
        sequence, digest = int(head["sequence"]), str(head["digest"])
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"{file} cannot be read ({error}); it tells whether the audit was written anew"
        ) from error
    if len(events) < sequence or events[sequence - 1].digest != digest:
        raise IntegrityError(
            f"the ledger's audit is not the one of this place: event {sequence} is another one, or "
            "gone. Restore the "
            f"ledger, or check ASSAY_LEDGER_URL; to accept the ledger as it is, remove {file}"
        )


def keep_head(settings: Settings, events: Sequence[AuditEvent]) -> None:
    """Remembers the newest event."""
    if events:
        newest = events[-1]
        supervisor.keep_text(
            head_file(settings), json.dumps({"sequence": newest.sequence, "digest": newest.digest})
        )


def head_file(settings: Settings) -> Path:
    """Where the newest event is remembered."""
    return supervisor.folder(settings) / "audit-head.json"
