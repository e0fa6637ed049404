"""What a client gets to see: answers and events as frozen classes, lenient towards newer daemons.

Unknown keys are ignored, so a client goes on working with a daemon that says more than it knew of.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, NewType, TypeVar

import attrs
import cattrs

from supervisor.control.service import Capacity, EngineStatus
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.json import JsonObject, JsonValue
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ExecutionStatus, Observed, Phase

EventData = NewType("EventData", Mapping[str, Any])  # Any: cattrs cannot resolve the recursive JsonObject


class ControlClientError(Exception):
    """Root of all that the client library raises on purpose."""


class CannotConnect(ControlClientError):
    """No connection came about; the message says why."""


class UnexpectedAnswer(ControlClientError):
    """The daemon answered something that this client does not understand."""


class TooFarBehind(ControlClientError):
    """Events came faster than they were read, and more than can be kept: subscribe again with `since`."""


class ConnectionLost(ControlClientError):
    """The connection ended before an answer came. `code` is the WebSocket close code, 1006 for none."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"the connection to the daemon ended: {reason or 'no reason given'} ({code})")
        self.code = code
        self.reason = reason


class NotAuthenticated(ConnectionLost):
    """The daemon wants a token, and the one that was shown, if any, is not it."""


class RemoteError(ControlClientError):
    """The daemon refused a request, or carried it out and it failed.

    `code` is the protocol's word (`not_found`, `timeout`, ...; `invalid_params` and the like for malformed calls),
    `data` the error's own fields.
    """

    def __init__(self, code: str, message: str, data: JsonObject) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def has(self, code: ErrorCode) -> bool:
        """Whether it is this error."""
        return self.code == code


@attrs.frozen
class SandboxView:
    """A conversation's sandbox."""

    provider: str
    name: str
    image: str
    id: str | None = None
    url: str | None = None


@attrs.frozen
class FailureView:
    """Why a conversation is in ERROR, or why its last sandbox ended."""

    code: str
    message: str
    at: datetime
    exit_code: int | None = None
    oom_killed: bool | None = None
    log_tail: tuple[str, ...] = ()


@attrs.frozen
class Conversation:
    """A conversation as the daemon shows it."""

    id: str
    agent: str
    status: Status
    observed: Observed
    incarnation: int
    restarts: int
    created_at: datetime
    updated_at: datetime
    last_active_at: datetime
    phase: Phase | None = None
    execution_status: ExecutionStatus | None = None
    next_restart_at: datetime | None = None
    sandbox: SandboxView | None = None
    error: FailureView | None = None
    labels: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class StoppedConversation:
    """What `stop` answers: the conversation, and whether there was anything to stop."""

    conversation: Conversation
    was_running: bool


@attrs.frozen
class Page:
    """One page of conversations; `next_cursor` is None on the last one."""

    items: tuple[Conversation, ...]
    next_cursor: str | None


@attrs.frozen
class Access:
    """How to reach the agent server of a conversation."""

    url: str
    session_api_key: str = attrs.field(repr=False)


@attrs.frozen
class Daemon:
    """Who the daemon is and how it does. `uptime` is seconds."""

    name: str
    version: str
    protocol: str
    pid: int
    started_at: datetime
    uptime: float
    instance: str
    engine: EngineStatus
    capacity: Capacity
    seq: int


@attrs.frozen
class Event:
    """Something that happened. `conversation` is None for the daemon's own events."""

    seq: int
    at: datetime
    conversation: str | None
    kind: str
    data: EventData


@attrs.frozen
class Opened:
    """The answer to `events.subscribe`."""

    subscription: str
    seq: int
    conversations: tuple[Conversation, ...] | None = None


_View = TypeVar("_View")


def read_view(value: JsonValue, kind: type[_View]) -> _View:
    """Make a view of what the daemon sent.

    Raises:
        UnexpectedAnswer: it is not of that kind.
    """
    try:
        return _CONVERTER.structure(value, kind)
    except Exception as error:
        raise UnexpectedAnswer(
            f"the daemon answered something that is no {kind.__name__}: {cattrs.transform_error(error)}"
        ) from error


def lost(code: int, reason: str) -> ConnectionLost:
    """The error for a connection that ended like this."""
    return (NotAuthenticated if code == _UNAUTHENTICATED else ConnectionLost)(code, reason)


def _read_time(value: str, _: object) -> datetime:
    return datetime.fromisoformat(value)


def _keep(value: Mapping[str, Any], _: object) -> Mapping[str, Any]:
    return value


_UNAUTHENTICATED: Final = 4401
_CONVERTER: Final = cattrs.Converter()
_CONVERTER.register_structure_hook(datetime, _read_time)
_CONVERTER.register_structure_hook(EventData, _keep)
