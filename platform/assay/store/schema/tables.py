"""The tables of the ledger's runs, records, words, traffic and grants."""

import hashlib

import sqlalchemy as sql
from sqlalchemy.engine import Connection

from assay.store.schema import columns

ledger = sql.MetaData()

runs = sql.Table(
    "runs",
    ledger,
    columns.key("id"),
    columns.short("name"),
    columns.text("spec"),
    columns.moment("created_at"),
)
starts = sql.Table(
    "starts",
    ledger,
    columns.number_of_row(),
    columns.of_run(),
    columns.short("started_by"),
    columns.short("host"),
    columns.whole("process"),
    columns.moment("at"),
)
records = sql.Table(
    "records",
    ledger,
    columns.key("key"),
    columns.short("stage"),
    columns.of_run(index=False),
    columns.text("record"),
    columns.moment("seconds"),
    columns.moment("at"),
)
stages = sql.Table(
    "stages",
    ledger,
    columns.number_of_row(),
    columns.of_run(),
    columns.short("stage"),
    columns.short("key"),
    columns.short("state"),
    columns.moment("started_at"),
    sql.Column("ended_at", sql.Float),
    sql.Column("error", sql.Text),
)
inputs = sql.Table("inputs", ledger, columns.key("key"), columns.text("inputs"))
approvals = sql.Table(
    "approvals",
    ledger,
    columns.number_of_row(),
    columns.of_run(),
    columns.text("approval"),
)
traffic = sql.Table(
    "traffic",
    ledger,
    columns.number_of_row(),
    columns.moment("at"),
    columns.text("traffic"),
)
attempts = sql.Table(
    "attempts",
    ledger,
    columns.number_of_row(),
    columns.short("split", index=True),
    columns.short("subject"),
    columns.of_run(index=False),
    columns.moment("at"),
    sql.UniqueConstraint("split", "subject"),
)
grants = sql.Table(
    "grants",
    ledger,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    columns.short("kind"),
    columns.text("envelope"),
)


def facts(connection: Connection) -> dict[str, list[list[str]]]:
    """What the audit vouches for, as it stands in the tables."""
    said = {
        "words": sql.select(approvals.c.run, approvals.c.approval).order_by(approvals.c.id),
        "traffic": sql.select(sql.literal(""), traffic.c.traffic).order_by(traffic.c.id),
        "records": sql.select(records.c.key, records.c.record).order_by(records.c.key),
    }
    rows: dict[str, list[list[str]]] = {}
    for name, query in said.items():
        rows[name] = _digests(connection, query)
    started = sql.select(starts.c.run, starts.c.started_by).order_by(starts.c.id)
    rows["grants"] = grant_rows(connection)
    rows["starts"] = [[run, by] for run, by in connection.execute(started)]
    return rows


def grant_rows(connection: Connection) -> list[list[str]]:
    """Kind and digest of each row on tokens and policies, in their order."""
    query = sql.select(grants.c.kind, grants.c.envelope).order_by(grants.c.number)
    return _digests(connection, query)


def _digests(connection: Connection, query: sql.Select[str, str]) -> list[list[str]]:
    """The first column of each row, and the digest of the second."""
    return [[of, digest_of_text(text)] for of, text in connection.execute(query)]


def newest_stages(run: str) -> sql.Select[tuple[object, ...]]:
    """The newest attempt at each stage of a run."""
    newest = (
        sql.select(sql.func.max(stages.c.id)).where(stages.c.run == run).group_by(stages.c.stage)
    )
    return sql.select(stages).where(stages.c.id.in_(newest))


def digest_of_text(text: str) -> str:
    """SHA-256, in hex, of a text as it stands in a row."""
    return hashlib.sha256(text.encode()).hexdigest()
