"""Who acted, and what the audit keeps of every act."""

from typing import Any

from pydantic import Field

from assay.records.record import Record


class Actor(Record):
    """Who acted: the name that they gave, and what the machine knew of them."""

    name: str
    os_user: str
    """Login name of the process's owner."""
    uid: int
    host: str
    process: int
    token: str | None = Field(None, exclude_if=lambda value: value is None)
    """Prefix of the personal token that proved the name; None where the name was believed."""
    act: str | None = Field(None, exclude_if=lambda value: value is None)
    """Signature of the command that was signed with the token elsewhere; None where the token
    itself was given."""


class AuditEvent(Record):
    """One act. Each event names the one before it by digest, so that none can be changed, dropped
    or put between without all that follow being changed too."""

    sequence: int
    """From 1, without gaps."""
    at: float
    """Seconds since the epoch, by the ledger's clock."""
    kind: str
    """`start`, `stage`, `approve`, `reject`, `release`, `traffic`, `restore`, `user`, `revocation`,
    `policy` or `adopted`."""
    run: str
    """The run that it is about; empty for none."""
    content: dict[str, Any]
    """What was done."""
    actor: Actor
    previous: str
    """Digest of the event before; empty for the first."""
    digest: str
    """SHA-256 of the canonical JSON of all other fields."""
