"""Alerts, as values: what a person should look at, from the moment it is raised until it is over."""

from datetime import datetime
from enum import StrEnum
from typing import Final

import attrs

from supervisor.conversation.ids import ConversationId


class AlertKind(StrEnum):
    """What an alert is about."""

    ERROR = "error"
    ALLOWANCE = "allowance"
    OOM = "oom"
    ENGINE = "engine"
    INTERNAL = "internal"
    DISK = "disk"


class AlertState(StrEnum):
    """Every alert is raised once and then over once."""

    RAISED = "raised"
    OVER = "over"


class Severity(StrEnum):
    """`critical`: something does not work now. `warning`: it soon may not."""

    CRITICAL = "critical"
    WARNING = "warning"


SEVERITIES: Final = {
    AlertKind.ERROR: Severity.CRITICAL,
    AlertKind.ALLOWANCE: Severity.WARNING,
    AlertKind.OOM: Severity.WARNING,
    AlertKind.ENGINE: Severity.CRITICAL,
    AlertKind.INTERNAL: Severity.CRITICAL,
    AlertKind.DISK: Severity.CRITICAL,
}


@attrs.frozen
class StandingAlert:
    """An alert that is not over. There is one for each `cause` at most.

    With `over_at` it is over at that time, unless the cause comes again before. `incident` is in the log.
    """

    id: str
    kind: AlertKind
    cause: str
    message: str
    raised_at: datetime
    conversation: ConversationId | None = None
    over_at: datetime | None = None
    incident: str | None = None
