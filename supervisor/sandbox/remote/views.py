"""Reads what the host says of a runtime into our own terms. Pure.

`pod_status` goes before `status`, as its clients have it. Whatever is not known to mean an end is alive: a runtime that
its host restarts is not dead, and neither is one of which its host says a word that we do not know.
"""

from typing import Final

from supervisor.sandbox.port import Endpoint, SandboxState, SandboxView
from supervisor.sandbox.remote.address import parse_endpoint
from supervisor.sandbox.remote.answers import Runtime

_READY: Final = "ready"
_COMING: Final = frozenset({"pending", "running", "restarting"})
_FAILED: Final = frozenset({"failed", "crashloopbackoff", "error"})
_NOT_THERE: Final = "not found"
_UNKNOWN: Final = "unknown"
_OVER: Final = frozenset({"stopped", "error"})
_OUT_OF_MEMORY: Final = "OOMKilled"


def state_of(runtime: Runtime) -> SandboxState:
    """What a runtime does."""
    if runtime.pod_status in _FAILED:
        return SandboxState.EXITED
    if runtime.status == "paused":
        return SandboxState.PAUSED
    if runtime.pod_status != _READY and runtime.pod_status not in _COMING and runtime.status in _OVER:
        return SandboxState.RUNNING if is_in_doubt(runtime) else SandboxState.EXITED
    return SandboxState.RUNNING


def is_in_doubt(runtime: Runtime) -> bool:
    """Whether the host itself does not know what became of it, although it has given up."""
    return runtime.status == "error" and runtime.pod_status == _UNKNOWN


def read_view(runtime: Runtime) -> SandboxView:
    """A runtime as the port shows it; exit codes are not told."""
    state = state_of(runtime)
    published = _published(runtime, state)
    ended = state is SandboxState.EXITED
    return SandboxView(
        id=runtime.runtime_id,
        name=runtime.session_id,
        image="",
        state=state,
        published=published,
        oom_killed=ended and runtime.restart_reasons[-1:] == (_OUT_OF_MEMORY,),
        message=_message(runtime) if ended else "",
        session_key=runtime.session_api_key if published is not None else None,
        is_pending=state is SandboxState.RUNNING and published is None,
    )


def last_lines(runtime: Runtime, tail: int) -> list[str]:
    """What its host has kept of the output of one that failed; of no other is anything told."""
    return runtime.pod_logs.splitlines()[-tail:] if state_of(runtime) is SandboxState.EXITED and tail > 0 else []


def _published(runtime: Runtime, state: SandboxState) -> Endpoint | None:
    """Where it is reached, once that answers: before, a host's proxy may answer in its place."""
    if state is SandboxState.EXITED or runtime.url is None:
        return None
    coming = runtime.pod_status in _COMING or runtime.pod_status == _NOT_THERE or runtime.status != "running"
    if state is SandboxState.RUNNING and runtime.pod_status != _READY and coming:
        return None
    return parse_endpoint(runtime.url)


def _message(runtime: Runtime) -> str:
    reasons = f" after {runtime.restart_count} restarts: {', '.join(runtime.restart_reasons)}"
    why = reasons if runtime.restart_reasons else ""
    says = next(iter(runtime.pod_logs.splitlines()), "")
    return f"{runtime.pod_status or runtime.status}{why}{f'; {says}' if says else ''}"
