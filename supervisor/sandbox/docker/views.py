"""Reads what the engine says of containers into our own terms."""

import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, TypeAlias

from supervisor.sandbox.port import Endpoint, SandboxState, SandboxView

EngineJson: TypeAlias = Mapping[str, Any]
"""An object as the engine sends it; no farther than this package."""

_STATES: Final = {
    "created": SandboxState.CREATED,
    "running": SandboxState.RUNNING,
    "paused": SandboxState.PAUSED,
}


def read_state(status: str) -> SandboxState:
    """The engine's word for a state; exited, dead, removing and (it never restarts ours) restarting are all ended."""
    return _STATES.get(status, SandboxState.EXITED)


def read_view(name: str, container: EngineJson, *, direct: bool) -> SandboxView:
    """Read the answer to an inspection of a sandbox. With `direct` the engine's networks may be this host's, too."""
    state = container["State"]
    does = read_state(state["Status"])
    lives = does in (SandboxState.RUNNING, SandboxState.PAUSED)
    published, inner = _published(container["NetworkSettings"]) if lives else (None, None)
    address = _address(container["NetworkSettings"]) if direct else None
    failed = does is SandboxState.EXITED or (does is SandboxState.CREATED and state["ExitCode"] != 0)
    return SandboxView(
        id=container["Id"],
        name=name,
        image=container["Config"]["Image"],
        state=does,
        published=published,
        direct=Endpoint(address, inner) if address and inner else None,
        exit_code=state["ExitCode"] if failed else None,
        oom_killed=bool(state.get("OOMKilled")),
        message=state.get("Error") or "",
    )


def _published(network: EngineJson) -> tuple[Endpoint | None, int | None]:
    for inner, bindings in (network.get("Ports") or {}).items():
        for binding in bindings or ():
            return Endpoint(binding["HostIp"], int(binding["HostPort"])), int(inner.partition("/")[0])
    return None, None


def _address(network: EngineJson) -> str | None:
    """The container's address in a network that begins on this host: nobody else here can answer by it."""
    for attached in (network.get("Networks") or {}).values():
        if attached["IPAddress"] and _is_ours(attached["Gateway"]):
            return str(attached["IPAddress"])
    return None


def _is_ours(address: str) -> bool:
    """Whether this host has the address. Networks of another kind, or of another network namespace, begin elsewhere."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        # Sends nothing. What is meant for an address of this host is sent from that address.
        sock.connect((address, 1))
        return bool(sock.getsockname()[0] == address)
    return False
