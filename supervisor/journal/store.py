"""The SQLite database, synchronously: one connection that writes, one that reads, and one for what reads long.

WAL mode with `synchronous=FULL`: what `write` has returned survives a power cut.
"""

import json
import shutil
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path
from typing import Final

import attrs

from supervisor.conversation.events import Deleted, RecordedEvent
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord
from supervisor.journal import ledger
from supervisor.journal.changes import AlreadyExists, Change, Create, Delete, Judged, JudgedBefore, Told, Update
from supervisor.journal.codec import decode_record, encode_event_data, encode_record, format_time, parse_time
from supervisor.journal.schema import migrate

_AMPLE_BYTES: Final = 64 * 1024**2
_LOG_BYTES: Final = 4 * 1024**2
"""As much as SQLite lets its log grow by default: 1000 pages of 4 KiB, before it begins again at the front."""
_AFTER_ALL: Final = 2**63 - 1
"""An ordinal that no record has: SQLite gives none above."""


@attrs.frozen
class Written:
    """The events of a change with their sequence numbers."""

    events: tuple[RecordedEvent, ...]


@attrs.frozen
class Snapshot:
    """Conversations as they are at `seq`."""

    seq: int
    records: tuple[ConversationRecord, ...]


@attrs.frozen
class RecordPage:
    """Some records in the order of their creation; `next_after` continues, None at the end."""

    records: tuple[ConversationRecord, ...]
    next_after: int | None


@attrs.frozen
class KnownKey:
    """An idempotency key and the conversation that it made."""

    key: str
    conversation: ConversationId
    at: datetime


class Store:
    """All connections to one database: `write` and all of pruning use the first, `snapshot` the third.

    Everything else uses the second. Each connection may be used by one thread at a time; `Journal` sees to that.
    """

    def __init__(self, path: Path) -> None:
        """Open the database, making or migrating it.

        Raises:
            sqlite3.Error: it cannot be opened or is no database.
            NewerSchemaError: it is too new.
        """
        self._path = path
        with ExitStack() as opened:
            self._writer = opened.enter_context(closing(_open(path)))
            migrate(self._writer)
            self._reader = opened.enter_context(closing(_open(path)))
            self._copier = opened.enter_context(closing(_open(path)))
            opened.pop_all()
        self.instance = str(self._meta("instance"))

    def close(self) -> None:
        """Close all connections."""
        self._copier.close()
        self._reader.close()
        self._writer.close()

    def fill_log(self) -> None:
        """Have the write-ahead log at its full size at once, by writing so much of it and none of it used.

        A commit that only overwrites it waits for the disk. One that makes it longer waits for the file system, too,
        and that for all who write to it: the engine, just when a sandbox ends. A disk with little room is left alone.

        Raises:
            sqlite3.Error: it cannot be written.
        """
        if shutil.disk_usage(self._path.parent).free < _AMPLE_BYTES:
            return
        self._writer.execute("DROP TABLE IF EXISTS filling")
        self._writer.execute("CREATE TABLE filling AS SELECT zeroblob(?) AS zeros", (_LOG_BYTES,))
        self._writer.execute("DROP TABLE filling")
        self._writer.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()

    def write(self, batch: Sequence[Change]) -> list[Written | AlreadyExists | JudgedBefore]:
        """Write changes in one transaction; one that is refused leaves the others alone."""
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            return [self._write_one(change) for change in batch]

    def newest_before(self, at: datetime) -> int:
        """The seq of the newest event of before a time, 0 if there is none.

        To prune up to there leaves no hole, also where a clock was stepped back.
        """
        (seq,) = self._writer.execute("SELECT max(seq) FROM events WHERE at < ?", (format_time(at),)).fetchone()
        return seq or 0

    def prune(self, through: int) -> None:
        """Forget the events up to this seq."""
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            self._writer.execute("DELETE FROM events WHERE seq <= ?", (through,))
            self._writer.execute("UPDATE meta SET value = ? WHERE name = 'pruned_through'", (str(through),))

    def prune_keys(self, before: datetime) -> None:
        """Forget idempotency keys that are older than a time."""
        with self._writer:
            self._writer.execute("DELETE FROM idempotency_keys WHERE at < ?", (format_time(before),))

    def last_seq(self) -> int:
        """The highest sequence number that was ever given, 0 at first."""
        return _last_seq(self._reader)

    def pruned_through(self) -> int:
        """The highest sequence number that is no longer kept, 0 at first."""
        return int(self._meta("pruned_through"))

    def record(self, conversation: ConversationId) -> ConversationRecord | None:
        """One conversation's record."""
        row = self._reader.execute("SELECT record FROM conversations WHERE id = ?", (conversation,)).fetchone()
        return decode_record(row[0]) if row else None

    def deleted(self, ids: Collection[ConversationId], since: datetime) -> frozenset[ConversationId]:
        """Which of these conversations have no record, and an event since a time that says that they were deleted."""
        rows = self._reader.execute(
            "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM conversations WHERE id = value)"
            " AND EXISTS (SELECT 1 FROM events WHERE conversation = value AND kind = ? AND at >= ?)",
            (json.dumps(list(ids)), Deleted.kind, format_time(since)),
        )
        return frozenset(ConversationId(conversation) for (conversation,) in rows)

    def live_records(self) -> tuple[ConversationRecord, ...]:
        """Every record that needs an actor: all that are not ARCHIVED, or whose end was begun."""
        rows = self._reader.execute(
            "SELECT record FROM conversations WHERE status != ? OR json_extract(record, '$.intent') IS NOT NULL"
            " ORDER BY ordinal",
            (Status.ARCHIVED,),
        )
        return tuple(decode_record(row[0]) for row in rows)

    def providers(self) -> frozenset[str]:
        """The sandbox providers that any record has."""
        rows = self._reader.execute("SELECT DISTINCT json_extract(record, '$.spec.provider') FROM conversations")
        return frozenset(name for (name,) in rows)

    def keys(self) -> tuple[KnownKey, ...]:
        """Every idempotency key that is still kept."""
        rows = self._reader.execute("SELECT key, conversation, at FROM idempotency_keys")
        return tuple(KnownKey(key, ConversationId(conversation), parse_time(at)) for key, conversation, at in rows)

    def page(
        self,
        statuses: Sequence[Status],
        labels: Mapping[str, str],
        limit: int,
        after: int,
        *,
        newest_first: bool = False,
    ) -> RecordPage:
        """Records that follow the one of the ordinal `after` (0 for the first page), filtered.

        They have one of the statuses, if any is given, and all of the labels.
        """
        where, order, values = ["ordinal > ?"], "ASC", [after, *statuses]
        if newest_first:
            where, order, values = ["ordinal < ?"], "DESC", [after or _AFTER_ALL, *statuses]
        if statuses:
            where.append(f"status IN ({','.join('?' * len(statuses))})")
        for name, value in labels.items():
            where.append("EXISTS (SELECT 1 FROM json_each(labels) WHERE key = ? AND json_each.value = ?)")
            values += [name, value]
        sql = f"SELECT ordinal, record FROM conversations WHERE {' AND '.join(where)} ORDER BY ordinal {order} LIMIT ?"  # noqa: S608 - the parts are literals above
        rows = self._reader.execute(sql, (*values, limit + 1)).fetchall()
        next_after = rows[limit - 1][0] if len(rows) > limit else None
        return RecordPage(tuple(decode_record(text) for _, text in rows[:limit]), next_after)

    def events(
        self, after: int, through: int | None, conversation: ConversationId | None, limit: int
    ) -> tuple[RecordedEvent, ...]:
        """Up to `limit` events after one seq and up to another (None is no end), of one conversation or of all."""
        sql = "SELECT seq, at, conversation, kind, data FROM events WHERE seq > ? AND seq <= ?"
        values: list[int | str] = [after, 2**62 if through is None else through]
        if conversation is not None:
            sql += " AND conversation = ?"
            values.append(conversation)
        rows = self._reader.execute(sql + " ORDER BY seq LIMIT ?", (*values, limit))
        return tuple(RecordedEvent(seq, parse_time(at), owner, kind, data) for seq, at, owner, kind, data in rows)

    def snapshot(self, ids: Collection[ConversationId] | None = None) -> Snapshot:
        """All conversations, or those of these ids, and the sequence number that they are consistent with."""
        sql, values = "SELECT record FROM conversations", list[str]()
        if ids is not None:
            sql += " WHERE id IN (SELECT value FROM json_each(?))"
            values.append(json.dumps(list(ids)))
        with self._copier:
            self._copier.execute("BEGIN")
            rows = self._copier.execute(sql + " ORDER BY ordinal", values).fetchall()
            seq = _last_seq(self._copier)
        return Snapshot(seq, tuple(decode_record(row[0]) for row in rows))

    def judgement(self) -> ledger.Judgement:
        """How far the rules of the alerts have come, and which alerts are not over, consistent with each other."""
        with self._reader:
            self._reader.execute("BEGIN")
            return ledger.read_judgement(self._reader)

    def deliveries(self, sink: str, after: int, limit: int) -> tuple[ledger.Delivery, ...]:
        """What a sink has still to be told, oldest first, after one delivery's number."""
        return ledger.read_deliveries(self._reader, sink, after, limit)

    def _meta(self, name: str) -> str:
        return str(self._writer.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()[0])

    def _write_one(self, change: Change) -> Written | AlreadyExists | JudgedBefore:
        match change:
            case Create(record, _, key):
                if self._writer.execute("SELECT 1 FROM conversations WHERE id = ?", (record.id,)).fetchone():
                    return AlreadyExists(record.id)
                self._writer.execute(
                    "INSERT INTO conversations (id, status, labels, record) VALUES (?, ?, ?, ?)",
                    (record.id, record.status, json.dumps(dict(record.labels)), encode_record(record)),
                )
                if key is not None:
                    at = format_time(change.at)
                    self._writer.execute(
                        "INSERT OR REPLACE INTO idempotency_keys VALUES (?, ?, ?)", (key, record.id, at)
                    )
            case Update(record):
                self._writer.execute(
                    "UPDATE conversations SET status = ?, record = ? WHERE id = ?",
                    (record.status, encode_record(record), record.id),
                )
            case Delete(conversation):
                self._writer.execute("DELETE FROM conversations WHERE id = ?", (conversation,))
                self._writer.execute("DELETE FROM idempotency_keys WHERE conversation = ?", (conversation,))
            case Judged():
                if not ledger.judge(self._writer, change):
                    return JudgedBefore()
            case Told(number):
                ledger.forget_delivery(self._writer, number)
            case _:
                pass  # a note changes no record
        return Written(tuple(self._append(change, event.kind, encode_event_data(event)) for event in change.events))

    def _append(self, change: Change, kind: str, data: str) -> RecordedEvent:
        cursor = self._writer.execute(
            "INSERT INTO events (at, conversation, kind, data) VALUES (?, ?, ?, ?)",
            (format_time(change.at), change.conversation, kind, data),
        )
        assert cursor.lastrowid is not None  # noqa: S101 - sqlite3 sets it after every INSERT
        return RecordedEvent(cursor.lastrowid, change.at, change.conversation, kind, data)


def _last_seq(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
    return int(row[0]) if row else 0


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except BaseException:
        connection.close()
        raise
    return connection
