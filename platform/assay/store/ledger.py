"""The ledger: what was run, what came of it, who agreed, and where traffic went. SQL, through SQLAlchemy."""

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import sqlalchemy as sql
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError

from assay.errors import PlaceError, UsageError
from assay.records.record import Record
from assay.records.release import Approval, Champion, Traffic

StageState = Literal["running", "done", "cached", "failed", "killed"]
"""`killed` is never written: it is what is seen of a stage whose process has gone (see `flow.line.stages_now`)."""
NO_RUNS = "no runs yet; `assay run SPEC` makes the first"

_tables = sql.MetaData()

_runs = sql.Table(
    "runs",
    _tables,
    sql.Column("id", sql.String, primary_key=True),
    sql.Column("name", sql.String, nullable=False),
    sql.Column("spec", sql.Text, nullable=False),
    sql.Column("created_at", sql.Float, nullable=False),
)
_starts = sql.Table(
    "starts",
    _tables,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("run", sql.ForeignKey("runs.id"), nullable=False, index=True),
    sql.Column("started_by", sql.String, nullable=False),
    sql.Column("host", sql.String, nullable=False),
    sql.Column("process", sql.Integer, nullable=False),
    sql.Column("at", sql.Float, nullable=False),
)
_records = sql.Table(
    "records",
    _tables,
    sql.Column("key", sql.String, primary_key=True),
    sql.Column("stage", sql.String, nullable=False),
    sql.Column("run", sql.ForeignKey("runs.id"), nullable=False),
    sql.Column("record", sql.Text, nullable=False),
    sql.Column("seconds", sql.Float, nullable=False),
    sql.Column("at", sql.Float, nullable=False),
)
_stages = sql.Table(
    "stages",
    _tables,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("run", sql.ForeignKey("runs.id"), nullable=False, index=True),
    sql.Column("stage", sql.String, nullable=False),
    sql.Column("key", sql.String, nullable=False),
    sql.Column("state", sql.String, nullable=False),
    sql.Column("started_at", sql.Float, nullable=False),
    sql.Column("ended_at", sql.Float),
    sql.Column("error", sql.Text),
)
_inputs = sql.Table(
    "inputs",
    _tables,
    sql.Column("key", sql.String, primary_key=True),
    sql.Column("inputs", sql.Text, nullable=False),
)
_approvals = sql.Table(
    "approvals",
    _tables,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("run", sql.ForeignKey("runs.id"), nullable=False, index=True),
    sql.Column("approval", sql.Text, nullable=False),
)
_traffic = sql.Table(
    "traffic",
    _tables,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("at", sql.Float, nullable=False),
    sql.Column("traffic", sql.Text, nullable=False),
)
_attempts = sql.Table(
    "attempts",
    _tables,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("split", sql.String, nullable=False, index=True),
    sql.Column("subject", sql.String, nullable=False),
    sql.Column("run", sql.ForeignKey("runs.id"), nullable=False),
    sql.Column("at", sql.Float, nullable=False),
    sql.UniqueConstraint("split", "subject"),
)


@dataclass(frozen=True)
class RunRow:
    """A run as the ledger knows it."""

    id: str
    name: str
    spec: str
    """The resolved spec, as JSON."""
    created_at: float


@dataclass(frozen=True)
class StageRow:
    """The newest attempt at a stage of a run."""

    stage: str
    key: str
    state: StageState
    started_at: float
    ended_at: float | None
    error: str | None


@dataclass(frozen=True)
class RecordRow:
    """A finished stage's record, with the run that made it."""

    key: str
    stage: str
    run: str
    record: str
    seconds: float


class Ledger:
    """One ledger; `url` is an SQLAlchemy URL. Raises `PlaceError` when it cannot be opened or written."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        file = self._url.database if self._url.get_backend_name() == "sqlite" else None
        if file and not file.startswith("file:"):  # SQLite's own URIs say whether the file may be made
            _make_folder(Path(file).parent)
        self._engine = sql.create_engine(self._url, connect_args=_connect_args(self._url.get_backend_name()))
        if self._url.get_backend_name() == "sqlite":
            sql.event.listen(self._engine, "connect", _set_pragmas)
        with self._begin() as connection:
            _tables.create_all(connection)

    def open_run(self, run: str, *, name: str, spec: str, started_by: str) -> None:
        """Writes down a run, and that somebody has started it (again)."""
        with self._begin() as connection:
            if not connection.execute(sql.select(_runs.c.id).where(_runs.c.id == run)).first():
                connection.execute(_runs.insert().values(id=run, name=name, spec=spec, created_at=time.time()))
            connection.execute(
                _starts.insert().values(
                    run=run, started_by=started_by, host=socket.gethostname(), process=os.getpid(), at=time.time()
                )
            )

    def find_run(self, prefix: str) -> RunRow:
        """The one run whose id starts with `prefix`; the newest for an empty one.
        Raises `UsageError` when there is none, or more than one."""
        runs = [run for run in self.runs() if run.id.startswith(prefix)]
        exact = [run for run in runs if run.id == prefix]
        if not runs:
            raise UsageError(f"no run starts with '{prefix}'; `assay status` lists them" if prefix else NO_RUNS)
        if prefix and len(runs) > 1 and not exact:
            raise UsageError(f"'{prefix}' could be any of {', '.join(run.id for run in runs)}; write more of it")
        return (exact or runs)[0]

    def runs(self) -> list[RunRow]:
        """All runs, the one started last first."""
        last = sql.select(_starts.c.run, sql.func.max(_starts.c.id).label("last")).group_by(_starts.c.run).subquery()
        query = sql.select(_runs).join(last, last.c.run == _runs.c.id).order_by(last.c.last.desc())
        with self._begin() as connection:
            return [RunRow(**row) for row in connection.execute(query).mappings()]

    def starters(self, run: str) -> set[str]:
        """Everybody who has started this run."""
        with self._begin() as connection:
            return set(connection.execute(sql.select(_starts.c.started_by).where(_starts.c.run == run)).scalars())

    def begin_stage(self, run: str, stage: str, key: str, inputs: str = "") -> int:
        """Notes that a stage is being run, and the `inputs` (JSON) that its key is made of; returns the id of the
        attempt."""
        values = {"run": run, "stage": stage, "key": key, "state": "running", "started_at": time.time()}
        with self._begin() as connection:
            if inputs and not connection.execute(sql.select(_inputs.c.key).where(_inputs.c.key == key)).first():
                connection.execute(_inputs.insert().values(key=key, inputs=inputs))
            result = connection.execute(_stages.insert().values(values))
            return int(result.inserted_primary_key[0]) if result.inserted_primary_key else 0

    def finish_stage(self, attempt: int, record: Record) -> None:
        """Writes the record and ends the attempt, both or neither."""
        now = time.time()
        with self._begin() as connection:
            row = connection.execute(sql.select(_stages).where(_stages.c.id == attempt)).mappings().one()
            connection.execute(_records.delete().where(_records.c.key == row["key"]))
            connection.execute(
                _records.insert().values(
                    key=row["key"],
                    stage=row["stage"],
                    run=row["run"],
                    record=record.model_dump_json(),
                    seconds=now - row["started_at"],
                    at=now,
                )
            )
            connection.execute(_stages.update().where(_stages.c.id == attempt).values(state="done", ended_at=now))

    def fail_stage(self, attempt: int, error: str) -> None:
        """Ends the attempt without a record."""
        with self._begin() as connection:
            values = {"state": "failed", "ended_at": time.time(), "error": error}
            connection.execute(_stages.update().where(_stages.c.id == attempt).values(values))

    def reuse_stage(self, run: str, stage: str, key: str) -> None:
        """Notes that a stage was not run because its record stood already."""
        now = time.time()
        with self._begin() as connection:
            newest = connection.execute(_newest_stages(run).where(_stages.c.stage == stage)).mappings().first()
            if newest and newest["key"] == key and newest["state"] in ("done", "cached"):
                return
            values = {"run": run, "stage": stage, "key": key, "state": "cached", "started_at": now, "ended_at": now}
            connection.execute(_stages.insert().values(values))

    def record(self, key: str) -> RecordRow | None:
        """The record under a key."""
        columns = [_records.c[name] for name in RecordRow.__dataclass_fields__]
        query = sql.select(*columns).where(_records.c.key == key)
        with self._begin() as connection:
            row = connection.execute(query).mappings().first()
        return RecordRow(**row) if row else None

    def inputs(self, key: str) -> str | None:
        """What a key is made of, as JSON; None for a key of an older version."""
        with self._begin() as connection:
            query = sql.select(_inputs.c.inputs).where(_inputs.c.key == key)
            return connection.execute(query).scalar()

    def stages(self, run: str) -> list[StageRow]:
        """The newest attempt at each stage, in the order in which they were begun."""
        with self._begin() as connection:
            rows = connection.execute(_newest_stages(run).order_by(_stages.c.id)).mappings().all()
        return [StageRow(**{name: row[name] for name in StageRow.__dataclass_fields__}) for row in rows]

    def add_approval(self, approval: Approval) -> None:
        """Writes down a reviewer's word."""
        with self._begin() as connection:
            connection.execute(_approvals.insert().values(run=approval.run, approval=approval.model_dump_json()))

    def approvals(self, run: str) -> list[Approval]:
        """What reviewers have said of a run, in order."""
        query = sql.select(_approvals.c.approval).where(_approvals.c.run == run).order_by(_approvals.c.id)
        with self._begin() as connection:
            return [Approval.model_validate_json(text) for text in connection.execute(query).scalars()]

    def add_attempt(self, splits: Sequence[str], subject: str, *, run: str, budget: int | None) -> int | None:
        """Counts `subject` as evaluated with the items of every split, once. Returns which one it is: the highest of
        its numbers, each counted from 1; None, and counts nothing, when that would be more than the budget."""
        numbers = [0]
        with self._begin() as connection:
            for split in splits:
                own = sql.select(_attempts.c.id).where(_attempts.c.split == split, _attempts.c.subject == subject)
                if connection.execute(own).first() is None:
                    values = {"split": split, "subject": subject, "run": run, "at": time.time()}
                    connection.execute(_attempts.insert().values(values))
                before = sql.select(sql.func.count()).where(
                    _attempts.c.split == split, _attempts.c.id <= own.scalar_subquery()
                )
                numbers.append(int(connection.execute(before).scalar_one()))
            if budget is not None and max(numbers) > budget:
                connection.rollback()
                return None
        return max(numbers)

    def num_attempts(self, split: str) -> int:
        """How many candidates were evaluated with the items of a split."""
        query = sql.select(sql.func.count()).where(_attempts.c.split == split)
        with self._begin() as connection:
            return int(connection.execute(query).scalar_one())

    def add_traffic(self, traffic: Traffic) -> None:
        """Writes down a change of traffic."""
        with self._begin() as connection:
            connection.execute(_traffic.insert().values(at=time.time(), traffic=traffic.model_dump_json()))

    def traffic(self) -> Sequence[Traffic]:
        """Every change of traffic, in order."""
        with self._begin() as connection:
            texts = connection.execute(sql.select(_traffic.c.traffic).order_by(_traffic.c.id)).scalars().all()
        return [Traffic.model_validate_json(text) for text in texts]

    def champion(self) -> Champion | None:
        """Who has the traffic."""
        changes = self.traffic()
        return changes[-1].champion if changes else None

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise PlaceError(
                f"the ledger at {self._url.render_as_string()} cannot be used: {cause}. "
                "Check that it exists and may be written, or set ASSAY_HOME or ASSAY_LEDGER_URL"
            ) from error


def _newest_stages(run: str) -> sql.Select[tuple[object, ...]]:
    newest = sql.select(sql.func.max(_stages.c.id)).where(_stages.c.run == run).group_by(_stages.c.stage)
    return sql.select(_stages).where(_stages.c.id.in_(newest))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlaceError(f"cannot make {folder}: {error.strerror}. Set ASSAY_HOME to a folder you may write") from error


def _connect_args(backend: str) -> dict[str, object]:
    return {"timeout": 30} if backend == "sqlite" else {}


def _set_pragmas(connection: object, _: object) -> None:
    # WAL has a known reset bug before SQLite 3.51.3, and many systems have an older one.
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode = DELETE", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
