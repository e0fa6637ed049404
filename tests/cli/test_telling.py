"""Events as sentences."""

from typing import Any

import pytest

from supervisor.cli.telling import event_json, event_line, sentence
from tests.cli.views import event


@pytest.mark.parametrize(
    ("kind", "data", "told"),
    [
        ("created", {"agent": "v1", "image": "i"}, "agent v1, image i"),
        ("status", {"to": "STARTING", "reason": "start"}, "STARTING (start)"),
        (
            "status",
            {"before": "RUNNING", "to": "ERROR", "reason": "exited", "message": "code 3"},
            "RUNNING -> ERROR (exited): code 3",
        ),
        ("phase", {"phase": "boot", "incarnation": 2}, "boot of incarnation 2"),
        ("progress", {"phase": "image", "current": 500_000, "total": 1_000_000}, "image 50%, 500.0 kB of 1.0 MB"),
        ("progress", {"phase": "image", "current": 5}, "image 5 B of 0 B"),
        ("execution", {"before": "idle", "to": "running"}, "the agent is running (was idle)"),
        ("execution", {}, "the agent is gone (was unknown)"),
        (
            "restart_scheduled",
            {"restarts": 1, "delay": 1.25, "cause": "exited", "message": "code 1"},
            "restart 1 in 1.2s after exited: code 1",
        ),
        ("health", {"observed": "unknown", "message": "no answer"}, "unknown: no answer"),
        ("command", {"command": "pause", "outcome": "done"}, "pause done"),
        ("command", {"command": "pause", "outcome": "failed", "error": "timeout"}, "pause failed: timeout"),
        (
            "alert",
            {"id": "f00", "kind": "oom", "state": "raised", "message": "c1 ran out", "cause": "oom:c1:2"},
            "oom raised: c1 ran out (oom:c1:2, alert f00)",
        ),
        (
            "alert",
            {"id": "f00", "kind": "oom", "state": "over", "message": "c1 is RUNNING", "cause": "oom:c1:2"},
            "oom over: c1 is RUNNING (oom:c1:2, alert f00)",
        ),
        ("deleted", {}, "record and workspace are gone"),
        ("daemon", {"what": "engine_lost", "message": "docker"}, "engine_lost: docker"),
        ("brand_new", {"x": "\u00e9"}, '{"x": "\u00e9"}'),
    ],
)
def test_sentence_tells_each_kind(kind: str, data: dict[str, Any], told: str) -> None:
    """A kind that this client does not know is shown as its data."""
    assert sentence(event(kind, **data)).plain == told


def test_event_line_begins_with_number_time_and_conversation() -> None:
    """The daemon's own events have none."""
    words = event_line(event("phase", seq=42, phase="boot", incarnation=1)).plain.split()
    assert (words[0], words[2][-3:], words[3:5]) == ("42", "000", ["c1", "phase"])
    assert event_line(event("daemon", about=None, what="started")).plain.split()[3] == "-"


def test_event_line_cannot_be_forged() -> None:
    """A message with a line break makes no second event."""
    assert "\n" not in event_line(event("health", observed="live", message="x\n     2  fake")).plain


def test_event_json_is_the_protocols_event() -> None:
    """Its times to the microsecond, in UTC."""
    assert event_json(event("status", seq=3, before="RUNNING", to="PAUSED")) == {
        "seq": 3,
        "at": "2026-01-02T03:04:05.000000Z",
        "conversation": "c1",
        "kind": "status",
        "data": {"from": "RUNNING", "to": "PAUSED"},
    }
