"""Conversations as clients of a hosted runtime see them.

What each client reads was taken from the source of OpenHands: `openhands/runtime/impl/remote/remote_runtime.py`,
`openhands/app_server/sandbox/remote_sandbox_service.py` and, of `openhands-workspace`,
`openhands/workspace/remote_api/workspace.py`. All of them wait while `pod_status` is "pending", "running" or "not
found", and give up at "failed", "unknown" and "crashloopbackoff". Older versions of the second believe `pod_status`
before `status`, but know no "not found": so that is what a paused runtime has.
"""

from collections.abc import Mapping
from typing import Final

from supervisor.control.service import AgentAccess
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord, FailureCode, Observed, Phase, failure_code
from supervisor.conversation.restart import Cause
from supervisor.http.models_runtime import HostedStatus, PodStatus, RuntimeInfo
from supervisor.http.views import repaired

SESSION_LABEL: Final = "session_id"
"""The label that makes a conversation a runtime; its value is what clients call it."""

_STATUSES: Final[Mapping[Status, HostedStatus]] = {
    Status.STARTING: HostedStatus.STARTING,
    Status.RUNNING: HostedStatus.RUNNING,
    Status.PAUSED: HostedStatus.PAUSED,
    Status.STOPPED: HostedStatus.STOPPED,
    Status.ARCHIVED: HostedStatus.STOPPED,
    Status.ERROR: HostedStatus.ERROR,
}
_REASONS: Final[Mapping[FailureCode, str]] = {
    failure_code(Cause.EXITED): "Error",
    failure_code(Cause.OOM_KILLED): "OOMKilled",
    failure_code(Cause.UNHEALTHY): "Unhealthy",
    failure_code(Cause.REMOVED): "Removed",
}
"""Why a sandbox ended; the first two in the words of Kubernetes."""


def show_runtime(record: ConversationRecord, access: AgentAccess | None) -> RuntimeInfo:
    """A conversation as a runtime."""
    return RuntimeInfo(
        runtime_id=record.id,
        session_id=repaired(record.labels[SESSION_LABEL]),
        url=None if access is None else access.url,
        session_api_key=None if access is None else access.session_api_key,
        status=_STATUSES[record.status],
        pod_status=_pod_status(record),
        restart_count=record.restarts,
        restart_reasons=_restart_reasons(record),
        pod_logs=_pod_logs(record),
        work_hosts={},
    )


def _pod_status(record: ConversationRecord) -> PodStatus:
    match record.status:
        case Status.STARTING:
            return PodStatus.RUNNING if record.phase in (Phase.BOOT, Phase.AGENT) else PodStatus.PENDING
        case Status.RUNNING:
            return PodStatus.READY
        case Status.ERROR if record.observed is Observed.UNKNOWN:
            return PodStatus.UNKNOWN
        case Status.ERROR:
            # Where it was restarted before it failed, that was all that the restart policy allows.
            spent = record.restarts > 0 and record.error is not None and record.error.code in _REASONS
            return PodStatus.CRASH_LOOP if spent else PodStatus.FAILED
    return PodStatus.NOT_FOUND


def _restart_reasons(record: ConversationRecord) -> list[str]:
    """Why it was restarted, and in the end why it was not, oldest first."""
    codes = [failure_code(past.cause) for past in record.restart_history]
    if record.status is Status.ERROR and record.error is not None:
        codes.append(record.error.code)
    return [_REASONS[code] for code in codes if code in _REASONS]


def _pod_logs(record: ConversationRecord) -> str:
    """What went wrong, and the last lines of the sandbox that failed."""
    if record.status is not Status.ERROR or record.error is None:
        return ""
    return "\n".join(map(repaired, (record.error.message, *record.error.log_tail)))
