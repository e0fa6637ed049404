"""The record of a conversation: everything that must survive us, as one frozen value."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum

import attrs

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.restart import Cause, PastRestart
from supervisor.conversation.spec import SandboxSpec


class ExecutionStatus(StrEnum):
    """What the agent says that it does; the words of the OpenHands agent server."""

    IDLE = "idle"
    RUNNING = "running"
    PAUSED = "paused"
    WAITING_FOR_CONFIRMATION = "waiting_for_confirmation"
    FINISHED = "finished"
    ERROR = "error"
    STUCK = "stuck"


class Observed(StrEnum):
    """What we last saw of the sandbox: it lives, the engine does not answer, or nothing runs by intent."""

    LIVE = "live"
    UNKNOWN = "unknown"
    COLD = "cold"


class Phase(StrEnum):
    """How far a start has come."""

    IMAGE = "image"
    CREATE = "create"
    BOOT = "boot"
    AGENT = "agent"


class Intent(StrEnum):
    """What was begun, and has to be finished or undone if we are ended in the middle.

    END is that of a conversation in ERROR to end its sandbox, and to keep what that has written.
    """

    CREATE = "create"
    END = "end"
    STOP = "stop"
    ARCHIVE = "archive"
    DELETE = "delete"


class FailureCode(StrEnum):
    """Why a conversation is in ERROR, or why its last sandbox ended."""

    EXITED = "exited"
    OOM_KILLED = "oom_killed"
    UNHEALTHY = "unhealthy"
    REMOVED = "removed"
    START_TIMEOUT = "start_timeout"
    RESUME_TIMEOUT = "resume_timeout"
    IMAGE_UNAVAILABLE = "image_unavailable"
    ENGINE_REFUSED = "engine_refused"
    AGENT_REFUSED = "agent_refused"
    INTERNAL = "internal"


@attrs.frozen
class Failure:
    """The record's `error`."""

    code: FailureCode
    message: str
    at: datetime
    exit_code: int | None = None
    oom_killed: bool | None = None
    log_tail: tuple[str, ...] = ()


@attrs.frozen
class SandboxRef:
    """The sandbox that the record wants or had. `id` and `url` are None until the engine has told them.

    `session_key` is a secret like the record's: what opens the sandbox, where its engine gave it a key of its own.
    """

    provider: str
    name: str
    image: str
    id: str | None = None
    url: str | None = None
    session_key: str | None = attrs.field(default=None, repr=False)


@attrs.frozen
class ConversationRecord:
    """One conversation. Times are UTC.

    `session_key` and `request` are secrets, never in a log or an event. `session_key` stays in the journal: from it and
    `incarnation` comes the key that opens the sandbox, and opens no other, if no number comes twice.
    `run_on_resume` says that the agent was running when it was paused, or was asked to pause. `restart_history` holds
    the supervisor's restarts that still count against the window. `exported` says that the workspace was written down
    before the archive began to remove it.
    """

    id: ConversationId
    agent: str
    status: Status
    spec: SandboxSpec
    session_key: str = attrs.field(repr=False)
    created_at: datetime
    updated_at: datetime
    last_active_at: datetime
    request: JsonObject = attrs.field(factory=dict, repr=False)
    labels: Mapping[str, str] = attrs.field(factory=dict)
    phase: Phase | None = None
    execution_status: ExecutionStatus | None = None
    observed: Observed = Observed.COLD
    incarnation: int = 0
    restarts: int = 0
    next_restart_at: datetime | None = None
    sandbox: SandboxRef | None = None
    error: Failure | None = None
    intent: Intent | None = None
    run_on_resume: bool = False
    restart_history: tuple[PastRestart, ...] = ()
    exported: bool = False


def failure_code(cause: Cause) -> FailureCode:
    """The failure that a cause of a restart leaves behind when no restart is left."""
    return FailureCode(cause.value)
