"""Incidents: bugs of ours that somebody has met. An id ties what a client sees to the traceback in the log."""

import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeAlias

import attrs
import structlog

from supervisor.conversation.errors import HostTrouble, InternalError
from supervisor.conversation.ids import ConversationId

_log: Final = structlog.stdlib.get_logger("supervisor.incidents")


@attrs.frozen
class Incident:
    """A bug that was met in `where`: a method's name, or one of few names for other places. Never an id."""

    id: str
    where: str
    conversation: ConversationId | None = None


IncidentListener: TypeAlias = Callable[[Incident], None]
"""Hears of each incident in the task that met it; must neither block nor raise."""


def _nobody(_: Incident) -> None:
    """Who listens where nobody does."""


_A_BUG: Final = "something went wrong inside conversationd"
_listener: ContextVar[IncidentListener] = ContextVar("incident_listener", default=_nobody)


@contextmanager
def heard_by(listener: IncidentListener) -> Iterator[None]:
    """Let somebody hear of the incidents of this task, and of all tasks that it starts meanwhile."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


def report_incident(
    event: str,
    where: str,
    *,
    conversation: ConversationId | None = None,
    error: BaseException | None = None,
    **fields: object,
) -> InternalError:
    """Log `error` (None: the exception that is being handled) and tell who listens.

    What the host lacks is logged in a line, without a traceback: no bug is to be found by it.
    What comes back is for the client: it names the incident's place in the log, and nothing else of it but what the
    host lacks, if that was all.
    """
    incident = Incident(secrets.token_hex(6), where, conversation)
    reason = _reason(error or sys.exception())
    cause = {"exc_info": error or True} if reason == _A_BUG else {"error": reason}
    _log.error(event, incident=incident.id, where=where, **cause, **fields)
    _listener.get()(incident)
    return InternalError(f"{reason}; conversationd's log has it as incident {incident.id}", incident.id)


def _reason(error: BaseException | None) -> str:
    if isinstance(error, BaseExceptionGroup):
        reasons = {_reason(one) for one in error.exceptions}
        return reasons.pop() if len(reasons) == 1 else _A_BUG
    return str(error) if isinstance(error, HostTrouble) else _A_BUG
