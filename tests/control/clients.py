"""Clients that speak to a server under test as strangers do: trio-websocket and bare sockets."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from supervisor.control.address import ControlAddress, TcpAddress, UnixAddress
from supervisor.control.listener import ControlServer
from tests.control.scripted_service import ScriptedService

TOKEN = "the-token"
HANDSHAKE = (
    b"GET /control HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
)
PATIENCE = 20.0
"""Seconds of real time after which a test that waits has failed."""


@attrs.frozen
class Running:
    """A server that listens."""

    server: ControlServer
    service: ScriptedService
    unix: UnixAddress
    tcp: TcpAddress


async def dial(address: ControlAddress) -> trio.SocketStream:
    """A bare connection."""
    if isinstance(address, UnixAddress):
        return await trio.open_unix_socket(address.path)
    return await trio.open_tcp_stream(address.host, address.port)


@asynccontextmanager
async def websocket(
    address: ControlAddress,
    *,
    token: str | None = None,
    headers: tuple[tuple[bytes, bytes], ...] = (),
    subprotocols: tuple[str, ...] = (),
) -> AsyncIterator[WebSocketConnection]:
    """A WebSocket client that knows nothing of ours."""
    host = "localhost" if isinstance(address, UnixAddress) else address.authority
    if token is not None:
        headers += ((b"Authorization", f"Bearer {token}".encode()),)
    with trio.fail_after(PATIENCE):
        async with await dial(address) as stream, trio.open_nursery() as nursery:
            socket = await wrap_client_stream(
                nursery,
                stream,
                host,
                "/control",
                subprotocols=subprotocols,
                extra_headers=list(headers),
                max_message_size=2**26,
            )
            try:
                yield socket
            finally:
                with trio.move_on_after(1, shield=True):
                    await socket.aclose()
                nursery.cancel_scope.cancel()


async def ask(socket: WebSocketConnection, method: str, params: object = None, request: object = 1) -> Any:  # noqa: ANN401 - JSON
    """One request and the next frame, decoded."""
    await socket.send_message(
        json.dumps({"jsonrpc": "2.0", "id": request, "method": method, "params": {} if params is None else params})
    )
    return await receive(socket)


async def receive(socket: WebSocketConnection) -> Any:  # noqa: ANN401 - JSON
    """The next frame, decoded."""
    return json.loads(await socket.get_message())


async def close_code(socket: WebSocketConnection) -> int:
    """Read until the server closes; the code that it closed with."""
    await trio.lowlevel.checkpoint()
    try:
        while True:
            await socket.get_message()
    except ConnectionClosed as closed:
        return closed.reason.code if closed.reason else 0


async def exchange(address: ControlAddress, request: bytes) -> bytes:
    """Send bytes, and read all that comes until the server ends the connection."""
    with trio.fail_after(PATIENCE):
        async with await dial(address) as stream:
            await stream.send_all(request)
            answer = b""
            while chunk := await stream.receive_some():
                answer += chunk
            return answer


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for something that happens elsewhere, under a deadline."""
    with trio.fail_after(PATIENCE):
        await trio.lowlevel.checkpoint()
        while True:
            if condition():
                return
            await trio.lowlevel.checkpoint()


async def still_serves(running: Running) -> bool:
    """Whether a well-behaved client is served."""
    async with websocket(running.unix) as socket:
        answer = await ask(socket, "conversation.get", {"id": "c1"})
    return bool(answer["result"]["id"] == "c1")
