"""The registry: every conversation that has an actor, by id, and how many there are of each status."""

from collections import Counter
from collections.abc import Iterable

import trio

from supervisor.actors.booting import BootOrder
from supervisor.actors.clock import Clock
from supervisor.actors.context import ActorContext
from supervisor.actors.handle import ConversationHandle
from supervisor.actors.keeper import RecordKeeper
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord
from supervisor.journal.journal import Journal


class Registry:
    """Starts an actor for each conversation that is given to it, in a nursery that outlives them all."""

    def __init__(self, nursery: trio.Nursery, journal: Journal, clock: Clock, context: ActorContext) -> None:
        self._nursery = nursery
        self._journal = journal
        self._clock = clock
        self._context = context
        self._handles: dict[ConversationId, ConversationHandle] = {}
        self.census: Counter[Status] = Counter()

    def find(self, conversation: ConversationId) -> ConversationHandle | None:
        """The conversation's handle; None if it has no actor."""
        return self._handles.get(conversation)

    def all(self) -> Iterable[ConversationHandle]:
        """Every handle, as of now."""
        return tuple(self._handles.values())

    def take_up(self, record: ConversationRecord, first_boot: BootOrder | None = None) -> ConversationHandle:
        """Give a conversation its actor."""
        keeper = RecordKeeper(record, self._journal, self._clock, self._count)
        handle = ConversationHandle(keeper, self._context, self._retire, first_boot)
        self._handles[record.id] = handle
        if record.sandbox is not None and record.sandbox.id is not None:
            self._context.provider(record).know(record.sandbox.name, record.sandbox.id)
        self.census[record.status] += 1
        self._nursery.start_soon(handle.supervise, name=f"conversation {record.id}")
        return handle

    def _retire(self, handle: ConversationHandle) -> None:
        # A conversation that was deleted may have a successor of the same id by now.
        if self._handles.get(handle.record.id) is handle:
            del self._handles[handle.record.id]
            self.census[handle.record.status] -= 1

    def _count(self, before: Status, after: Status) -> None:
        self.census[before] -= 1
        self.census[after] += 1
