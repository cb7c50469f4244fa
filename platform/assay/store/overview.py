"""Many runs at once, for pages and lists: a handful of queries, however many runs there are."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import sqlalchemy as sql

from assay.records.releases.release import Approval
from assay.store.database import Database
from assay.store.schema import tables
from assay.store.schema.rows import StageRow


@dataclass(frozen=True)
class RunLine:
    """A run in a list."""

    id: str
    name: str
    started_by: str
    """Who has started it last."""
    started_at: float
    """When, in seconds since the epoch."""


class Overview:
    """What a ledger says of its runs, a page at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def runs(self, *, limit: int, offset: int = 0, name: str = "") -> list[RunLine]:
        """Runs whose id contains `name`, the one started last first."""
        started = tables.starts.c
        last = sql.select(sql.func.max(started.id)).group_by(started.run)
        query = (
            sql.select(tables.runs.c.id, tables.runs.c.name, started.started_by, started.at)
            .join(tables.starts, started.run == tables.runs.c.id)
            .where(started.id.in_(last), tables.runs.c.id.contains(name, autoescape=True))
            .order_by(started.id.desc())
            .limit(limit)
            .offset(offset)
        )
        with self._database.reading() as connection:
            return [RunLine(*row) for row in connection.execute(query)]

    def num_runs(self, name: str = "") -> int:
        """How many runs have `name` in their id."""
        query = sql.select(sql.func.count()).where(tables.runs.c.id.contains(name, autoescape=True))
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def stages(self, runs: Collection[str]) -> dict[str, list[StageRow]]:
        """The newest attempt at each stage of these runs, in the order in which they were begun."""
        of = tables.stages.c
        newest = sql.select(sql.func.max(of.id)).where(of.run.in_(runs)).group_by(of.run, of.stage)
        query = sql.select(tables.stages).where(of.id.in_(newest)).order_by(of.id)
        found: dict[str, list[StageRow]] = defaultdict(list)
        with self._database.reading() as connection:
            for row in connection.execute(query).mappings():
                names = StageRow.__dataclass_fields__
                found[row["run"]].append(StageRow(**{name: row[name] for name in names}))
        return found

    def records(self, keys: Collection[str]) -> dict[str, str]:
        """The records under these keys, as JSON."""
        query = sql.select(tables.records.c.key, tables.records.c.record)
        with self._database.reading() as connection:
            rows = connection.execute(query.where(tables.records.c.key.in_(keys)))
            return {row.key: row.record for row in rows}

    def approvals(self, runs: Collection[str]) -> dict[str, list[Approval]]:
        """What reviewers have said of these runs, in the order in which the ledger took it."""
        of = tables.approvals.c
        query = sql.select(of.run, of.approval).where(of.run.in_(runs)).order_by(of.id)
        found: dict[str, list[Approval]] = defaultdict(list)
        with self._database.reading() as connection:
            for run, text in connection.execute(query):
                found[run].append(Approval.model_validate_json(text))
        return found

    def mark(self) -> str:
        """Another text whenever a stage begins or ends, somebody says something, or traffic
        moves."""
        of = tables.stages.c
        queries = (
            sql.select(sql.func.max(of.id), sql.func.count(of.ended_at)),
            sql.select(sql.func.max(tables.starts.c.id)),
            sql.select(sql.func.max(tables.approvals.c.id)),
            sql.text("SELECT max(sequence) FROM audit"),
        )
        with self._database.reading() as connection:
            rows = [connection.execute(query).one() for query in queries]
        return "-".join(str(value or 0) for row in rows for value in row)
