"""Conversations, their starts and their sandboxes in the words of OpenHands' V1 application routes.

A conversation, its start task and its sandbox are one record, and have one id.
"""

from collections.abc import Mapping
from typing import Final

from supervisor.agent.v1 import agent_conversation_id
from supervisor.control.views import format_time
from supervisor.conversation.json import JsonValue
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord, Phase
from supervisor.http.models_v1 import (
    AppConversation,
    ExposedUrl,
    SandboxInfo,
    SandboxStatus,
    StartedWith,
    StartTask,
    StartTaskStatus,
)
from supervisor.http.seeing import Seen
from supervisor.http.views import repaired, title_of

TITLE: Final = "title"
TRIGGER: Final = "trigger"
"""The labels that hold them."""

_AGENT_SERVER: Final = "AGENT_SERVER"
_SANDBOX_STATUSES: Final[Mapping[Status, SandboxStatus]] = {
    Status.STARTING: SandboxStatus.STARTING,
    Status.RUNNING: SandboxStatus.RUNNING,
    Status.PAUSED: SandboxStatus.PAUSED,
    # The original's `docker_sandbox_service.py` calls a container that has exited PAUSED and starts it on resume; its
    # front end resumes what is PAUSED, and takes what is MISSING for archived: gone with its files. A stopped
    # conversation has its workspace and its history, and `resume` restarts it: so it is PAUSED.
    Status.STOPPED: SandboxStatus.PAUSED,
    Status.ARCHIVED: SandboxStatus.MISSING,
    Status.ERROR: SandboxStatus.ERROR,
}
_PHASES: Final[Mapping[Phase | None, StartTaskStatus]] = {
    None: StartTaskStatus.WORKING,
    Phase.IMAGE: StartTaskStatus.WAITING_FOR_SANDBOX,
    Phase.CREATE: StartTaskStatus.WAITING_FOR_SANDBOX,
    Phase.BOOT: StartTaskStatus.WAITING_FOR_SANDBOX,
    Phase.AGENT: StartTaskStatus.STARTING_CONVERSATION,
}


def show_conversation(seen: Seen) -> AppConversation:
    """A conversation, as OpenHands' app server of late 2025 answers (`live_status_app_conversation_service.py`)."""
    record, access = seen.record, seen.access
    return AppConversation(
        id=record.id,
        sandbox_id=record.id,
        title=title_of(record),
        trigger=_label(record, TRIGGER),
        llm_model=_model_of(record.request),
        created_at=format_time(record.created_at),
        updated_at=format_time(record.updated_at),
        sandbox_status=_SANDBOX_STATUSES[record.status],
        execution_status=record.execution_status if record.status is Status.RUNNING else None,
        conversation_url=None if access is None else _conversation_url(access.url, record),
        session_api_key=None if access is None else access.session_api_key,
    )


def show_sandbox(seen: Seen) -> SandboxInfo:
    """A conversation's sandbox, as OpenHands' app server of late 2025 answers (`docker_sandbox_service.py`)."""
    record, access = seen.record, seen.access
    exposed = None
    if record.status is Status.RUNNING:
        exposed = [] if access is None else [ExposedUrl(name=_AGENT_SERVER, url=access.url, port=record.spec.port or 0)]
    return SandboxInfo(
        id=record.id,
        sandbox_spec_id=record.spec.image,
        status=_SANDBOX_STATUSES[record.status],
        session_api_key=None if access is None else access.session_api_key,
        exposed_urls=exposed,
        created_at=format_time(record.created_at),
    )


def show_task(seen: Seen) -> StartTask:
    """A conversation's start, as OpenHands' app server of late 2025 answers (`app_conversation_models.py`)."""
    record, status = seen.record, start_status(seen.record)
    failed = record.error if status is StartTaskStatus.ERROR else None
    return StartTask(
        id=record.id,
        status=status,
        detail=None if failed is None else repaired(failed.message),
        app_conversation_id=record.id if status is StartTaskStatus.READY else None,
        sandbox_id=record.id,
        agent_server_url=None if seen.access is None else seen.access.url,
        request=StartedWith(
            conversation_id=record.id,
            llm_model=_model_of(record.request),
            title=_label(record, TITLE),
            trigger=_label(record, TRIGGER),
        ),
        created_at=format_time(record.created_at),
        updated_at=format_time(record.updated_at),
    )


def start_status(record: ConversationRecord) -> StartTaskStatus:
    """How far the start has come. Once the agent has had the conversation it stays READY, whatever comes after."""
    if record.execution_status is not None or record.status not in (Status.STARTING, Status.ERROR):
        return StartTaskStatus.READY
    return StartTaskStatus.ERROR if record.status is Status.ERROR else _PHASES[record.phase]


def _conversation_url(url: str, record: ConversationRecord) -> str:
    return f"{url}/api/conversations/{agent_conversation_id(record.id).hex}"


def _label(record: ConversationRecord, name: str) -> str | None:
    value = record.labels.get(name)
    return None if value is None else repaired(value)


def _model_of(request: JsonValue) -> str | None:
    """The name of the model, which is no secret, from a request, which may hold some."""
    value = request
    for key in ("agent_settings", "llm", "model"):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) else None
