"""The database's schema as a list of forward migrations; a database's `user_version` is how many it has seen."""

import sqlite3
from typing import Final

MIGRATIONS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE conversations (
        ordinal INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        status TEXT NOT NULL,
        labels TEXT NOT NULL,
        record TEXT NOT NULL
    );
    CREATE INDEX conversations_by_status ON conversations (status);
    CREATE TABLE events (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        at TEXT NOT NULL,
        conversation TEXT,
        kind TEXT NOT NULL,
        data TEXT NOT NULL
    );
    CREATE INDEX events_by_conversation ON events (conversation, seq);
    CREATE TABLE idempotency_keys (
        key TEXT PRIMARY KEY, conversation TEXT NOT NULL, at TEXT NOT NULL
    ) WITHOUT ROWID;
    INSERT INTO meta VALUES ('instance', lower(hex(randomblob(16)))), ('pruned_through', '0');
    """,
    # It cost every change of a status two pages, and no query used it: lists go by the order of creation.
    "DROP INDEX conversations_by_status",
    # What happened before there were alerts raises none.
    """
    CREATE TABLE alerts (cause TEXT PRIMARY KEY, alert TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE deliveries (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        sink TEXT NOT NULL,
        alert TEXT NOT NULL,
        state TEXT NOT NULL,
        at TEXT NOT NULL,
        body TEXT NOT NULL
    );
    CREATE INDEX deliveries_by_sink ON deliveries (sink, number);
    INSERT INTO meta VALUES
        ('judged_through', coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)),
        ('judgements', '0');
    """,
)


class NewerSchemaError(Exception):
    """The database was written by a newer version than this one; the message says what to do."""


def migrate(connection: sqlite3.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Bring a database forward, each migration in a transaction of its own.

    Raises:
        NewerSchemaError: it has seen migrations that we do not know.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(migrations):
        raise NewerSchemaError(
            f"the journal has schema version {version}, this conversationd knows up to {len(migrations)}: "
            "run the newer version again, or give it another state_dir"
        )
    for number, script in enumerate(migrations[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
