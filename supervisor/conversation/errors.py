"""What can go wrong, as the protocol names it: one root, each error with its `code` and its data."""

from enum import StrEnum
from typing import ClassVar

import attrs

from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Command, Status


class ErrorCode(StrEnum):
    """The codes of `protocol.md`, section Errors."""

    NOT_FOUND = "not_found"
    INVALID_TRANSITION = "invalid_transition"
    BUSY = "busy"
    TIMEOUT = "timeout"
    CAPACITY_EXCEEDED = "capacity_exceeded"
    SANDBOX_FAILED = "sandbox_failed"
    IMAGE_UNAVAILABLE = "image_unavailable"
    ENGINE_UNAVAILABLE = "engine_unavailable"
    AGENT_REFUSED = "agent_refused"
    CONFLICT = "conflict"
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    HISTORY_GONE = "history_gone"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL = "internal"


@attrs.define(eq=False, slots=False)
class ConversationdError(Exception):
    """Root of all that we raise on purpose. `message` says what happened, to what, why, and what to do next."""

    code: ClassVar[ErrorCode] = ErrorCode.INTERNAL
    message: str

    def __str__(self) -> str:
        return self.message

    @property
    def data(self) -> JsonObject:
        """The error's own fields as the protocol sends them beside `code`; absent ones are left out."""
        return attrs.asdict(self, filter=lambda field, value: field.name != "message" and value is not None)


class HostTrouble(Exception):
    """What the host does not give us, a full disk for one: no bug of ours, so clients may read the message."""


class NotFound(ConversationdError):
    """No conversation has this id."""

    code = ErrorCode.NOT_FOUND


@attrs.define(eq=False, slots=False)
class InvalidTransition(ConversationdError):
    """The command is not legal in the status that the conversation has."""

    code = ErrorCode.INVALID_TRANSITION
    status: Status
    command: Command
    hint: str | None = None


class Busy(ConversationdError):
    """A bounded queue is full: the conversation's mailbox, or the connection's commands in flight."""

    code = ErrorCode.BUSY


class CommandTimeout(ConversationdError):
    """The command's deadline passed; what that did to the conversation is in its record."""

    code = ErrorCode.TIMEOUT


@attrs.define(eq=False, slots=False)
class CapacityExceeded(ConversationdError):
    """The host runs as many conversations as the config allows. `retry_after` is seconds."""

    code = ErrorCode.CAPACITY_EXCEEDED
    retry_after: float


@attrs.define(eq=False, slots=False)
class SandboxFailed(ConversationdError):
    """The sandbox ended, or the engine refused to run it."""

    code = ErrorCode.SANDBOX_FAILED
    exit_code: int | None = None
    oom_killed: bool | None = None
    log_tail: tuple[str, ...] | None = None


class ImageUnavailable(ConversationdError):
    """The image is not on the host and could not, or may not, be pulled."""

    code = ErrorCode.IMAGE_UNAVAILABLE


class EngineUnavailable(ConversationdError):
    """The engine did not answer. What it did is unknown: never a reason to call a sandbox dead."""

    code = ErrorCode.ENGINE_UNAVAILABLE


@attrs.define(eq=False, slots=False)
class AgentRefused(ConversationdError):
    """The agent server answered with an error that asking again will not heal. `status` is HTTP's."""

    code = ErrorCode.AGENT_REFUSED
    status: int
    body: str


class AgentUnavailable(ConversationdError):
    """The agent server did not answer, or said that it cannot now."""

    code = ErrorCode.SANDBOX_FAILED


class Conflict(ConversationdError):
    """Something else has the name or key that was asked for."""

    code = ErrorCode.CONFLICT


class Unauthorized(ConversationdError):
    """The connection has not shown the token."""

    code = ErrorCode.UNAUTHORIZED


@attrs.define(eq=False, slots=False)
class Forbidden(ConversationdError):
    """The config does not allow what the request asks for. `path` is the parameter that asks it."""

    code = ErrorCode.FORBIDDEN
    path: str | None = None


@attrs.define(eq=False, slots=False)
class HistoryGone(ConversationdError):
    """Events before `oldest` are no longer kept."""

    code = ErrorCode.HISTORY_GONE
    oldest: int


class ShuttingDown(ConversationdError):
    """The daemon is ending and takes no new commands."""

    code = ErrorCode.SHUTTING_DOWN


@attrs.define(eq=False, slots=False)
class InternalError(ConversationdError):
    """A bug of ours; `incident` is in the log with the traceback."""

    incident: str
