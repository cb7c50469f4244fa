"""How the tables of a place's database declare their columns: nothing in them may be missing, but
for what a stage has only once it has ended."""

import sqlalchemy as sql


def number_of_row() -> "sql.Column[int]":
    """The key of a table whose rows are told apart, and ordered, by when they came."""
    return sql.Column("id", sql.Integer, primary_key=True)


def of_run(*, index: bool = True) -> "sql.Column[str]":
    """The run that a row belongs to."""
    return sql.Column("run", sql.ForeignKey("runs.id"), nullable=False, index=index)


def key(name: str) -> "sql.Column[str]":
    """A key that has a meaning of its own."""
    return sql.Column(name, sql.String, primary_key=True)


def short(name: str, *, index: bool = False) -> "sql.Column[str]":
    """A name, an id or a digest."""
    return sql.Column(name, sql.String, nullable=False, index=index)


def text(name: str) -> "sql.Column[str]":
    """Text of any length; mostly JSON."""
    return sql.Column(name, sql.Text, nullable=False)


def whole(name: str) -> "sql.Column[int]":
    """A whole number."""
    return sql.Column(name, sql.Integer, nullable=False)


def moment(name: str) -> "sql.Column[float]":
    """Seconds, since the epoch or of a while."""
    return sql.Column(name, sql.Float, nullable=False)
