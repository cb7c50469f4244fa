"""Releases in the ledger: a small state machine, each transition one transaction.

    intended ── begin ──▶ moving (step 1 … n) ── finish ──▶ done
        │                    │
        └──── abort ──▶ aborted └──── take_back ──▶ rolled_back

A transition is refused to a writer whose number is not the newest: one that slept while another
took over.
"""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from assay.errors import Superseded
from assay.records.record import digest_of
from assay.records.releases.audit import Actor
from assay.records.releases.release import (
    OPEN_STATES,
    Release,
    ReleaseIntent,
    ReleaseState,
    Traffic,
)
from assay.store.audit import Audit
from assay.store.database import Database
from assay.store.schema import columns

tables = sql.MetaData()

_releases = sql.Table(
    "releases",
    tables,
    columns.number_of_row(),
    columns.short("run", index=True),
    columns.text("intent"),
    columns.short("state"),
    columns.whole("step"),
    columns.whole("fence"),
    columns.text("note"),
)
_writers = sql.Table(
    "writers",
    tables,
    columns.number_of_row(),
    columns.whole("number"),
    columns.text("holder"),
)


class Releases:
    """The releases of one ledger. `add_traffic` writes a change of traffic inside a transaction."""

    def __init__(
        self,
        database: Database,
        audit: Audit,
        add_traffic: Callable[[Connection, Traffic, Actor], None],
    ) -> None:
        self._database = database
        self._audit = audit
        self._add_traffic = add_traffic
        database.make_tables(tables)

    def newest_writer(self) -> int:
        """The number of the newest writer; 0 before the first."""
        with self._database.reading() as connection:
            return _newest(connection)

    def claim(self, number: int, actor: Actor) -> None:
        """Makes `number` the newest writer's. Raises `Superseded` when there is a newer one, or the
        same."""
        with self._database.writing() as connection:
            newest = _newest(connection)
            if number <= newest:
                raise Superseded(
                    f"writer {number} comes too late: {newest} has the releases of this place"
                )
            # One row at most: only the newest writer counts.
            connection.execute(_writers.delete())
            connection.execute(
                _writers.insert().values(id=1, number=number, holder=actor.model_dump_json())
            )

    def last_holder(self) -> Actor | None:
        """Who wrote last."""
        with self._database.reading() as connection:
            text = connection.execute(sql.select(_writers.c.holder)).scalar()
        return Actor.model_validate_json(text) if text else None

    def get(self, release: int) -> Release:
        """One release as it is now."""
        with self._database.reading() as connection:
            return _read(connection, _releases.c.id == release)[0]

    def under_way(self) -> Release | None:
        """The release that has begun and not ended."""
        with self._database.reading() as connection:
            return _under_way(connection)

    def all(self) -> list[Release]:
        """Every release, the oldest first."""
        with self._database.reading() as connection:
            return _read(connection, sql.true())

    def intend(self, intent: ReleaseIntent, *, fence: int, actor: Actor) -> Release:
        """Writes down what is about to be done. Raises `Superseded` while another release is under
        way."""
        with self._database.writing() as connection:
            require_newest(connection, fence)
            if other := _under_way(connection):
                raise Superseded(f"release {other.id} of {other.intent.candidate.run} is under way")
            values = {
                "run": intent.candidate.run,
                "intent": intent.model_dump_json(),
                "state": "intended",
            }
            result = connection.execute(
                _releases.insert().values({**values, "step": 0, "fence": fence, "note": ""})
            )
            assert result.inserted_primary_key is not None
            release = _read(connection, _releases.c.id == result.inserted_primary_key[0])[0]
            self._tell(connection, release, actor)
        return release

    def advance(self, release: Release, *, fence: int, actor: Actor) -> Release:
        """Begins the next step; only then may traffic move."""
        with self._database.writing() as connection:
            becomes = _changed(release, fence, state="moving", step=release.step + 1)
            return self._change(connection, release, becomes, actor)

    def finish(self, release: Release, traffic: Traffic, *, fence: int, actor: Actor) -> Release:
        """The candidate has the traffic."""
        if release.step != len(release.intent.steps):
            raise Superseded(
                f"release {release.id} is at step {release.step} of {len(release.intent.steps)}"
            )
        # One transaction: who has the traffic, and that the release is over, are never apart.
        with self._database.writing() as connection:
            self._add_traffic(connection, traffic, actor)
            becomes = _changed(release, fence, state="done")
            return self._change(connection, release, becomes, actor)

    def take_back(self, release: Release, traffic: Traffic, *, fence: int, actor: Actor) -> Release:
        """The former champion has the traffic again."""
        state: ReleaseState = "rolled_back" if release.step else "aborted"
        with self._database.writing() as connection:
            if release.step:
                self._add_traffic(connection, traffic, actor)
            becomes = _changed(release, fence, state=state, note=traffic.reason)
            return self._change(connection, release, becomes, actor)

    def _change(
        self,
        connection: Connection,
        release: Release,
        becomes: Release,
        actor: Actor,
    ) -> Release:
        """One transition from `release` as it was read; refused when it has changed since."""
        require_newest(connection, becomes.fence)
        # The state that was read is a part of the condition: of two at once one changes no row.
        result = connection.execute(
            _releases.update()
            .where(_releases.c.id == release.id)
            .where(_releases.c.state == release.state, _releases.c.step == release.step)
            .where(_releases.c.state.in_(OPEN_STATES))
            .values(state=becomes.state, step=becomes.step, fence=becomes.fence, note=becomes.note)
        )
        now = _read(connection, _releases.c.id == release.id)[0]
        if result.rowcount != 1:
            raise Superseded(_ended(now))
        self._tell(connection, now, actor)
        return now

    def _tell(self, connection: Connection, release: Release, actor: Actor) -> None:
        content = {
            "release": release.id,
            "state": release.state,
            "step": release.step,
            "intent": digest_of(release.intent.model_dump(mode="json")),
            "note": release.note,
        }
        self._audit.append(
            connection, "release", run=release.intent.candidate.run, content=content, actor=actor
        )


def _changed(
    release: Release,
    fence: int,
    *,
    state: ReleaseState,
    step: int | None = None,
    note: str = "",
) -> Release:
    """The release as the writer of this number would leave it; at the step where it is, if none is
    said."""
    if step is None:
        step = release.step
    return release.model_copy(update={"state": state, "step": step, "fence": fence, "note": note})


def _newest(connection: Connection) -> int:
    return int(connection.execute(sql.select(_writers.c.number)).scalar() or 0)


def require_newest(connection: Connection, fence: int) -> None:
    """Raises `Superseded` unless this is the newest writer's number, inside the transaction of what
    it is about to write."""
    newest = _newest(connection)
    if fence != newest:
        raise Superseded(f"writer {fence} comes too late: {newest} has the releases of this place")


def _under_way(connection: Connection) -> Release | None:
    found = _read(connection, _releases.c.state.in_(OPEN_STATES))
    return found[-1] if found else None


def _read(connection: Connection, where: Any) -> list[Release]:
    query = sql.select(_releases).where(where).order_by(_releases.c.id)
    found = []
    for row in connection.execute(query).mappings():
        release = Release(
            id=row["id"],
            intent=ReleaseIntent.model_validate_json(row["intent"]),
            state=row["state"],
            step=row["step"],
            fence=row["fence"],
            note=row["note"],
        )
        found.append(release)
    return found


def _ended(release: Release) -> str:
    why = f": {release.note}" if release.note else ""
    return (
        f"release {release.id} of {release.intent.candidate.run} is {release.state} at step "
        f"{release.step}{why}"
    )
