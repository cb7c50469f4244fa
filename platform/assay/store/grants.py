"""The place's own statements in the ledger: who has which token, and the policy. Each is signed by
the place's key, so that whoever can write to the database alone can add none."""

from typing import cast

import sqlalchemy as sql

from assay.errors import IntegrityError
from assay.records.releases.audit import Actor
from assay.records.releases.grant import (
    GRANT_FORMS,
    Grant,
    PolicyChange,
    Revocation,
    grant_statement,
)
from assay.records.releases.receipt import Kind, Statement
from assay.store.audit import Audit
from assay.store.database import Database
from assay.store.receipts import PlaceKeys, open_envelope
from assay.store.schema import tables

Said = Grant | Revocation | PolicyChange


class Grants:
    """The statements of one ledger, in their order."""

    def __init__(self, database: Database, audit: Audit) -> None:
        self._database = database
        self._audit = audit

    def now(self) -> float:
        """The ledger's clock, in seconds since the epoch."""
        with self._database.reading() as connection:
            return self._database.now(connection)

    def add(self, kind: Kind, said: Said, *, keys: PlaceKeys, actor: Actor) -> Statement:
        """Signs and writes down one more."""
        with self._database.writing() as connection:
            newest = sql.select(sql.func.max(tables.grants.c.number))
            number = int(connection.execute(newest).scalar() or 0) + 1
            statement = grant_statement(number, kind, said)
            text = keys.sign(statement).model_dump_json()
            connection.execute(
                tables.grants.insert().values(number=number, kind=kind, envelope=text)
            )
            content = {"name": statement.run, "statement": tables.digest_of_text(text)}
            self._audit.append(connection, kind, run="", content=content, actor=actor)
        return statement

    def all(self, keys: PlaceKeys) -> list[Said]:
        """Every one, the oldest first. Raises `IntegrityError` for one that the place has not
        signed, or that does not stand where it was written."""
        with self._database.reading() as connection:
            query = sql.select(tables.grants).order_by(tables.grants.c.number)
            rows = connection.execute(query).all()
        public = keys.public_files()
        found = []
        for number, row in enumerate(rows, start=1):
            what = f"entry {number} of the ledger's tokens and policies"
            statement = open_envelope(row.envelope, public, what)
            if (statement.kind, statement.predicate.get("number")) != (row.kind, number):
                raise IntegrityError(f"{what} is another one: it was moved, or said again")
            found.append(_read(statement, what))
        return found


def _read(statement: Statement, what: str) -> Said:
    form = GRANT_FORMS.get(statement.kind)
    if form is None:
        raise IntegrityError(f"{what} is none: it is an {statement.kind}")
    try:
        return cast(Said, form.model_validate(statement.predicate["content"]))
    except (ValueError, KeyError) as error:
        raise IntegrityError(f"{what} cannot be read: {str(error).splitlines()[0]}") from error
