"""A stub of the agent server on a real loopback socket: scripted answers over HTTP, scripted frames over WebSocket."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream

from supervisor.agent.port import AgentSession
from supervisor.conversation.ids import ConversationId
from supervisor.sandbox.port import Endpoint

_T = TypeVar("_T")

CONVERSATION = "11111111-2222-3333-4444-555555555555"
PATH = f"/api/conversations/{CONVERSATION}"
KEY = "the-session-key"
SECRET = "the-secret-of-the-conversation"

Script: TypeAlias = Callable[[WebSocketConnection], Awaitable[None]]


@attrs.frozen
class Reply:
    """What one request gets: an answer; or raw bytes and a close; or, with `hang`, nothing more after the answer."""

    status: int = 200
    body: bytes = b'{"success": true}'
    raw: bytes | None = None
    hang: bool = False


@attrs.frozen
class Request:
    """A request that came."""

    line: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> dict[str, Any]:
        """The body, decoded."""
        return dict(json.loads(self.body))


def info(status: str) -> Reply:
    """The answer that tells a conversation's execution status."""
    return Reply(body=json.dumps({"id": CONVERSATION, "execution_status": status, "title": None}).encode())


def full(status: str) -> str:
    """A snapshot of the state as the events socket sends it."""
    return json.dumps(
        {"kind": "ConversationStateUpdateEvent", "key": "full_state", "value": {"execution_status": status, "tags": {}}}
    )


def change(status: str) -> str:
    """One change of the execution status as the events socket sends it."""
    return json.dumps({"kind": "ConversationStateUpdateEvent", "key": "execution_status", "value": status})


class StubAgent:
    """Answers by its scripts: for each request line, and for sockets, the next one; the last one again and again.

    With a `rejection` sockets get these bytes in place of a handshake.
    """

    def __init__(self) -> None:
        self.replies: dict[str, list[Reply]] = {}
        self.sockets: list[Script] = []
        self.rejection: bytes | None = None
        self.requests: list[Request] = []
        self.first_frames: list[str | bytes] = []
        self.socket_paths: list[str] = []
        self.port = 0
        self._arrived = trio.Event()

    @property
    def lines(self) -> list[str]:
        """The request lines that came, in order; sockets are not among them."""
        return [request.line for request in self.requests]

    @property
    def session(self) -> AgentSession:
        """A session with this server."""
        endpoint = Endpoint("127.0.0.1", self.port)
        return AgentSession(ConversationId(CONVERSATION), "/workspace", endpoint, None, KEY, SECRET)

    def on(self, line: str, *replies: Reply) -> None:
        """Script the answers to `METHOD /path`."""
        self.replies[line] = list(replies)

    async def asked(self, line: str, count: int = 1) -> None:
        """Wait until this request has come so many times."""
        await trio.lowlevel.checkpoint()
        while self.lines.count(line) < count:
            await self._arrived.wait()

    async def serve(self, stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]) -> None:
        """Serve one connection, which is one request or one socket."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, ConnectionClosed):
            head, rest = await _read_head(stream)
            if b"upgrade: websocket" in head.lower() and self.rejection is not None:
                await stream.send_all(self.rejection)
            elif b"upgrade: websocket" in head.lower():
                await self._serve_socket(_Replayed(head + b"\r\n\r\n" + rest, stream))
            else:
                await self._serve_request(head, rest, stream)
        await trio.aclose_forcefully(stream)

    async def _serve_request(self, head: bytes, body: bytes, stream: trio.abc.Stream) -> None:
        request_line, *header_lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in header_lines)}
        while len(body) < int(headers.get("content-length", 0)):
            body += await stream.receive_some()
        line = request_line.removesuffix(" HTTP/1.1")
        self.requests.append(Request(line, headers, body))
        self._arrived.set()
        self._arrived = trio.Event()
        reply = _next(self.replies.get(line, [Reply(404, b'{"detail":"Not Found"}')]))
        head_line = f"HTTP/1.1 {reply.status} X\r\nContent-Length: {len(reply.body) + reply.hang}\r\n\r\n"
        await stream.send_all(head_line.encode() + reply.body if reply.raw is None else reply.raw)
        if reply.hang:
            await trio.sleep_forever()

    async def _serve_socket(self, stream: "_Replayed") -> None:
        async with trio.open_nursery() as nursery:
            request = await wrap_server_stream(nursery, stream)
            self.socket_paths.append(request.path)
            connection = await request.accept()
            self.first_frames.append(await connection.get_message())
            with suppress(ConnectionClosed):
                await _next(self.sockets)(connection)
            await connection.aclose()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving(agent: StubAgent) -> AsyncIterator[StubAgent]:
    """Serve the stub on its port; it gets one of its own if it has none."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, agent.serve, agent.port, host="127.0.0.1"))
        agent.port = listeners[0].socket.getsockname()[1]
        yield agent
        nursery.cancel_scope.cancel()


def sending(*frames: str | bytes) -> Script:
    """A socket that sends these frames and stays open."""

    async def script(connection: WebSocketConnection) -> None:
        for frame in frames:
            await connection.send_message(frame)
        await connection.get_message()

    return script


async def _read_head(stream: trio.abc.Stream) -> tuple[bytes, bytes]:
    received = bytes(await stream.receive_some())
    while b"\r\n\r\n" not in received:
        received += await stream.receive_some()
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, rest


def _next(script: list[_T]) -> _T:
    return script.pop(0) if len(script) > 1 else script[0]


class _Replayed(trio.abc.Stream):
    """A stream whose first bytes were read already."""

    def __init__(self, head: bytes, stream: trio.abc.Stream) -> None:
        self._head = head
        self._stream = stream

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        head, self._head = self._head, b""
        return head or bytes(await self._stream.receive_some(max_bytes))

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
