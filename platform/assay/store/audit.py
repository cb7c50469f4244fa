"""The audit: a chain of events, each written in the same transaction as the act that it tells
of."""

import json
import os
import pwd
import socket
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from assay.errors import IntegrityError
from assay.records.record import canonical_json, digest_of, read_as
from assay.records.releases.audit import Actor, AuditEvent
from assay.records.releases.grant import GRANT_KINDS
from assay.records.releases.receipt import Signature
from assay.store.database import Database
from assay.store.receipts import PlaceKeys
from assay.store.schema import columns

SEAL = "seal"
SEALED_KINDS = ("approve", "reject", "release", "traffic", "restore")
"""Events that the place's key signs: whoever can write to the database alone can add none. Tokens
and policies are signed themselves; a start or a record that is added lets nobody through."""

tables = sql.MetaData()

_audit = sql.Table(
    "audit",
    tables,
    sql.Column("sequence", sql.Integer, primary_key=True, autoincrement=False),
    columns.moment("at"),
    columns.short("kind"),
    columns.short("run", index=True),
    columns.text("content"),
    columns.text("actor"),
    columns.short("previous"),
    columns.short("digest"),
)


def this_process(name: str, token: str | None = None, act: str | None = None) -> Actor:
    """The actor of what this process does in somebody's name, which a `token` has proved, or an
    `act` that was signed with it."""
    return Actor(
        name=name,
        token=token,
        act=act,
        os_user=_login_name(),
        uid=os.getuid(),
        host=socket.gethostname(),
        process=os.getpid(),
    )


class Audit:
    """The chain of one ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.keys: PlaceKeys | None = None
        """The keys of the place that this process works for, once that is known."""
        database.make_tables(tables)

    def append(
        self, connection: Connection, kind: str, *, run: str, content: dict[str, Any], actor: Actor
    ) -> AuditEvent:
        """Adds an event inside the transaction of the act itself: both are written, or neither."""
        last = connection.execute(
            sql.select(_audit.c.sequence, _audit.c.digest)
            .order_by(_audit.c.sequence.desc())
            .limit(1)
        ).first()
        # The digest of the event before is in each: none can be changed or left out unnoticed.
        facts: dict[str, Any] = {
            "sequence": last.sequence + 1 if last else 1,
            "at": self._database.now(connection),
            "kind": kind,
            "run": run,
            "content": content,
            "actor": actor.model_dump(),
            "previous": last.digest if last else "",
        }
        # The seal is a part of what the digest is made of, and signs all but itself.
        if self.keys is not None and kind in SEALED_KINDS:
            seal = self.keys.signature(canonical_json(facts).encode())
            facts["content"] = {**content, SEAL: seal.model_dump()}
        event = AuditEvent.model_validate({**facts, "digest": digest_of(facts)})
        row = {
            **facts,
            "content": canonical_json(event.content),
            "actor": event.actor.model_dump_json(),
            "digest": event.digest,
        }
        connection.execute(_audit.insert().values(row))
        return event

    def is_empty(self, connection: Connection) -> bool:
        """Whether nothing was ever done here, or nothing since the audit is kept."""
        return connection.execute(sql.select(_audit.c.sequence).limit(1)).first() is None

    def grants(self, connection: Connection) -> list[list[str]]:
        """Kind and digest of each statement on tokens and policies, in their order."""
        query = (
            sql.select(_audit.c.kind, _audit.c.content)
            .where(_audit.c.kind.in_(GRANT_KINDS))
            .order_by(_audit.c.sequence)
        )
        grants = []
        for kind, content in connection.execute(query):
            grants.append([kind, str(json.loads(content).get("statement"))])
        return grants

    def contents(self, connection: Connection, kind: str, run: str) -> Sequence[str]:
        """What the events of a kind say of a run, as JSON and without their seals, the oldest
        first."""
        query = (
            sql.select(_audit.c.content)
            .where(_audit.c.kind == kind, _audit.c.run == run)
            .order_by(_audit.c.sequence)
        )
        contents = []
        for text in connection.execute(query).scalars():
            content = json.loads(text)
            content.pop(SEAL, None)
            contents.append(json.dumps(content))
        return contents

    def newest(self, *, run: str = "", limit: int, before: int = 0) -> list[AuditEvent]:
        """Events as they stand there, the newest first, of one run where it is named, and older
        than number `before` where that is not 0. The chain is not checked."""
        query = sql.select(_audit).order_by(_audit.c.sequence.desc()).limit(limit)
        if run:
            query = query.where(_audit.c.run == run)
        if before:
            query = query.where(_audit.c.sequence < before)
        with self._database.reading() as connection:
            return [_read(row) for row in connection.execute(query).mappings()]

    def events(self, connection: Connection | None = None) -> list[AuditEvent]:
        """Every event, the oldest first. Raises `IntegrityError` where the chain is broken."""
        if connection is None:
            with self._database.reading() as own:
                return self.events(own)
        rows = connection.execute(sql.select(_audit).order_by(_audit.c.sequence)).mappings().all()
        events = [_read(row) for row in rows]
        check_chain(events)
        return events


def check_chain(events: Sequence[AuditEvent]) -> None:
    """Raises `IntegrityError` at the first event that was changed, or before which one is
    missing."""
    previous = ""
    for number, event in enumerate(events, start=1):
        if event.sequence != number:
            raise IntegrityError(
                f"the audit has no event {number}: one was removed; the next is {event.sequence}"
            )
        if event.previous != previous:
            raise IntegrityError(
                f"event {number} of the audit ({event.kind} {event.run}) does not follow the one "
                "before it"
            )
        if digest_of(event.model_dump(exclude={"digest"})) != event.digest:
            raise IntegrityError(
                f"event {number} of the audit ({event.kind} {event.run}) was changed after it was "
                "written"
            )
        previous = event.digest


def check_seals(events: Sequence[AuditEvent], keys: PlaceKeys) -> None:
    """Raises `IntegrityError` at the first word or change of traffic that the place has not signed.
    Those of older versions, at the chain's beginning, are not signed."""
    is_sealed = False
    for event in events:
        seal = event.content.get(SEAL)
        # After the first seal there must be one each time: leaving it out would be the attack.
        if event.kind not in SEALED_KINDS or not (seal or is_sealed):
            continue
        is_sealed = True
        content = {name: value for name, value in event.content.items() if name != SEAL}
        facts = event.model_dump(exclude={"digest"}) | {"content": content}
        signature = read_as(Signature, seal)
        if signature is None or not keys.has_signed(signature, canonical_json(facts).encode()):
            raise IntegrityError(
                f"event {event.sequence} of the audit ({event.kind} {event.run}) was not written "
                "by this place: its key has not signed it"
            )


def check_vouched(
    events: Sequence[AuditEvent], facts: Mapping[str, Sequence[Sequence[str]]]
) -> None:
    """Raises `IntegrityError` unless `facts`, the ledger's rows by table, are what the events have
    written: approvals, starts and changes of traffic row by row and in their order, and the newest
    record under each key."""
    written: dict[str, list[list[str]]] = {name: [] for name in facts}
    for event in events:
        if event.kind == "adopted" and event.sequence == 1:
            for name, rows in written.items():
                rows.extend(event.content.get(name, []))  # an older version knew fewer tables
        elif event.kind in ("approve", "reject"):
            written["words"].append([event.run, event.content["word"]])
        elif event.kind == "traffic":
            written["traffic"].append(["", event.content["traffic"]])
        elif event.kind == "start":
            written["starts"].append([event.run, event.content["by"]])
        elif event.kind in GRANT_KINDS:
            written["grants"].append([event.kind, event.content["statement"]])
        elif event.kind == "stage":
            written["records"].append([event.content["key"], event.content["record"]])
    for name, what in (
        ("words", "an approval"),
        ("traffic", "a change of traffic"),
        ("starts", "a start"),
        ("grants", "a token or a policy"),
    ):
        check_rows(written[name], [list(row) for row in facts[name]], what)
    # A stage that ran again has two events under one key: the later record replaces the earlier.
    newest = {row[0]: row[1] for row in written["records"]}
    there = {row[0]: row[1] for row in facts["records"]}
    for key in sorted(newest.keys() | there.keys()):
        if newest.get(key) != there.get(key):
            raise IntegrityError(
                f"the ledger's record {key[:12]} is not the one that its stage has written"
            )


def check_rows(written: list[list[str]], there: list[list[str]], what: str) -> None:
    """Raises `IntegrityError` unless the rows are those that events have written, in their
    order."""
    for number, (event, row) in enumerate(zip_longest(written, there), start=1):
        if event == row:
            continue
        if len(there) > len(written):
            raise IntegrityError(
                f"the ledger holds {what} that nobody gave: row {number}, {(row or event)[0]}"
            )
        if len(there) < len(written):
            raise IntegrityError(
                f"{what} was removed from the ledger: row {number}, {(event or row)[0]}"
            )
        raise IntegrityError(f"{what} was changed in the ledger: row {number}, {row[0]}")


def _read(row: Mapping[Any, Any]) -> AuditEvent:
    try:
        written = {**row, "content": json.loads(row["content"]), "actor": json.loads(row["actor"])}
        return AuditEvent.model_validate(written)
    except ValueError as error:
        raise IntegrityError(
            f"event {row['sequence']} of the audit was changed: it cannot be read"
        ) from error


def _login_name() -> str:
    try:
        # Not the environment's USER, which is whatever somebody wrote there.
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user may have no name
        return str(os.getuid())
