"""The alerts in the database: which are not over, how far the events were judged, and who has still to be told."""

import sqlite3
from datetime import datetime

import attrs

from supervisor.conversation.alerts import AlertState, StandingAlert
from supervisor.journal.changes import Judged
from supervisor.journal.codec import decode_alert, encode_alert, format_time, parse_time


@attrs.frozen
class Judgement:
    """What the rules have made of all events up to `through`, in `number` judgements."""

    number: int
    through: int
    standing: tuple[StandingAlert, ...]


@attrs.frozen
class Delivery:
    """A sink has still to be told that an alert is in this state, since `at`. Numbers only grow."""

    number: int
    alert: str
    state: AlertState
    at: datetime
    body: str


def judge(connection: sqlite3.Connection, change: Judged) -> bool:
    """Write down what was judged, within the transaction that is open; False if it does not go on from the last one."""
    counted = connection.execute(
        "UPDATE meta SET value = ? WHERE name = 'judgements' AND value = ?",
        (str(change.number + 1), str(change.number)),
    )
    if not counted.rowcount:
        return False
    connection.execute("UPDATE meta SET value = ? WHERE name = 'judged_through'", (str(change.through),))
    connection.executemany("DELETE FROM alerts WHERE cause = ?", [(cause,) for cause in change.over])
    connection.executemany(
        "INSERT OR REPLACE INTO alerts VALUES (?, ?)",
        [(alert.cause, encode_alert(alert)) for alert in change.standing],
    )
    at = format_time(change.at)
    connection.executemany(
        "INSERT INTO deliveries (sink, alert, state, at, body) VALUES (?, ?, ?, ?, ?)",
        [(notice.sink, notice.alert, notice.state, at, notice.body) for notice in change.notices],
    )
    return True


def forget_delivery(connection: sqlite3.Connection, number: int) -> None:
    """Take a delivery off the queue, within the transaction that is open."""
    connection.execute("DELETE FROM deliveries WHERE number = ?", (number,))


def read_judgement(connection: sqlite3.Connection) -> Judgement:
    """How far it has come."""
    (number,) = connection.execute("SELECT value FROM meta WHERE name = 'judgements'").fetchone()
    (through,) = connection.execute("SELECT value FROM meta WHERE name = 'judged_through'").fetchone()
    rows = connection.execute("SELECT alert FROM alerts ORDER BY cause")
    return Judgement(int(number), int(through), tuple(decode_alert(text) for (text,) in rows))


def read_deliveries(connection: sqlite3.Connection, sink: str, after: int, limit: int) -> tuple[Delivery, ...]:
    """A sink's queue from after a number, oldest first."""
    rows = connection.execute(
        "SELECT number, alert, state, at, body FROM deliveries WHERE sink = ? AND number > ? ORDER BY number LIMIT ?",
        (sink, after, limit),
    )
    return tuple(
        Delivery(number, alert, AlertState(state), parse_time(at), body) for number, alert, state, at, body in rows
    )
