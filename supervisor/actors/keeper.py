"""The keeper of one conversation's record: every change is legal, durable, and announced, in this order.

A change of `execution_status`, whoever made it, is announced as an event of its own.
"""

from collections.abc import Callable
from datetime import datetime

import attrs
import structlog

from supervisor.actors.clock import Clock
from supervisor.conversation.events import Event, ExecutionChanged, StatusChanged
from supervisor.conversation.lifecycle import Status, is_legal
from supervisor.conversation.record import ConversationRecord
from supervisor.journal.changes import Delete, Note, Update
from supervisor.journal.journal import Journal

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class IllegalTransitionError(Exception):
    """Our own code tried a change of status that the life cycle does not have: a bug."""


class RecordKeeper:
    """Holds the record of one conversation for its actor; others may read `record` at any time."""

    def __init__(
        self,
        record: ConversationRecord,
        journal: Journal,
        clock: Clock,
        moved: Callable[[Status, Status], None],
    ) -> None:
        self.record = record
        self._journal = journal
        self._clock = clock
        self._moved = moved

    @property
    def log(self) -> structlog.stdlib.BoundLogger:
        """A logger whose lines name the conversation and its incarnation."""
        return _log.bind(conversation=self.record.id, incarnation=self.record.incarnation)

    def now(self) -> datetime:
        """The wall time."""
        return self._clock.now()

    async def save(self, record: ConversationRecord, *events: Event) -> None:
        """Commit a record of the same status, with events.

        Raises:
            JournalError: it could not be committed; the record held stays as it was.
        """
        if record.status is not self.record.status:
            raise IllegalTransitionError(f"{self.record.status} to {record.status} by save(): use move()")
        await self._commit(record, events)

    async def move(self, record: ConversationRecord, change: StatusChanged, *events: Event) -> None:
        """Commit a record of another status: `change` and then `events` are announced.

        Raises:
            IllegalTransitionError: the life cycle has no such transition.
            JournalError: it could not be committed; the record held stays as it was.
        """
        before = self.record.status
        if not is_legal(before, record.status) or (change.before, change.to) != (before, record.status):
            raise IllegalTransitionError(f"{record.id}: {before} to {record.status}, told as {change}")
        await self._commit(record, (change, *events))
        self._moved(before, record.status)
        self.log.info("conversation.status", before=before, to=record.status, reason=change.reason)

    async def note(self, *events: Event) -> None:
        """Commit events that change nothing of the record."""
        await self._journal.commit(Note(self.record.id, self.now(), events))

    async def delete(self, *events: Event) -> None:
        """Commit the end of the record."""
        await self._journal.commit(Delete(self.record.id, self.now(), events))

    async def until_journal_writes(self) -> None:
        """Wait until anything is committed."""
        await self._journal.next_success()

    async def settle(self) -> None:
        """Wait until nothing that was given up on can still be committed."""
        await self._journal.probe()

    async def reload(self) -> None:
        """Take the record as it was last committed; after one whose outcome is not known, once that has settled."""
        record = await self._journal.record(self.record.id)
        if record is not None:
            self._moved(self.record.status, record.status)
            self.record = record

    async def _commit(self, record: ConversationRecord, events: tuple[Event, ...]) -> None:
        if record.execution_status is not self.record.execution_status:
            events = (*events, ExecutionChanged(self.record.execution_status, record.execution_status))
        record = attrs.evolve(record, updated_at=self.now())
        await self._journal.commit(Update(record, events))
        self.record = record
