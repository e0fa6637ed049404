"""Records and events as text: nothing gets lost on the way."""

import json
from datetime import UTC, datetime, timedelta, timezone

import attrs
import pytest

from supervisor.conversation.alerts import AlertKind, AlertState, Severity, StandingAlert
from supervisor.conversation.events import (
    Alert,
    CommandEnded,
    DaemonChanged,
    Deleted,
    Event,
    ExecutionChanged,
    PhaseChanged,
    RecordedEvent,
    RestartScheduled,
    StatusChanged,
)
from supervisor.conversation.json import JsonValue
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import (
    ExecutionStatus,
    Failure,
    FailureCode,
    Intent,
    Observed,
    Phase,
    SandboxRef,
)
from supervisor.conversation.restart import Cause, PastRestart
from supervisor.conversation.spec import Mount
from supervisor.journal.codec import (
    decode_alert,
    decode_event,
    decode_record,
    encode_alert,
    encode_event_data,
    encode_record,
    format_time,
    parse_time,
)
from tests.journal.samples import C1, NOON, record

FULL = attrs.evolve(
    record(),
    spec=attrs.evolve(
        record().spec, command=("a", "b"), env={"A": "1"}, user="u", port=None, mounts=(Mount("/a", "/b"),)
    ),
    request={"nested": {"list": [1, 2.5, None, True, {"deep": "ä\ud800\x00"}]}},
    labels={"a": "b"},
    phase=Phase.BOOT,
    execution_status=ExecutionStatus.WAITING_FOR_CONFIRMATION,
    observed=Observed.UNKNOWN,
    incarnation=7,
    restarts=3,
    next_restart_at=NOON,
    sandbox=SandboxRef("docker", "name", "image", "id", "http://127.0.0.1:1"),
    error=Failure(FailureCode.OOM_KILLED, "message", NOON, 137, True, ("a", "b")),
    intent=Intent.CREATE,
    run_on_resume=True,
    restart_history=(PastRestart(NOON, Cause.OOM_KILLED), PastRestart(NOON, Cause.EXITED)),
    exported=True,
)


@pytest.mark.parametrize("original", [record(), FULL], ids=["plain", "full"])
def test_record_survives(original: object) -> None:
    """Every field, also those that hold anything."""
    assert isinstance(original, type(FULL))
    assert decode_record(encode_record(original)) == original


def test_record_of_an_older_version_gains_new_fields() -> None:
    """Fields at their default are not written, and those that are missing get it."""
    fields = json.loads(encode_record(record()))
    assert not fields.keys() & {"restart_history", "exported"}
    assert decode_record(json.dumps({**fields, "of_a_later_version": 1})) == record()


def test_text_can_be_stored_whatever_it_is() -> None:
    """Half a surrogate pair is text for JSON, and none for UTF-8: it is written in ASCII."""
    assert encode_record(FULL).isascii()


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (StatusChanged(None, Status.STARTING, "start"), {"from": None, "to": "STARTING", "reason": "start"}),
        (
            StatusChanged(Status.RUNNING, Status.ERROR, "exited", 1, False, "m"),
            {
                "from": "RUNNING",
                "to": "ERROR",
                "reason": "exited",
                "exit_code": 1,
                "oom_killed": False,
                "message": "m",
            },
        ),
        (PhaseChanged(Phase.BOOT, 2), {"phase": "boot", "incarnation": 2}),
        (ExecutionChanged(ExecutionStatus.IDLE, ExecutionStatus.RUNNING), {"from": "idle", "to": "running"}),
        (CommandEnded(Command.STOP, "done"), {"command": "stop", "outcome": "done"}),
        (
            RestartScheduled(Cause.EXITED, "m", NOON, 1.5, 2, incarnation=3, spent=1, allowed=5, window=600.0),
            {
                "cause": "exited",
                "message": "m",
                "at": "2026-01-01T12:00:00.123456Z",
                "delay": 1.5,
                "restarts": 2,
                "incarnation": 3,
                "spent": 1,
                "allowed": 5,
                "window": 600.0,
            },
        ),
        (
            Alert("f00", AlertKind.OOM, Severity.WARNING, "oom:c1:2", "m", AlertState.RAISED),
            {
                "id": "f00",
                "kind": "oom",
                "severity": "warning",
                "cause": "oom:c1:2",
                "message": "m",
                "state": "raised",
            },
        ),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_event_is_written_as_the_protocol_says(event: Event, data: dict[str, JsonValue]) -> None:
    """Absent fields are left out, `before` is called `from`, times are RFC 3339."""
    assert json.loads(encode_event_data(event)) == data


@pytest.mark.parametrize(
    "event",
    [
        StatusChanged(None, Status.STARTING, "start"),
        StatusChanged(Status.RUNNING, Status.ERROR, "exited", 1, False, "m", 4),
        ExecutionChanged(None, ExecutionStatus.RUNNING),
        RestartScheduled(Cause.EXITED, "m", NOON, 1.5, 2, incarnation=3, spent=1, allowed=5, window=600.0),
        DaemonChanged("engine_lost", "m", "docker"),
        Alert("f00", AlertKind.INTERNAL, Severity.CRITICAL, "internal:x", "m", AlertState.OVER, "i1"),
        Deleted(),
    ],
    ids=lambda event: event.kind,
)
def test_event_survives(event: Event) -> None:
    """What is read is what was written."""
    assert decode_event(RecordedEvent(1, NOON, None, event.kind, encode_event_data(event))) == event


def test_event_of_an_older_version_gains_new_fields() -> None:
    """They are as absent."""
    old = '{"cause":"exited","message":"m","at":"2026-01-01T12:00:00.123456Z","delay":1.5,"restarts":2}'
    assert decode_event(RecordedEvent(1, NOON, C1, "restart_scheduled", old)) == RestartScheduled(
        Cause.EXITED, "m", NOON, 1.5, 2
    )


@pytest.mark.parametrize("over_at", [None, NOON])
def test_alert_survives(over_at: datetime | None) -> None:
    """With all its fields, and without those that it may lack."""
    for alert in (
        StandingAlert("f00", AlertKind.OOM, "oom:c1:2", "m", NOON, over_at=over_at),
        StandingAlert("f00", AlertKind.INTERNAL, "internal:x:c1", "m", NOON, C1, over_at, "i1"),
    ):
        assert decode_alert(encode_alert(alert)) == alert


def test_time_is_utc_with_microseconds() -> None:
    """Whatever zone it came in, and it is the same again when read."""
    local = datetime(2026, 1, 1, 14, 0, tzinfo=timezone(timedelta(hours=2)))
    assert format_time(local) == "2026-01-01T12:00:00.000000Z"
    assert parse_time(format_time(local)) == local
    assert parse_time(format_time(NOON)).tzinfo == UTC
