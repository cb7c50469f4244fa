"""The ledger's database: transactions that mean the same on SQLite and PostgreSQL, and locks that
end with their process."""

import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import sqlalchemy as sql
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import SQLAlchemyError

from assay.errors import AssayError, PlaceError
from assay.store.lock import held, is_held

LOCK_POLL_S = 0.05
BUSY_TIMEOUT_S = 30
OTHERS_MAY = 0o007
"""What nobody but the owner and the group may do with the ledger's file."""


class Database:
    """One database, by its SQLAlchemy URL. Raises `PlaceError` when it cannot be opened or
    written."""

    def __init__(self, url: str) -> None:
        self._url = make_url(url)
        self._is_sqlite = self._url.get_backend_name() == "sqlite"
        file = self._file()
        if file is not None:
            _make_folder(file.parent)
            _keep_private(file)
        arguments = {"timeout": BUSY_TIMEOUT_S} if self._is_sqlite else {}
        self._engine = sql.create_engine(self._url, connect_args=arguments)
        if self._is_sqlite:
            sql.event.listen(self._engine, "connect", _set_pragmas)
            sql.event.listen(self._engine, "begin", _begin_on_sqlite)

    def close(self) -> None:
        """Ends the connections that are kept."""
        self._engine.dispose()

    def make_tables(self, tables: sql.MetaData) -> None:
        """Makes the tables that are not there yet."""
        with self.reading() as connection:
            there = set(sql.inspect(connection).get_table_names())
        # Looked for first: to make what is there already would take the writers' lock each time.
        if set(tables.tables) - there:
            with self.writing() as connection:
                tables.create_all(connection)

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._told(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction that writes. One is under way at a time in the whole database, so what it
        has read is still so when it writes: a budget that is counted, or a record that is replaced,
        is not raced for."""
        with self._told(), self._engine.execution_options(assay_writes=True).begin() as connection:
            if not self._is_sqlite:
                connection.execute(
                    sql.select(sql.func.pg_advisory_xact_lock(_lock_number("writing")))
                )
            yield connection

    def faults(self) -> list[str]:
        """What the database finds wrong with itself. Raises `PlaceError` for what cannot even be
        asked."""
        with self.reading() as connection:
            if not self._is_sqlite:  # a server looks after its own files
                connection.execute(sql.text("SELECT 1"))
                return []
            found = connection.execute(sql.text("PRAGMA integrity_check")).scalars().all()
            loose = connection.execute(sql.text("PRAGMA foreign_key_check")).all()
        faults = [str(line) for line in found if line != "ok"]
        return faults + [f"row {row[1]} of {row[0]} names what is not in {row[2]}" for row in loose]

    def now(self, connection: Connection) -> float:
        """The database's clock, in seconds since the epoch; on SQLite that is this machine's."""
        if self._is_sqlite:
            return time.time()
        return float(
            connection.execute(
                sql.text("SELECT extract(epoch FROM clock_timestamp())")
            ).scalar_one()
        )

    @contextmanager
    def lock(self, name: str, *, wait_s: float, taken: AssayError) -> Iterator[None]:
        """Holds the lock of this name: a file's beside SQLite, an advisory one in PostgreSQL. Both
        end when the process does, however it ends. Raises `taken` when another process has it for
        longer than `wait_s`."""
        deadline = time.monotonic() + wait_s
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self._lock_at_once(name, taken))
                    break
                except type(taken):
                    if time.monotonic() >= deadline:
                        raise
                time.sleep(LOCK_POLL_S)
            yield

    def is_locked(self, name: str) -> bool:
        """Whether a process holds the lock of this name."""
        if self._is_sqlite:
            return is_held(self._lock_file(name)) is True
        with suppress(_Taken), self._advisory(name, _Taken(), shared=True):
            return False
        return True

    def _lock_at_once(self, name: str, taken: AssayError) -> AbstractContextManager[None]:
        if self._is_sqlite:
            return held(self._lock_file(name), taken=taken)
        return self._advisory(name, taken)

    @contextmanager
    def _advisory(self, name: str, taken: AssayError, *, shared: bool = False) -> Iterator[None]:
        number = _lock_number(name)
        suffix = "_shared" if shared else ""  # two that only look do not see each other
        take = getattr(sql.func, f"pg_try_advisory_lock{suffix}")
        let_go = getattr(sql.func, f"pg_advisory_unlock{suffix}")
        with self._told():
            connection = self._engine.connect()
        try:
            with self._told():
                got = connection.execute(sql.select(take(number))).scalar_one()
                # the lock is the session's, and an idle transaction would hold rows
                connection.commit()
            if not got:
                raise taken
            try:
                yield
            finally:
                with suppress(SQLAlchemyError):  # a session that is gone has no lock
                    connection.execute(sql.select(let_go(number)))
                    connection.commit()
        finally:
            connection.close()

    def _lock_file(self, name: str) -> Path:
        file = self._file()
        if file is None:
            raise PlaceError(
                "a ledger in memory has no writers' lock; set ASSAY_LEDGER_URL to a file or a "
                "server"
            )
        return file.with_name(f"{file.name}.{name}.lock")

    def _file(self) -> Path | None:
        name = self._url.database if self._is_sqlite else None
        # SQLite's own URIs say what may be made.
        if not name or name == ":memory:" or name.startswith("file:"):
            return None
        return Path(name)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            raise PlaceError(
                f"the ledger at {self._url.render_as_string()} cannot be used: {cause}. "
                "Check that it exists and may be written, or set ASSAY_HOME or ASSAY_LEDGER_URL"
            ) from error


def is_there(url: str) -> bool:
    """Whether there is a database to open, as far as a file tells; a server's is taken to be."""
    named = make_url(url)
    if named.get_backend_name() != "sqlite":
        return True
    return bool(named.database) and Path(str(named.database)).is_file()


class _Taken(AssayError):
    """Another process has the lock."""


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlaceError(
            f"cannot make {folder}: {error.strerror}. Set ASSAY_HOME to a folder you may write"
        ) from error


def _keep_private(file: Path) -> None:
    """Makes the file so that its owner alone may read it; one that others may read is closed to
    them."""
    with suppress(OSError):  # what cannot be opened is told by the first transaction
        os.close(os.open(file, os.O_CREAT | os.O_RDWR, 0o600))
        mode = stat.S_IMODE(file.stat().st_mode)
        if mode & OTHERS_MAY:
            file.chmod(mode & ~OTHERS_MAY)


def _lock_number(name: str) -> int:
    """PostgreSQL's advisory locks have 64-bit numbers instead of names."""
    return int.from_bytes(hashlib.sha256(f"assay {name}".encode()).digest()[:8], signed=True)


def _set_pragmas(connection: object, _: object) -> None:
    # Python's driver begins a transaction at the first change, so what was read before is not in
    # it.
    connection.isolation_level = None  # type: ignore[attr-defined]
    # WAL has a known reset bug before SQLite 3.51.3, and many systems have an older one.
    cursor = connection.cursor()  # type: ignore[attr-defined]
    for pragma in ("journal_mode = DELETE", "synchronous = FULL", "foreign_keys = ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_on_sqlite(connection: Connection) -> None:
    writes = connection.get_execution_options().get("assay_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
