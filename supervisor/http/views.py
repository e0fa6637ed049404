"""Conversations as HTTP clients see them: the record in the words that they know."""

import json
from collections.abc import Mapping
from typing import Final

from supervisor.control.service import AgentAccess
from supervisor.control.views import format_time
from supervisor.control.wire import encode_json
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord, ExecutionStatus, Failure, Phase
from supervisor.http.models import (
    AgentState,
    ConversationAnswer,
    ConversationInfo,
    ConversationVersion,
    Problem,
    RuntimeStatus,
)

_SHORT_ID: Final = 5
_V0_DRIVER: Final = "v0"
_AGENT_STATES: Final[Mapping[ExecutionStatus | None, AgentState]] = {
    None: AgentState.LOADING,
    ExecutionStatus.IDLE: AgentState.AWAITING_USER_INPUT,
    ExecutionStatus.RUNNING: AgentState.RUNNING,
    ExecutionStatus.PAUSED: AgentState.PAUSED,
    ExecutionStatus.WAITING_FOR_CONFIRMATION: AgentState.AWAITING_USER_CONFIRMATION,
    ExecutionStatus.FINISHED: AgentState.FINISHED,
    ExecutionStatus.ERROR: AgentState.ERROR,
    ExecutionStatus.STUCK: AgentState.ERROR,
}
_RUNTIME_STATUSES: Final[Mapping[Status, RuntimeStatus]] = {
    Status.STARTING: RuntimeStatus.STARTING_RUNTIME,
    Status.RUNNING: RuntimeStatus.READY,
    Status.PAUSED: RuntimeStatus.STOPPED,
    Status.STOPPED: RuntimeStatus.STOPPED,
    Status.ARCHIVED: RuntimeStatus.STOPPED,
    Status.ERROR: RuntimeStatus.ERROR,
}
_PHASES: Final[Mapping[Phase | None, RuntimeStatus]] = {
    None: RuntimeStatus.STARTING_RUNTIME,
    Phase.IMAGE: RuntimeStatus.BUILDING_RUNTIME,
    Phase.CREATE: RuntimeStatus.STARTING_RUNTIME,
    Phase.BOOT: RuntimeStatus.RUNTIME_STARTED,
    Phase.AGENT: RuntimeStatus.SETTING_UP_WORKSPACE,
}


def show(record: ConversationRecord, access: AgentAccess | None, *, legacy: bool) -> ConversationInfo:
    """A conversation; with `access` only if it is this caller's to have. `legacy` knows no PAUSED."""
    return ConversationInfo(
        conversation_id=record.id,
        title=title_of(record),
        status=shown_status(record.status, legacy=legacy),
        runtime_status=_runtime_status(record),
        url=None if access is None else access.url,
        session_api_key=None if access is None else access.session_api_key,
        created_at=format_time(record.created_at),
        last_updated_at=format_time(record.updated_at),
        conversation_version=ConversationVersion.V0 if record.agent == _V0_DRIVER else ConversationVersion.V1,
        execution_status=record.execution_status,
        agent_state=_AGENT_STATES[record.execution_status],
        error=None if record.error is None else _problem(record.error),
    )


def title_of(record: ConversationRecord) -> str:
    """What it is called: its label `title`, or by its id."""
    return repaired(record.labels.get("title") or f"Conversation {record.id[:_SHORT_ID]}")


def shown_status(status: Status, *, legacy: bool) -> Status:
    """The status; for clients that know five of them only, what is paused is stopped."""
    return Status.STOPPED if legacy and status is Status.PAUSED else status


def acknowledge(record: ConversationRecord, message: str) -> ConversationAnswer:
    """The answer to a command that was carried out."""
    return ConversationAnswer(conversation_id=record.id, message=message, conversation_status=record.status)


def _runtime_status(record: ConversationRecord) -> RuntimeStatus:
    return _PHASES[record.phase] if record.status is Status.STARTING else _RUNTIME_STATUSES[record.status]


def _problem(failure: Failure) -> Problem:
    return Problem(
        code=failure.code,
        message=repaired(failure.message),
        at=format_time(failure.at),
        exit_code=failure.exit_code,
        oom_killed=failure.oom_killed,
        log_tail=[repaired(line) for line in failure.log_tail] or None,
    )


def repaired(text: str) -> str:
    """Whole characters, even where a sandbox's output had none."""
    return text if text.isascii() else str(json.loads(encode_json(text)))
