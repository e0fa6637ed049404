"""The driver `none`: a container that has no agent is ready when its port accepts, or as soon as it runs."""

import errno
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final

import trio

from supervisor.agent.backoff import Backoff
from supervisor.agent.port import AgentSession
from supervisor.conversation.errors import AgentUnavailable
from supervisor.conversation.json import JsonObject
from supervisor.conversation.record import ExecutionStatus
from supervisor.sandbox.port import Endpoint

_UNREACHABLE: Final = frozenset({errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM})
_DIRECT_SECONDS: Final = 0.25
_PUBLISHED_SECONDS: Final = 5.0
_HOLD_SECONDS: Final = 0.05
_RUNS_SECONDS: Final = 0.1


class NoAgent:
    """See `AgentDriver`."""

    name: Final = "none"
    thaws_ready: Final = True
    """A port that accepted accepts all the time that its process is frozen: the kernel does it."""

    def environment(self, session_key: str, secret: str, workspace: str) -> Mapping[str, str]:  # noqa: ARG002 -- the port's shape
        """Nothing: no server is there to read it."""
        return {}

    async def wait_ready(self, session: AgentSession) -> None:
        """Return once the sandbox's port accepts a connection; without one, once it has run for a moment.

        A command that cannot be run ends in that moment: whoever starts it is told so.
        """
        if session.direct is None and session.published is None:
            await trio.sleep(_RUNS_SECONDS)
            return
        backoff = Backoff(0.002, 0.25)
        while not await _listens(session):
            await backoff.sleep()

    async def probe(self, session: AgentSession) -> None:
        """Connect once.

        Raises:
            AgentUnavailable: nothing listens.
        """
        if not await _listens(session):
            raise AgentUnavailable("nothing listens on the sandbox's port")

    async def begin(self, session: AgentSession, request: JsonObject, *, go_on: bool) -> ExecutionStatus | None:  # noqa: ARG002 -- the port's shape
        """Nothing to hand over."""
        await trio.lowlevel.checkpoint()
        return None

    async def pause(self, session: AgentSession, runs: Callable[[], Awaitable[None]]) -> None:  # noqa: ARG002 -- the port's shape
        """No agent is running."""
        await trio.lowlevel.checkpoint()

    async def run(self, session: AgentSession) -> None:  # noqa: ARG002 -- the port's shape
        """Nothing to run."""
        await trio.lowlevel.checkpoint()

    async def interrupt(self, session: AgentSession) -> None:  # noqa: ARG002 -- the port's shape
        """Nothing to interrupt."""
        await trio.lowlevel.checkpoint()

    async def follow(self, session: AgentSession, report: Callable[[ExecutionStatus], None]) -> None:  # noqa: ARG002 -- the port's shape
        """Never reports anything."""
        await trio.sleep_forever()


async def _listens(session: AgentSession) -> bool:
    if session.direct is not None:
        answer = await _accepts_directly(session.direct)
        if answer is not None:
            return answer
    if session.published is not None:
        return await _accepts_and_holds(session.published)
    await trio.lowlevel.checkpoint()
    return session.direct is None


async def _accepts_directly(endpoint: Endpoint) -> bool | None:
    """Whether something listens; None if there is no way to the endpoint, so that it cannot be told."""
    await trio.lowlevel.checkpoint()
    try:
        with trio.move_on_after(_DIRECT_SECONDS), _socket(endpoint) as sock:
            await sock.connect((endpoint.host, endpoint.port))
            return True
    except OSError as error:
        return None if error.errno in _UNREACHABLE else False
    return None


async def _accepts_and_holds(endpoint: Endpoint) -> bool:
    """Whether a connection is accepted and stays open.

    The engine's proxy accepts before anything listens behind it, and closes at once when it finds that out.
    """
    await trio.lowlevel.checkpoint()
    with suppress(OSError), trio.move_on_after(_PUBLISHED_SECONDS), _socket(endpoint) as sock:
        await sock.connect((endpoint.host, endpoint.port))
        return await _stays_open(sock)
    return False


async def _stays_open(sock: trio.socket.SocketType) -> bool:
    with trio.move_on_after(_HOLD_SECONDS):
        return await sock.recv(1) != b""
    return True


def _socket(endpoint: Endpoint) -> trio.socket.SocketType:
    return trio.socket.socket(trio.socket.AF_INET6 if ":" in endpoint.host else trio.socket.AF_INET)
