"""The driver `server`: an agent server that its own clients give conversations to, as those of the runtime API do.

It is waited for and probed like any agent server; what its agents do is between it and its clients.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final

import attrs
import httpx2

from supervisor.agent.http import open_client
from supervisor.agent.none import NoAgent
from supervisor.agent.port import AgentSession
from supervisor.agent.v0 import V0Driver
from supervisor.agent.v1 import V1Driver
from supervisor.conversation.errors import AgentRefused
from supervisor.conversation.json import JsonObject
from supervisor.conversation.record import ExecutionStatus

_MISSING: Final = httpx2.codes.NOT_FOUND


@asynccontextmanager
async def open_server_driver() -> AsyncIterator["ServerDriver"]:
    """Open the driver, with the HTTP client that all its conversations share."""
    async with open_client() as client:
        yield ServerDriver(client)


@attrs.frozen
class ServerDriver:
    """See `AgentDriver`. The server is that of `v1`, or the older one of `v0`; its agents are none of ours."""

    _client: httpx2.AsyncClient
    _server: V1Driver = attrs.field(init=False)
    _older: V0Driver = attrs.field(init=False)
    _agents: NoAgent = attrs.field(factory=NoAgent, init=False)
    name: str = attrs.field(default="server", init=False)
    thaws_ready: bool = attrs.field(default=False, init=False)

    @_server.default
    def _make_server(self) -> V1Driver:
        return V1Driver(self._client)

    @_older.default
    def _make_older(self) -> V0Driver:
        return V0Driver(self._client)

    def environment(self, session_key: str, secret: str, workspace: str) -> Mapping[str, str]:
        """That of `v1`, and the key by the name that the older server knows."""
        return {**self._server.environment(session_key, secret, workspace), "SESSION_API_KEY": session_key}

    async def wait_ready(self, session: AgentSession) -> None:
        """Return once the server says that it is ready; the older one, which does not know that word, that it is alive.

        Raises:
            AgentRefused: something else listens there, or the sandbox has no port.
        """
        try:
            await self._server.wait_ready(session)
        except AgentRefused as refused:
            if refused.status != _MISSING:
                raise
            await self._older.wait_ready(session)

    async def probe(self, session: AgentSession) -> None:
        """Ask once whether the server is alive, which both of them know."""
        await self._older.probe(session)

    async def begin(self, session: AgentSession, request: JsonObject, *, go_on: bool) -> ExecutionStatus | None:
        """Nothing to hand over: clients bring their conversations."""
        return await self._agents.begin(session, request, go_on=go_on)

    async def pause(self, session: AgentSession, runs: Callable[[], Awaitable[None]]) -> None:
        """No agent of ours is running; those that are freeze with the sandbox, and go on when it thaws."""
        await self._agents.pause(session, runs)

    async def run(self, session: AgentSession) -> None:
        """Nothing to run."""
        await self._agents.run(session)

    async def interrupt(self, session: AgentSession) -> None:
        """Nothing to interrupt."""
        await self._agents.interrupt(session)

    async def follow(self, session: AgentSession, report: Callable[[ExecutionStatus], None]) -> None:
        """Never reports anything."""
        await self._agents.follow(session, report)
