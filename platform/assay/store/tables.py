"""The tables of the ledger's runs, records, words, traffic and grants."""

import hashlib

import sqlalchemy as sql
from sqlalchemy.engine import Connection

ledger = sql.MetaData()

runs = sql.Table(
    "runs",
    ledger,
    sql.Column("id", sql.String, primary_key=True),
    sql.Column("name", sql.String, nullable=False),
    sql.Column("spec", sql.Text, nullable=False),
    sql.Column("created_at", sql.Float, nullable=False),
)
starts = sql.Table(
    "starts",
    ledger,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("run", sql.ForeignKey("runs.id"), nullable=False, index=True),
    sql.Column("started_by", sql.String, nullable=False),
    sql.Column("host", sql.String, nullable=False),
    sql.Column("process", sql.Integer, nullable=False),
    sql.Column("at", sql.Float, nullable=False),
)
records = sql.Table(
    "records",
    ledger,
    sql.Column("key", sql.String, primary_key=True),
    sql.Column("stage", sql.String, nullable=False),
    sql.Column("run", sql.ForeignKey("runs.id"), nullable=False),
    sql.Column("record", sql.Text, nullable=False),
    sql.Column("seconds", sql.Float, nullable=False),
    sql.Column("at", sql.Float, nullable=False),
)
stages = sql.Table(
    "stages",
    ledger,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("run", sql.ForeignKey("runs.id"), nullable=False, index=True),
    sql.Column("stage", sql.String, nullable=False),
    sql.Column("key", sql.String, nullable=False),
    sql.Column("state", sql.String, nullable=False),
    sql.Column("started_at", sql.Float, nullable=False),
    sql.Column("ended_at", sql.Float),
    sql.Column("error", sql.Text),
)
inputs = sql.Table(
    "inputs",
    ledger,
    sql.Column("key", sql.String, primary_key=True),
    sql.Column("inputs", sql.Text, nullable=False),
)
approvals = sql.Table(
    "approvals",
    ledger,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("run", sql.ForeignKey("runs.id"), nullable=False, index=True),
    sql.Column("approval", sql.Text, nullable=False),
)
traffic = sql.Table(
    "traffic",
    ledger,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("at", sql.Float, nullable=False),
    sql.Column("traffic", sql.Text, nullable=False),
)
attempts = sql.Table(
    "attempts",
    ledger,
    sql.Column("id", sql.Integer, primary_key=True),
    sql.Column("split", sql.String, nullable=False, index=True),
    sql.Column("subject", sql.String, nullable=False),
    sql.Column("run", sql.ForeignKey("runs.id"), nullable=False),
    sql.Column("at", sql.Float, nullable=False),
    sql.UniqueConstraint("split", "subject"),
)
grants = sql.Table(
    "grants",
    ledger,
    sql.Column("number", sql.Integer, primary_key=True, autoincrement=False),
    sql.Column("kind", sql.String, nullable=False),
    sql.Column("envelope", sql.Text, nullable=False),
)


def facts(connection: Connection) -> dict[str, list[list[str]]]:
    """What the audit vouches for, as it stands in the tables."""
    said = {
        "words": sql.select(approvals.c.run, approvals.c.approval).order_by(approvals.c.id),
        "traffic": sql.select(sql.literal(""), traffic.c.traffic).order_by(traffic.c.id),
        "records": sql.select(records.c.key, records.c.record).order_by(records.c.key),
    }
    rows = {
        name: [[of, digest_of_text(text)] for of, text in connection.execute(query)]
        for name, query in said.items()
    }
    started = sql.select(starts.c.run, starts.c.started_by).order_by(starts.c.id)
    rows["grants"] = grant_rows(connection)
    rows["starts"] = [[run, by] for run, by in connection.execute(started)]
    return rows


def grant_rows(connection: Connection) -> list[list[str]]:
    """Kind and digest of each row on tokens and policies, in their order."""
    query = sql.select(grants.c.kind, grants.c.envelope).order_by(grants.c.number)
    return [[kind, digest_of_text(text)] for kind, text in connection.execute(query)]


def newest_stages(run: str) -> sql.Select[tuple[object, ...]]:
    """The newest attempt at each stage of a run."""
    newest = (
        sql.select(sql.func.max(stages.c.id)).where(stages.c.run == run).group_by(stages.c.stage)
    )
    return sql.select(stages).where(stages.c.id.in_(newest))


def digest_of_text(text: str) -> str:
    """SHA-256, in hex, of a text as it stands in a row."""
    return hashlib.sha256(text.encode()).hexdigest()
