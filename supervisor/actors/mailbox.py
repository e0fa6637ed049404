"""The mailbox: everything that can reach an actor, in order, bounded.

Commands are bounded by number and refused with `Busy` beyond it. What the actor hears of its own sandbox is conflated:
there is at most one pending message of each kind, so it can neither overflow nor be lost. A forced stop is no message
in the queue: it is taken before anything else, and whoever brings it also cancels what the actor is doing.
"""

from collections import deque
from typing import Final, Generic, TypeAlias, TypeVar

import attrs
import trio

from supervisor.conversation.errors import Busy, Conflict, ConversationdError
from supervisor.conversation.lifecycle import Command
from supervisor.conversation.record import ConversationRecord, ExecutionStatus

MAILBOX_LIMIT: Final = 64
WAKING: Final = (Command.START, Command.RESUME, Command.RESTART)
"""The commands that make a conversation active."""

_T = TypeVar("_T")


class Reply(Generic[_T]):
    """The answer to one command: given at most once, and nobody need be waiting for it."""

    def __init__(self) -> None:
        self._given = trio.Event()
        self._value: _T | None = None
        self._error: ConversationdError | None = None

    @property
    def is_given(self) -> bool:
        """Whether there is an answer."""
        return self._given.is_set()

    def answer(self, value: _T) -> None:
        """Answer; later answers are ignored."""
        if not self.is_given:
            self._value = value
            self._given.set()

    def fail(self, error: ConversationdError) -> None:
        """Answer with an error; later answers are ignored."""
        if not self.is_given:
            self._error = error
            self._given.set()

    async def wait(self) -> _T:
        """Wait for the answer. Cancelling the wait cancels nothing else.

        Raises:
            ConversationdError: the command failed.
        """
        await self._given.wait()
        if self._error is not None:
            raise self._error
        assert self._value is not None  # noqa: S101 - no command answers with None
        return self._value


@attrs.frozen(eq=False)
class Answer:
    """What a command answers with: the record, and whether it was acted on at all."""

    record: ConversationRecord
    acted: bool


@attrs.frozen(eq=False)
class CommandMessage:
    """A command with its own deadline in seconds (None: the config's)."""

    command: Command
    reply: Reply[Answer] = attrs.field(factory=Reply)
    within: float | None = None
    force: bool = False

    @property
    def is_forced_stop(self) -> bool:
        """Whether it is to come before everything else."""
        return self.command is Command.STOP and self.force


@attrs.frozen(eq=False)
class ForcedStop:
    """End the sandbox now; everyone who asked is answered at once."""

    replies: tuple[Reply[Answer], ...]


@attrs.frozen
class Look:
    """Something may have happened to the sandbox, or to our sight of it: look."""


@attrs.frozen
class BootEnded:
    """The boot that this actor began has come to its end; the record says how."""


@attrs.frozen
class Unhealthy:
    """The liveness probes of incarnation `incarnation` failed too often in a row."""

    incarnation: int
    message: str


@attrs.frozen
class AgentRunsOn:
    """An agent that a pause had stopped was told to go on, and does."""


@attrs.frozen
class Strays:
    """Sandboxes of this conversation that `provider` listed, and that its record did not want then."""

    provider: str
    names: frozenset[str]


@attrs.frozen
class ExecutionReport:
    """What the agent says that it does."""

    status: ExecutionStatus


Report: TypeAlias = BootEnded | Unhealthy | AgentRunsOn | ExecutionReport
Hint: TypeAlias = Look | Strays | Report
Message: TypeAlias = CommandMessage | ForcedStop | Hint


class Mailbox:
    """One actor's mailbox; it outlives the actor, so that a replaced one loses no message."""

    def __init__(self, limit: int = MAILBOX_LIMIT) -> None:
        self._limit = limit
        self._commands = 0
        self._queue: deque[Message] = deque()
        self._forced: list[Reply[Answer]] = []
        self._arrived = trio.Event()

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be taken."""
        return not (self._forced or self._queue)

    @property
    def has_forced_stop(self) -> bool:
        """Whether a forced stop waits to be taken."""
        return bool(self._forced)

    def put(self, message: CommandMessage) -> None:
        """Queue a command.

        Raises:
            Busy: the mailbox is full.
        """
        if self._commands >= self._limit:
            raise Busy(f"{self._commands} commands wait for this conversation already: try again when some are done")
        self.put_last(message)

    def put_last(self, message: CommandMessage) -> None:
        """Queue a command when no other can come any more: it is not refused, however many wait."""
        self._commands += 1
        self._append(message)

    def hint(self, message: Hint) -> None:
        """Queue what the actor should know; a newer message takes the place of an older one of its kind."""
        for index, queued in enumerate(self._queue):
            if type(queued) is type(message):
                self._queue[index] = message
                return
        self._append(message)

    def void_reports(self) -> None:
        """Forget what an activity reported that has been ended: it may not be so any more."""
        self._queue = deque(message for message in self._queue if isinstance(message, CommandMessage | Look | Strays))

    def force_stop(self, reply: Reply[Answer]) -> None:
        """Ask for a forced stop, ahead of everything: what was asked before and would undo it is refused."""
        waking = [one for one in self._queue if isinstance(one, CommandMessage) and one.command in WAKING]
        for message in waking:
            message.reply.fail(Conflict("a forced stop was asked for before its turn came"))
            self._queue.remove(message)
        self._commands -= len(waking)
        self._forced.append(reply)
        self._arrived.set()

    async def take(self) -> Message:
        """Wait for the next message; a forced stop comes first."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while self.is_empty:
            self._arrived = trio.Event()
            await self._arrived.wait()
        if self._forced:
            forced, self._forced = ForcedStop(tuple(self._forced)), []
            return forced
        message = self._queue.popleft()
        self._commands -= isinstance(message, CommandMessage)
        return message

    def refuse_all(self, error: ConversationdError) -> None:
        """Answer every command that still waits with an error: the conversation has ended."""
        for message in self._queue:
            if isinstance(message, CommandMessage):
                message.reply.fail(error)
        for reply in self._forced:
            reply.fail(error)
        self._queue.clear()
        self._forced.clear()
        self._commands = 0

    def _append(self, message: Message) -> None:
        self._queue.append(message)
        self._arrived.set()
