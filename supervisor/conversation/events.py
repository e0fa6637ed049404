"""What happened to a conversation, as values. An event's fields are the `data` of the protocol's event."""

from datetime import datetime
from typing import ClassVar, TypeAlias

import attrs

from supervisor.conversation.alerts import AlertKind, AlertState, Severity
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
    """A legal transition was made; a failure names the incarnation that it is of."""

    kind: ClassVar[str] = "status"
    before: Status | None
    to: Status
    reason: str
    exit_code: int | None = None
    oom_killed: bool | None = None
    message: str | None = None
    incarnation: int | None = None


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
    """The supervisor will start the next incarnation at `at`; `delay` is seconds.

    `incarnation` is the one that ended. With this restart `spent` of the `allowed` ones in `window` seconds are gone.
    """

    kind: ClassVar[str] = "restart_scheduled"
    cause: Cause
    message: str
    at: datetime
    delay: float
    restarts: int
    exit_code: int | None = None
    oom_killed: bool | None = None
    incarnation: int = 0
    spent: int = 0
    allowed: int = 0
    window: float = 0.0


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
    """Something that a person should look at, or that this is over. `about` is the data's `kind`.

    The same `cause` has the same `id` until it is over. `incident` is in the log.
    """

    kind: ClassVar[str] = "alert"
    id: str
    about: AlertKind
    severity: Severity
    cause: str
    message: str
    state: AlertState
    incident: str | None = None


@attrs.frozen
class Deleted:
    """The record and the workspace are gone."""

    kind: ClassVar[str] = "deleted"


@attrs.frozen
class DaemonChanged:
    """The daemon itself: started, stopping, engine lost, engine found, reloaded. `provider` is whose engine it is."""

    kind: ClassVar[str] = "daemon"
    what: str
    message: str
    provider: str | None = None


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
