"""The ledger: what was run, what came of it, who agreed, and where traffic went. SQL, through
SQLAlchemy."""

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from assay.errors import AssayError, NotApproved, UsageError
from assay.records.record import Record, digest_of
from assay.records.releases.audit import Actor, AuditEvent
from assay.records.releases.release import Approval, Champion, Traffic
from assay.store.audit import Audit, check_rows, check_vouched, this_process
from assay.store.database import Database
from assay.store.grants import Grants
from assay.store.overview import Overview
from assay.store.releases import Releases
from assay.store.restorations import Restorations
from assay.store.schema import tables
from assay.store.schema.rows import RecordRow, RunRow, StageRow

CLOCK_SKEW_S = 60.0
"""How far ahead of the ledger's clock a reviewer's may be."""

NO_RUNS = "no runs yet; `assay run SPEC` makes the first"


class Ledger:
    """One ledger; `url` is an SQLAlchemy URL. Raises `PlaceError` when it cannot be opened or
    written."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._database.make_tables(tables.ledger)
        self.audit = Audit(self._database)
        self.releases = Releases(self._database, self.audit, self._add_traffic)
        self.restorations = Restorations(self._database, self.audit)
        self.grants = Grants(self._database, self.audit)
        self.overview = Overview(self._database)
        self.actor: Actor | None = None
        """In whose name this process writes, once that is known."""
        self._adopt_what_was_there()

    def close(self) -> None:
        """Ends the connections that are kept; a ledger may be used again after it."""
        self._database.close()

    def lock(self, name: str, *, wait_s: float, taken: AssayError) -> AbstractContextManager[None]:
        """Holds a lock of this ledger, which ends when the process does. Raises `taken` when
        another has it for longer than `wait_s`."""
        return self._database.lock(name, wait_s=wait_s, taken=taken)

    def is_locked(self, name: str) -> bool:
        """Whether a process holds this lock."""
        return self._database.is_locked(name)

    def open_run(self, run: str, *, name: str, spec: str, started_by: str) -> None:
        """Writes down a run, and that somebody has started it (again). Raises `UsageError` when the
        id is another spec's: its reviewers must not become this one's."""
        actor = self.actor or this_process(started_by)
        with self._database.writing() as connection:
            query = sql.select(tables.runs.c.spec).where(tables.runs.c.id == run)
            there = connection.execute(query).scalar()
            if there is None:
                values: dict[str, Any] = {"id": run, "name": name, "spec": spec}
                values["created_at"] = time.time()
                connection.execute(tables.runs.insert().values(values))
            # As data, not as text: the same spec may be written otherwise.
            elif json.loads(there) != json.loads(spec):
                raise UsageError(
                    f"run {run} was made from another spec; change the spec's name to have another "
                    "id"
                )
            start = {
                "run": run,
                "started_by": started_by,
                "host": actor.host,
                "process": actor.process,
                "at": time.time(),
            }
            connection.execute(tables.starts.insert().values(start))
            content = {"by": started_by, "spec": digest_of(json.loads(spec))}
            self.audit.append(connection, "start", run=run, content=content, actor=actor)

    def find_run(self, prefix: str) -> RunRow:
        """The one run whose id starts with `prefix`; the newest for an empty one.
        Raises `UsageError` when there is none, or more than one."""
        # A whole id counts even where it is the beginning of another one.
        with self._database.reading() as connection:
            whole = sql.select(tables.runs).where(tables.runs.c.id == prefix)
            row = connection.execute(whole).mappings().first()
        if row is not None:
            return RunRow(**row)
        runs = [run for run in self.runs() if run.id.startswith(prefix)]
        if not prefix:
            if not runs:
                raise UsageError(NO_RUNS)
            return runs[0]
        if not runs:
            raise UsageError(f"no run starts with '{prefix}'; `assay status` lists them")
        if len(runs) > 1:
            names = ", ".join(run.id for run in runs)
            raise UsageError(f"'{prefix}' could be any of {names}; write more of it")
        return runs[0]

    def runs(self) -> list[RunRow]:
        """All runs, the one started last first."""
        last = (
            sql.select(tables.starts.c.run, sql.func.max(tables.starts.c.id).label("last"))
            .group_by(tables.starts.c.run)
            .subquery()
        )
        query = (
            sql.select(tables.runs)
            .join(last, last.c.run == tables.runs.c.id)
            .order_by(last.c.last.desc())
        )
        with self._database.reading() as connection:
            return [RunRow(**row) for row in connection.execute(query).mappings()]

    def starters(self, run: str) -> set[str]:
        """Everybody who has started this run."""
        query = sql.select(tables.starts.c.started_by).where(tables.starts.c.run == run)
        with self._database.reading() as connection:
            return set(connection.execute(query).scalars())

    def begin_stage(self, run: str, stage: str, key: str, inputs: str = "") -> int:
        """Notes that a stage is being run, and the `inputs` (JSON) that its key is made of; returns
        the id of the attempt."""
        values = {
            "run": run,
            "stage": stage,
            "key": key,
            "state": "running",
            "started_at": time.time(),
        }
        with self._database.writing() as connection:
            known = sql.select(tables.inputs.c.key).where(tables.inputs.c.key == key)
            if inputs and not connection.execute(known).first():
                connection.execute(tables.inputs.insert().values(key=key, inputs=inputs))
            result = connection.execute(tables.stages.insert().values(values))
            return int(result.inserted_primary_key[0]) if result.inserted_primary_key else 0

    def finish_stage(self, attempt: int, record: Record) -> None:
        """Writes the record and ends the attempt, both or neither."""
        now = time.time()
        with self._database.writing() as connection:
            query = sql.select(tables.stages).where(tables.stages.c.id == attempt)
            row = connection.execute(query).mappings().one()
            run, stage, key = row["run"], row["stage"], row["key"]
            text = record.model_dump_json()
            connection.execute(tables.records.delete().where(tables.records.c.key == key))
            values = {"key": key, "stage": stage, "run": run, "record": text, "at": now}
            values["seconds"] = now - row["started_at"]
            connection.execute(tables.records.insert().values(values))
            ended = tables.stages.update().where(tables.stages.c.id == attempt)
            connection.execute(ended.values(state="done", ended_at=now))
            content = {"stage": stage, "key": key, "record": tables.digest_of_text(text)}
            actor = self.actor or this_process("")
            self.audit.append(connection, "stage", run=run, content=content, actor=actor)

    def fail_stage(self, attempt: int, error: str) -> None:
        """Ends the attempt without a record."""
        with self._database.writing() as connection:
            values = {"state": "failed", "ended_at": time.time(), "error": error}
            ended = tables.stages.update().where(tables.stages.c.id == attempt)
            connection.execute(ended.values(values))

    def reuse_stage(self, run: str, stage: str, key: str) -> None:
        """Notes that a stage was not run because its record stood already."""
        now = time.time()
        with self._database.writing() as connection:
            query = tables.newest_stages(run).where(tables.stages.c.stage == stage)
            newest = connection.execute(query).mappings().first()
            if newest and newest["key"] == key and newest["state"] in ("done", "cached"):
                return
            values = {
                "run": run,
                "stage": stage,
                "key": key,
                "state": "cached",
                "started_at": now,
                "ended_at": now,
            }
            connection.execute(tables.stages.insert().values(values))

    def record(self, key: str) -> RecordRow | None:
        """The record under a key."""
        columns = [tables.records.c[name] for name in RecordRow.__dataclass_fields__]
        query = sql.select(*columns).where(tables.records.c.key == key)
        with self._database.reading() as connection:
            row = connection.execute(query).mappings().first()
        return RecordRow(**row) if row else None

    def records_of(self, run: str, stage: str) -> Sequence[str]:
        """Every record that this stage of the run has left, as JSON, the newest first."""
        query = (
            sql.select(tables.records.c.record)
            .where(tables.records.c.run == run, tables.records.c.stage == stage)
            .order_by(tables.records.c.at.desc())
        )
        with self._database.reading() as connection:
            return connection.execute(query).scalars().all()

    def inputs(self, key: str) -> str | None:
        """What a key is made of, as JSON; None for a key of an older version."""
        with self._database.reading() as connection:
            query = sql.select(tables.inputs.c.inputs).where(tables.inputs.c.key == key)
            return connection.execute(query).scalar()

    def stages(self, run: str) -> list[StageRow]:
        """The newest attempt at each stage, in the order in which they were begun."""
        query = tables.newest_stages(run).order_by(tables.stages.c.id)
        with self._database.reading() as connection:
            rows = connection.execute(query).mappings().all()
        found = []
        for row in rows:
            columns = {name: row[name] for name in StageRow.__dataclass_fields__}
            found.append(StageRow(**columns))
        return found

    def add_approval(self, approval: Approval) -> Approval:
        """Writes down a reviewer's word, with the ledger's time and whose process gave it. Raises
        `NotApproved` for one that is dated ahead of the ledger's clock: it would outlive what it
        says."""
        actor = self.actor or this_process(approval.reviewer)
        with self._database.writing() as connection:
            # The ledger's clock: this machine's may be set to whatever its user likes.
            now = self._database.now(connection)
            if approval.given_at > now + CLOCK_SKEW_S:
                raise NotApproved(
                    f"the word of {approval.reviewer} is dated {approval.given_at - now:.0f} s "
                    "ahead of the ledger's clock; set this machine's clock"
                )
            word = approval.model_copy(update={"recorded_at": now, "actor": actor})
            text = word.model_dump_json()
            connection.execute(tables.approvals.insert().values(run=approval.run, approval=text))
            content = {"word": tables.digest_of_text(text)}
            self.audit.append(
                connection, approval.decision, run=approval.run, content=content, actor=actor
            )
        return word

    def approvals(self, run: str) -> list[Approval]:
        """What reviewers have said of a run, in the order in which the ledger took it."""
        return [Approval.model_validate_json(text) for text in self._approval_texts(run)]

    def _approval_texts(self, run: str) -> Sequence[str]:
        query = (
            sql.select(tables.approvals.c.approval)
            .where(tables.approvals.c.run == run)
            .order_by(tables.approvals.c.id)
        )
        with self._database.reading() as connection:
            return connection.execute(query).scalars().all()

    def add_attempt(
        self, splits: Sequence[str], subject: str, *, run: str, budget: int | None
    ) -> int | None:
        """Counts `subject` as evaluated with the items of every split, once. Returns which one it
        is: the highest of its numbers, each counted from 1; None, and counts nothing, when that
        would be more than the budget."""
        numbers = [0]
        # In one transaction: of two candidates at once only one can be the last of the budget.
        with self._database.writing() as connection:
            for split in splits:
                own = sql.select(tables.attempts.c.id).where(
                    tables.attempts.c.split == split, tables.attempts.c.subject == subject
                )
                if connection.execute(own).first() is None:
                    values = {"split": split, "subject": subject, "run": run, "at": time.time()}
                    connection.execute(tables.attempts.insert().values(values))
                before = sql.select(sql.func.count()).where(
                    tables.attempts.c.split == split, tables.attempts.c.id <= own.scalar_subquery()
                )
                numbers.append(int(connection.execute(before).scalar_one()))
            if budget is not None and max(numbers) > budget:
                # The splits that had room must not count one that was not evaluated.
                connection.rollback()
                return None
        return max(numbers)

    def num_attempts(self, split: str) -> int:
        """How many candidates were evaluated with the items of a split."""
        query = sql.select(sql.func.count()).where(tables.attempts.c.split == split)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def add_traffic(self, traffic: Traffic) -> None:
        """Writes down a change of traffic."""
        with self._database.writing() as connection:
            self._add_traffic(connection, traffic, this_process(traffic.by))

    def _add_traffic(self, connection: Connection, traffic: Traffic, actor: Actor) -> None:
        text = traffic.model_dump_json()
        connection.execute(tables.traffic.insert().values(at=time.time(), traffic=text))
        run = traffic.champion.run if traffic.champion else ""
        content = {"traffic": tables.digest_of_text(text)}
        self.audit.append(connection, "traffic", run=run, content=content, actor=actor)

    def traffic(self) -> Sequence[Traffic]:
        """Every change of traffic, in order."""
        query = sql.select(tables.traffic.c.traffic).order_by(tables.traffic.c.id)
        with self._database.reading() as connection:
            texts = connection.execute(query).scalars().all()
        return [Traffic.model_validate_json(text) for text in texts]

    def champion(self) -> Champion | None:
        """Who has the traffic."""
        changes = self.traffic()
        return changes[-1].champion if changes else None

    def verify(self) -> list[AuditEvent]:
        """Raises `IntegrityError` where the tables say what no act has written, or no longer say
        what one has; returns the whole audit."""
        with self._database.reading() as connection:
            events = self.audit.events(connection)
            check_vouched(events, tables.facts(connection))
        return events

    def check_database(self) -> list[str]:
        """What the database finds wrong with itself."""
        return self._database.faults()

    def check_grants(self) -> None:
        """Raises `IntegrityError` unless the tokens and policies are those that the audit tells
        of."""
        with self._database.reading() as connection:
            told = self.audit.grants(connection)
            check_rows(told, tables.grant_rows(connection), "a token or a policy")

    def _adopt_what_was_there(self) -> None:
        """Puts what an older version has written at the audit's beginning, once."""
        any_run = sql.select(tables.runs.c.id).limit(1)
        # Reading first: who opens a ledger to look at it takes no lock.
        with self._database.reading() as connection:
            is_new = connection.execute(any_run).first() is None
            if is_new or not self.audit.is_empty(connection):
                return
        with self._database.writing() as connection:
            # Another process may have been quicker.
            if self.audit.is_empty(connection):
                facts, actor = tables.facts(connection), this_process("")
                self.audit.append(connection, "adopted", run="", content=facts, actor=actor)
