"""What can be written to the journal: each change is all or nothing, events and record together."""

from datetime import datetime
from typing import ClassVar, TypeAlias

import attrs

from supervisor.conversation.alerts import AlertState, StandingAlert
from supervisor.conversation.errors import HostTrouble
from supervisor.conversation.events import Alert, Event
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


@attrs.frozen
class Notice:
    """What one sink has to be told of an alert: `body` is the text that it gets, the same each time it is tried."""

    sink: str
    alert: str
    state: AlertState
    body: str


@attrs.frozen
class Judged:
    """What the rules of the alerts have made of all events up to `through`, and what is to be told of it to whom.

    `number` counts from 0; refused with `JudgedBefore` if it is not the next one.
    """

    number: int
    through: int
    at: datetime
    conversation: ConversationId | None = None
    events: tuple[Alert, ...] = ()
    standing: tuple[StandingAlert, ...] = ()
    over: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()


@attrs.frozen
class Told:
    """A sink has been told of what this delivery is about, or never will be."""

    number: int
    at: datetime
    conversation: ClassVar[None] = None
    events: ClassVar[tuple[Event, ...]] = ()


Change: TypeAlias = Create | Update | Delete | Note | Judged | Told


class JudgedBefore(Exception):
    """Another judgement was written since the one that this one goes on from."""


class AlreadyExists(Exception):
    """A conversation with this id is recorded already."""


class JournalError(HostTrouble):
    """The journal could not be written or read; the message says why. Nothing of the change was recorded."""
