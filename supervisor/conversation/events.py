"""What happened to a conversation, as values. An event's fields are the `data` of the protocol's event."""

from datetime import datetime
from typing import ClassVar, TypeAlias

import attrs

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import ExecutionStatus, Observed, Phase
from supervisor.conversation.restart import Cause


@attrs.frozen
class Created:
    """The conversation exists."""

    kind: ClassVar[str] = "created"
    agent: str
    image: str


@attrs.frozen
class StatusChanged:
    """A legal transition was made."""

    kind: ClassVar[str] = "status"
    before: Status | None
    to: Status
    reason: str
    exit_code: int | None = None
    oom_killed: bool | None = None
    message: str | None = None


@attrs.frozen
class PhaseChanged:
    """A start reached a phase of an incarnation."""

    kind: ClassVar[str] = "phase"
    phase: Phase
    incarnation: int


@attrs.frozen
class Progress:
    """Bytes of an image pull. `total` grows while the registry tells of more layers."""

    kind: ClassVar[str] = "progress"
    phase: Phase
    current: int
    total: int


@attrs.frozen
class ExecutionChanged:
    """The agent says that it does something else."""

    kind: ClassVar[str] = "execution"
    before: ExecutionStatus | None
    to: ExecutionStatus | None


@attrs.frozen
class RestartScheduled:
    """The supervisor will start the next incarnation at `at`; `delay` is seconds."""

    kind: ClassVar[str] = "restart_scheduled"
    cause: Cause
    message: str
    at: datetime
    delay: float
    restarts: int
    exit_code: int | None = None
    oom_killed: bool | None = None


@attrs.frozen
class HealthChanged:
    """What we can see of the sandbox changed."""

    kind: ClassVar[str] = "health"
    observed: Observed
    message: str


@attrs.frozen
class CommandEnded:
    """A command was carried out or failed; `error` is the protocol's code."""

    kind: ClassVar[str] = "command"
    command: Command
    outcome: str
    error: str | None = None
    message: str | None = None


@attrs.frozen
class Alert:
    """Something that a person should look at; `incident` is in the log."""

    kind: ClassVar[str] = "alert"
    message: str
    incident: str


@attrs.frozen
class Deleted:
    """The record and the workspace are gone."""

    kind: ClassVar[str] = "deleted"


@attrs.frozen
class DaemonChanged:
    """The daemon itself: started, stopping, engine lost, engine found, reloaded."""

    kind: ClassVar[str] = "daemon"
    what: str
    message: str


Event: TypeAlias = (
    Created
    | StatusChanged
    | PhaseChanged
    | Progress
    | ExecutionChanged
    | RestartScheduled
    | HealthChanged
    | CommandEnded
    | Alert
    | Deleted
    | DaemonChanged
)


@attrs.frozen
class RecordedEvent:
    """An event as the journal holds it. `data` is the event's fields, encoded once as JSON text."""

    seq: int
    at: datetime
    conversation: ConversationId | None
    kind: str
    data: str
