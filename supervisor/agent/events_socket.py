"""The agent server's events socket, with our errors and bounded in every way.

trio-websocket's own `open_websocket` is not used: when the server closes first it never closes the connection, and
waits without limit until the server does.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, TypeAlias

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from supervisor.agent.http import endpoint_of
from supervisor.agent.port import AgentSession
from supervisor.agent.wire import StatusEvent, parse_event
from supervisor.conversation.errors import AgentUnavailable, ConversationdError
from supervisor.exchange import verified_tls

_CONNECT_SECONDS: Final = 10.0
_CLOSE_SECONDS: Final = 1.0
_MOST_MESSAGE: Final = 16 * 1024**2
_QUEUED_MESSAGES: Final = 16

_Stream: TypeAlias = trio.SocketStream | trio.SSLStream[trio.SocketStream]


@attrs.frozen
class EventsSocket:
    """An open events socket. Its events have to be taken as they come."""

    _connection: WebSocketConnection

    async def next_event(self) -> StatusEvent | None:
        """Wait for the next event; None stands for one that does not tell the execution status.

        Raises:
            AgentUnavailable: the server has closed the socket.
        """
        try:
            return parse_event(await self._connection.get_message())
        except ConnectionClosed as error:
            raise AgentUnavailable(f"the agent server closed its events socket: {error}") from error


@asynccontextmanager
async def open_events(session: AgentSession, resource: str) -> AsyncIterator[EventsSocket]:
    """Open the socket at the path `resource`, authenticated.

    Raises:
        AgentUnavailable: it cannot be opened, or broke while it was used.
    """
    error: Exception | None = None
    raised: Exception | None = None
    try:
        async with _stream(session) as stream, trio.open_nursery() as nursery:
            with trio.fail_after(_CONNECT_SECONDS):
                connection = await _connect(nursery, stream, session, resource)
            try:
                yield EventsSocket(connection)
            except Exception as caught:
                raised = caught
                raise
            with trio.move_on_after(_CLOSE_SECONDS):
                await connection.aclose()
            nursery.cancel_scope.cancel()
    except* ConversationdError as group:
        error = _first(group)
    except* Exception as group:  # noqa: BLE001 -- trio-websocket lets through what its parser raises on hostile bytes
        error = error or raised or AgentUnavailable(f"the agent server's events socket broke: {_cause(group)}")
    if error is not None:
        raise error


@asynccontextmanager
async def _stream(session: AgentSession) -> AsyncIterator[_Stream]:
    endpoint = endpoint_of(session)
    with trio.fail_after(_CONNECT_SECONDS):
        stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    try:
        yield _with_tls(stream, endpoint.host) if endpoint.tls else stream
    finally:
        stream.socket.close()


def _with_tls(stream: trio.SocketStream, host: str) -> trio.SSLStream[trio.SocketStream]:
    return trio.SSLStream(stream, verified_tls(), server_hostname=host, https_compatible=True)


async def _connect(nursery: trio.Nursery, stream: _Stream, session: AgentSession, resource: str) -> WebSocketConnection:
    endpoint = endpoint_of(session)
    connection = await wrap_client_stream(
        nursery,
        stream,
        endpoint.authority,
        endpoint.path + resource,
        max_message_size=_MOST_MESSAGE,
        message_queue_size=_QUEUED_MESSAGES,
    )
    await connection.send_message(json.dumps({"type": "auth", "session_api_key": session.session_key}))
    return connection


def _first(group: BaseExceptionGroup[ConversationdError]) -> ConversationdError:
    found = group.exceptions[0]
    return found if isinstance(found, ConversationdError) else _first(found)


def _cause(group: BaseExceptionGroup[BaseException]) -> str:
    found = group.exceptions[0]
    return _cause(found) if isinstance(found, BaseExceptionGroup) else f"{type(found).__name__} {found}".strip()
