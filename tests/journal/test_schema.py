"""Migrations: forward only, each whole."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.journal.schema import MIGRATIONS, NewerSchemaError, migrate
from supervisor.journal.store import Store
from tests.journal.samples import C1, create, record


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    """An empty database in memory."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    yield connection
    connection.close()


def version(connection: sqlite3.Connection) -> int:
    """The schema version that a database says it has."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def test_database_is_brought_forward(connection: sqlite3.Connection) -> None:
    """From where it stands, step by step, with what is in it; and a second time nothing happens."""
    steps = ("CREATE TABLE a (x)", "ALTER TABLE a ADD COLUMN y DEFAULT 7; UPDATE a SET x = x + 1")
    migrate(connection, steps[:1])
    connection.execute("INSERT INTO a VALUES (1)")
    for _ in range(2):
        migrate(connection, steps)
        assert (version(connection), connection.execute("SELECT * FROM a").fetchall()) == (2, [(2, 7)])


def test_migration_that_fails_leaves_the_database_as_it_was(connection: sqlite3.Connection) -> None:
    """Its first half is undone, too, and the earlier ones stay."""
    steps = ("CREATE TABLE a (x)", "CREATE TABLE b (x); THIS IS NO SQL")
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, steps)
    connection.rollback()
    assert version(connection) == 1
    assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("a",)]


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """Written by a newer version: refused with what to do, and not touched."""
    path = tmp_path / "journal.db"
    Store(path).close()
    raw = sqlite3.connect(path)
    raw.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    raw.close()
    with pytest.raises(NewerSchemaError, match="run the newer version again"):
        Store(path)


def test_database_of_the_first_version_opens(tmp_path: Path) -> None:
    """What the first released schema holds is read by this code."""
    path = tmp_path / "journal.db"
    raw = sqlite3.connect(path, isolation_level=None)
    migrate(raw, MIGRATIONS[:1])
    raw.close()
    store = Store(path)
    store.write([create(C1)])
    assert store.record(C1) == record()
    store.close()
