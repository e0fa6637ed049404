"""What can be written to the journal: each change is all or nothing, events and record together."""

from datetime import datetime
from typing import TypeAlias

import attrs

from supervisor.conversation.events import Event
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.record import ConversationRecord


@attrs.frozen
class Create:
    """A new conversation; refused with `AlreadyExists` if the id is taken."""

    record: ConversationRecord
    events: tuple[Event, ...]
    idempotency_key: str | None = None

    @property
    def conversation(self) -> ConversationId:
        """Whose events these are."""
        return self.record.id

    @property
    def at(self) -> datetime:
        """When it happened."""
        return self.record.updated_at


@attrs.frozen
class Update:
    """A conversation's new record."""

    record: ConversationRecord
    events: tuple[Event, ...]

    @property
    def conversation(self) -> ConversationId:
        """Whose events these are."""
        return self.record.id

    @property
    def at(self) -> datetime:
        """When it happened."""
        return self.record.updated_at


@attrs.frozen
class Delete:
    """The end of a conversation's record; its events stay until their retention ends."""

    conversation: ConversationId
    at: datetime
    events: tuple[Event, ...]


@attrs.frozen
class Note:
    """Events that change no record, of a conversation or (None) of the daemon."""

    conversation: ConversationId | None
    at: datetime
    events: tuple[Event, ...]


Change: TypeAlias = Create | Update | Delete | Note


class AlreadyExists(Exception):
    """A conversation with this id is recorded already."""


class JournalError(Exception):
    """The journal could not be written or read; the message says why. Nothing of the change was recorded."""
