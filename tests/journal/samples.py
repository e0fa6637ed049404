"""Records and changes that the journal's tests write."""

from datetime import UTC, datetime, timedelta

import attrs

from supervisor.conversation.events import Progress
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord, Phase
from supervisor.journal.changes import Create, Note
from tests.world import SPEC

NOON = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
C1, C2, C3 = ConversationId("c1"), ConversationId("c2"), ConversationId("c3")


def record(conversation: ConversationId = C1, status: Status = Status.STARTING) -> ConversationRecord:
    """A record with nothing special about it."""
    return ConversationRecord(
        id=conversation,
        agent="v1",
        status=status,
        spec=SPEC,
        session_key="secret",
        created_at=NOON,
        updated_at=NOON,
        last_active_at=NOON,
    )


def create(conversation: ConversationId = C1, key: str | None = None, events: int = 1, at: datetime = NOON) -> Create:
    """A creation with some events."""
    return Create(attrs.evolve(record(conversation), updated_at=at), (Progress(Phase.IMAGE, 1, 2),) * events, key)


def note(conversation: ConversationId | None = C1, days: float = 0, count: int = 1) -> Note:
    """Some events, so many days after noon."""
    return Note(conversation, NOON + timedelta(days=days), (Progress(Phase.IMAGE, 1, 2),) * count)
