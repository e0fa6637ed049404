"""The older server's JSON, translated once, and what its events tell of an agent.

It tells no execution status. What the agent does is read from its events, as its front end does: from the observations
`agent_state_changed`, whose words are those of `openhands/core/schema/agent.py`, and from what comes after them.
"""

from collections.abc import Mapping, Sequence
from enum import Enum, auto
from typing import Any, Final

import attrs

from supervisor.agent.wire import parse_as
from supervisor.conversation.record import ExecutionStatus

_LOOPS: Final = frozenset({"STARTING", "RUNNING"})
_FAILED: Final = "STATUS$ERROR"
_STUCK: Final = "AgentStuckInLoopError"


class Mark(Enum):
    """What one event tells."""

    LOADING = auto()
    """The server takes the conversation up: a new one, or one from its disk."""
    MESSAGE = auto()
    """The user has said something, which waits for an answer."""
    WORKING = auto()
    WAITING = auto()
    """For the user's next message."""
    CONFIRMING = auto()
    PAUSED = auto()
    STOPPED = auto()
    """The conversation was closed, whatever its agent did then."""
    FINISHED = auto()
    ERROR = auto()
    STUCK = auto()


INTERRUPTED: Final = frozenset({Mark.MESSAGE, Mark.WORKING, Mark.PAUSED, Mark.ERROR})
"""The marks of an agent that is to go on by itself once its server is there again, if it was at work."""

_STATES: Final = {
    "loading": Mark.LOADING,
    "running": Mark.WORKING,
    "user_confirmed": Mark.WORKING,
    "user_rejected": Mark.WORKING,
    "rate_limited": Mark.WORKING,
    "awaiting_user_input": Mark.WAITING,
    "awaiting_user_confirmation": Mark.CONFIRMING,
    "paused": Mark.PAUSED,
    "stopped": Mark.STOPPED,
    "finished": Mark.FINISHED,
    "rejected": Mark.FINISHED,
    "error": Mark.ERROR,
}
_EXECUTIONS: Final = {
    # It will run, or wait for a message: as `idle` of the newer server, this is seen before the first run, too.
    Mark.LOADING: ExecutionStatus.IDLE,
    Mark.MESSAGE: ExecutionStatus.RUNNING,
    Mark.WORKING: ExecutionStatus.RUNNING,
    Mark.WAITING: ExecutionStatus.IDLE,
    Mark.CONFIRMING: ExecutionStatus.WAITING_FOR_CONFIRMATION,
    Mark.PAUSED: ExecutionStatus.PAUSED,
    Mark.STOPPED: ExecutionStatus.PAUSED,
    Mark.FINISHED: ExecutionStatus.FINISHED,
    Mark.ERROR: ExecutionStatus.ERROR,
    Mark.STUCK: ExecutionStatus.STUCK,
}


@attrs.frozen
class Conversation:
    """`GET /api/conversations/{id}` of a conversation that the server knows.

    `status` is a `ConversationStatus`: STARTING, RUNNING (whether the agent works or not), STOPPED, ARCHIVED, ERROR.
    """

    status: str
    runtime_status: str | None = None

    @property
    def loops(self) -> bool:
        """Whether the server has taken the conversation up."""
        return self.status in _LOOPS

    @property
    def stopped(self) -> bool:
        """Whether everything of it is on the disk."""
        return self.status == "STOPPED"

    @property
    def failed(self) -> bool:
        """Whether it could not be taken up."""
        return self.status == "ERROR" or (self.runtime_status or "").startswith(_FAILED)

    def execution(self, mark: Mark) -> ExecutionStatus:
        """What the agent does, by the newest mark of its events."""
        if mark is Mark.LOADING and self.failed:
            return ExecutionStatus.ERROR
        if _EXECUTIONS[mark] is ExecutionStatus.RUNNING and not self.loops:
            return ExecutionStatus.PAUSED
        return _EXECUTIONS[mark]


@attrs.frozen
class _Event:
    id: int = -1
    source: str | None = None
    action: str | None = None
    observation: str | None = None
    args: Any = None
    extras: Any = None

    @property
    def mark(self) -> Mark | None:
        if self.observation == "agent_state_changed":
            return _state(_mapping(self.extras))
        if self.action == "message" and self.source == "user":
            return Mark.MESSAGE
        # The first event of each agent, `system`, only says what it is.
        if self.action is None or self.source != "agent" or self.action == "system":
            return None
        # What is to be confirmed comes after the state that says so.
        asks = _mapping(self.args).get("confirmation_state") == "awaiting_confirmation"
        return Mark.CONFIRMING if asks else Mark.WORKING


@attrs.frozen
class EventPage:
    """`GET /api/conversations/{id}/events?reverse=true`: events, newest first."""

    events: tuple[_Event, ...]
    has_more: bool

    @property
    def marks(self) -> tuple[Mark, ...]:
        """What the events tell, newest first."""
        return tuple(event.mark for event in self.events if event.mark is not None)

    @property
    def newest(self) -> int:
        """The id of the newest event; -1 for none."""
        return max((event.id for event in self.events), default=-1)

    @property
    def oldest(self) -> int:
        """The id of the oldest event of the page; -1 for none."""
        return min((event.id for event in self.events), default=-1)


def parse_conversation(body: bytes) -> Conversation | None:
    """Read the answer about a conversation; None if the server does not know it, which it says with `null`.

    Raises:
        Garbled: it is something else.
    """
    return None if body.strip() == b"null" else parse_as(body, Conversation)


def parse_events(body: bytes) -> EventPage:
    """Read a page of events.

    Raises:
        Garbled: it is something else.
    """
    return parse_as(body, EventPage)


def left_at(marks: Sequence[Mark]) -> Mark | None:
    """What the agent was at before the server was started or stopped the last time; `marks` are newest first.

    None: as far as the marks go, nobody has ever asked it for anything. A conversation that is taken up from the disk
    is loading and then waits for a message, whatever it did before: those two tell nothing of it.
    """
    for index, mark in enumerate(marks):
        if mark is Mark.WAITING and all(before is Mark.LOADING for before in marks[index + 1 : index + 2]):
            continue
        if mark not in (Mark.LOADING, Mark.STOPPED):
            return mark
    return None


def _state(extras: Mapping[str, Any]) -> Mark | None:
    mark = _STATES.get(str(extras.get("agent_state")))
    stuck = mark is Mark.ERROR and str(extras.get("reason")).startswith(_STUCK)
    return Mark.STUCK if stuck else mark


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
