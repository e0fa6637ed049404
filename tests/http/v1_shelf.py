"""A `ConversationService` that holds the conversations that a test puts there."""

from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from supervisor.control.service import AgentAccess, ConversationPage, StartRequest, Stopped
from supervisor.conversation.errors import InvalidTransition, NotFound
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import ConversationRecord
from tests.control.scripted_service import ScriptedService, make_record


class Shelf(ScriptedService):
    """Conversations by their ids, in the order of their making; `meanwhile` happens to one before it is asked about.

    `calls` has commands only.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: dict[ConversationId, ConversationRecord] = {}
        self.meanwhile: Callable[[ConversationRecord], ConversationRecord | None] | None = None
        self.pages: list[tuple[int, str | None]] = []

    def put(self, *records: ConversationRecord) -> None:
        """Put conversations there."""
        self.records.update({record.id: record for record in records})

    async def start(self, request: StartRequest) -> ConversationRecord:
        """It begins."""
        await self._do("start", request)
        assert request.id is not None
        self.put(make_record(request.id, status=Status.STARTING, request=request.request, labels=request.labels))
        return self.records[request.id]

    async def get(self, conversation: ConversationId) -> ConversationRecord:
        """What is there."""
        await trio.lowlevel.checkpoint()
        if conversation not in self.records:
            raise NotFound(f"there is no conversation {conversation}")
        return self.records[conversation]

    async def connect(self, conversation: ConversationId) -> AgentAccess:
        """Only of what is RUNNING still and has a port."""
        self._happen(conversation)
        record = await self.get(conversation)
        if record.status is not Status.RUNNING:
            raise InvalidTransition("not running", record.status, Command.CONNECT)
        if record.spec.port is None:
            raise NotFound("it has no port")
        return await super().connect(conversation)

    async def pause(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """Of what is RUNNING."""
        await super().pause(conversation, within)
        return self._move(conversation, Command.PAUSE, (Status.RUNNING,), Status.PAUSED)

    async def resume(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """Of what is PAUSED."""
        await super().resume(conversation, within)
        return self._move(conversation, Command.RESUME, (Status.PAUSED,), Status.RUNNING)

    async def restart(self, conversation: ConversationId, within: float | None, *, force: bool) -> ConversationRecord:
        """Of what is STOPPED or in ERROR."""
        await super().restart(conversation, within, force=force)
        return self._move(conversation, Command.RESTART, (Status.STOPPED, Status.ERROR), Status.RUNNING)

    async def stop(self, conversation: ConversationId, within: float | None, *, force: bool) -> Stopped:
        """Of whatever is there."""
        stopped = await super().stop(conversation, within, force=force)
        record = self._move(conversation, Command.STOP, tuple(Status), Status.STOPPED)
        return attrs.evolve(stopped, record=record)

    async def delete(self, conversation: ConversationId) -> None:
        """Of what is STOPPED or ARCHIVED."""
        await super().delete(conversation)
        self._move(conversation, Command.DELETE, (Status.STOPPED, Status.ARCHIVED), Status.ARCHIVED)
        del self.records[conversation]

    async def list(
        self,
        statuses: Sequence[Status],
        labels: Mapping[str, str],
        limit: int,
        cursor: str | None,
        *,
        newest_first: bool = False,
    ) -> ConversationPage:
        """By statuses; the cursor is how many were told."""
        await trio.lowlevel.checkpoint()
        self.pages.append((limit, cursor))
        assert labels == {}
        found = [record for record in self.records.values() if not statuses or record.status in statuses]
        found, begin = found[::-1] if newest_first else found, int(cursor or 0)
        end = begin + limit
        return ConversationPage(tuple(found[begin:end]), str(end) if end < len(found) else None)

    def _happen(self, conversation: ConversationId) -> None:
        if self.meanwhile is not None and conversation in self.records:
            after = self.meanwhile(self.records.pop(conversation))
            if after is not None:
                self.put(after)

    def _move(
        self, conversation: ConversationId, command: Command, before: Sequence[Status], after: Status
    ) -> ConversationRecord:
        self._happen(conversation)
        record = self.records[conversation]
        if record.status not in before:
            raise InvalidTransition(f"no {command}", record.status, command)
        self.put(attrs.evolve(record, status=after))
        return self.records[conversation]
