"""The events: one class for each kind of the protocol."""

from datetime import UTC, datetime
from typing import get_args

import attrs
import pytest

from supervisor.conversation.events import Event, RecordedEvent, StatusChanged
from supervisor.conversation.lifecycle import Status

KINDS = "created status phase progress execution restart_scheduled health command alert deleted daemon"


def test_events_are_exactly_the_protocols_kinds() -> None:
    """Every kind has one class, and every class a kind."""
    assert [event.kind for event in get_args(Event)] == KINDS.split()


def test_event_cannot_be_changed_after_it_happened() -> None:
    """Events are values."""
    event = StatusChanged(Status.STARTING, Status.RUNNING, "ready")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.reason = "other"  # type: ignore[misc]  # that it cannot be set is what is tested
    assert event == StatusChanged(Status.STARTING, Status.RUNNING, "ready")


def test_recorded_event_belongs_to_a_conversation_or_to_the_daemon() -> None:
    """What happened to the daemon has no conversation."""
    event = RecordedEvent(1, datetime.now(UTC), None, "daemon", "{}")
    assert event.conversation is None
