"""One HTTP connection: Hypercorn's HTTP/1.1 protocol over a stream whose every wait is bounded.

Hypercorn's own server for Trio would let one client end it: what its protocols raise on odd input leaves their task,
and what it sends is shielded from cancellation for as long as the other side does not read. So the protocol is
Hypercorn's, and the loop around it is ours, as on the control channel: a send has a deadline, closing lingers so that
our last words arrive, and the caller contains what is raised.
"""

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeAlias

import attrs
import h11
import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import StreamClosed
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import TrioSingleTask, WorkerContext
from hypercorn.typing import (
    AppWrapper,
    ASGIFramework,
    ASGIReceiveCallable,
    ASGIReceiveEvent,
    ASGISendCallable,
    ASGISendEvent,
    ConnectionState,
)
from hypercorn.typing import Scope as HypercornScope
from hypercorn.utils import UnexpectedMessageError

_CHUNK: Final = 64 * 1024
_SendOrEnd: TypeAlias = Callable[[ASGISendEvent | None], Awaitable[None]]
_LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.frozen
class HttpLimits:
    """How much one connection may take. Times are seconds, sizes bytes.

    `idle` bounds the time to the end of a request's head, the first one's and each further one's; `body` the time in
    which its body comes; `send` one piece's way out; `linger` the time in which the other side may read our last words.
    Streams of events say something at least every `keep_alive`, and WebSockets are pinged as often.
    """

    idle: float = 10.0
    body: float = 30.0
    send: float = 10.0
    linger: float = 1.0
    keep_alive: float = 15.0
    head_size: int = 16 * 1024
    body_size: int = 1024 * 1024


def protocol_config(limits: HttpLimits) -> Config:
    """What Hypercorn's protocols are told."""
    config = Config()
    config.errorlog = logging.getLogger("hypercorn.error")
    config.include_server_header = False
    config.h11_max_incomplete_size = limits.head_size
    config.websocket_max_message_size = limits.body_size
    config.websocket_ping_interval = limits.keep_alive
    return config


class _Http11(H11Protocol):
    """HTTP/1.1 and nothing else: no upgrade to HTTP/2, and no compressed frames, which may hold a bomb."""

    async def handle(self, event: Event) -> None:
        """Take what came. Whom Hypercorn refuses at the handshake, or for a message too large, it would keep."""
        await super().handle(event)
        socket = self.stream
        if isinstance(socket, WSStream) and (socket.closed or socket.buffer.length > socket.buffer.max_length):
            socket.closed = False  # what is closed is told no more, and the application has to be told
            await self.stream_send(StreamClosed(stream_id=socket.stream_id))

    async def _check_protocol(self, event: h11.Request) -> None:
        del event
        await trio.lowlevel.checkpoint()

    async def _create_stream(self, request: h11.Request) -> None:
        kept = [(name, value) for name, value in request.headers if name != b"sec-websocket-extensions"]
        await super()._create_stream(
            h11.Request(method=request.method, target=request.target, http_version=request.http_version, headers=kept)
        )


class ClientGone(OSError):
    """What the application says cannot be said any more: the client broke the protocol. No fault of ours."""


class _Tasks(TaskGroup):
    """A connection's tasks: its application, which is always let finish, and what only accompanies the reader."""

    aside: trio.Nursery | None = None

    async def spawn_app(
        self,
        app: AppWrapper,
        config: Config,
        scope: HypercornScope,
        send: _SendOrEnd,
    ) -> Callable[[ASGIReceiveEvent], Awaitable[None]]:
        """Run the application; what a WebSocket still says once it has ended is read away, or the reader would wait."""

        async def ending(
            scope: HypercornScope,
            receive: ASGIReceiveCallable,
            send: ASGISendCallable,
            sync_spawn: Callable[..., Any],
            call_soon: Callable[..., Any],
        ) -> None:
            try:
                await app(scope, receive, partial(_send, send), sync_spawn, call_soon)
            finally:
                if scope["type"] == "websocket":
                    self.spawn(_read_away, receive)

        return await super().spawn_app(ending, config, scope, send)

    def spawn(self, func: Callable[..., Awaitable[None]], *args: object) -> None:
        """Run something for as long as the client may still say something: pings, and the wait for its last words."""
        if self.aside is not None:
            self.aside.start_soon(func, *args)


async def _send(send: ASGISendCallable, event: ASGISendEvent) -> None:
    try:
        await send(event)
    except (h11.LocalProtocolError, UnexpectedMessageError) as error:
        raise ClientGone(f"the client broke the protocol: {error}") from error


async def _read_away(receive: ASGIReceiveCallable) -> None:
    while True:
        await receive()


class HttpConnection:
    """A client's stream, and the application that answers it. `run` it once."""

    def __init__(
        self,
        app: ASGIFramework,
        config: Config,
        context: WorkerContext,
        limits: HttpLimits,
        stream: trio.abc.HalfCloseableStream,
    ) -> None:
        self._app = ASGIWrapper(app)
        self._config = config
        self._context = context
        self._limits = limits
        self._stream = stream
        self._sending = trio.Lock()
        self._reading = trio.CancelScope()
        self._idle = TrioSingleTask()
        self._finished = False

    async def run(self) -> None:
        """Serve requests, one after the other, until the client goes away or is let go.

        A request whose client is gone is carried out all the same. The caller closes the stream, and contains what
        this raises.
        """
        self._tasks = tasks = _Tasks()
        async with tasks:
            self._protocol = _Http11(
                self._app,
                self._config,
                self._context,
                tasks,
                ConnectionState({}),
                False,
                None,
                None,
                self._take,
            )
            await self._idle.restart(tasks, self._end_when_idle)
            async with trio.open_nursery() as aside:
                tasks.aside = aside
                try:
                    await self._read()
                finally:
                    tasks.aside = None
                aside.cancel_scope.cancel()

    async def _read(self) -> None:
        # Cancelled with the stream: it may be waiting not for that, but, with a request that came before its turn or an
        # upgrade that was asked for, until an answer is through that never will be.
        with suppress(*_LOST), self._reading:
            while data := await self._stream.receive_some(_CHUNK):
                if not self._finished:
                    await self._protocol.handle(RawData(bytes(data)))
        await self._idle.stop()
        await self._protocol.handle(Closed())

    async def _take(self, event: Event) -> None:
        """Do what the protocol says."""
        if isinstance(event, RawData):
            await self._send(event.data)
        elif isinstance(event, Closed):
            await self._finish()
        elif isinstance(event, Updated) and event.idle:
            await self._idle.restart(self._tasks, self._end_when_idle)
        else:
            await self._idle.stop()

    async def _send(self, data: bytes) -> None:
        sent = False
        try:
            async with self._sending:
                with suppress(*_LOST), trio.move_on_after(self._limits.send):
                    await self._stream.send_all(data)
                    sent = True
        finally:
            if not sent:
                # Cancelled or not: after half a piece nothing can follow.
                self._reading.cancel()
                await trio.aclose_forcefully(self._stream)

    async def _end_when_idle(self) -> None:
        with trio.move_on_after(self._limits.idle):
            await self._context.terminated.wait()
        # Shielded from the request that comes at this very moment, and stops this task; nothing in here waits for long.
        with trio.move_on_after(self._limits.send, shield=True):
            await self._finish()

    async def _finish(self) -> None:
        """Say that we are done; what still comes is read away for a moment, or our last words would be lost."""
        await trio.lowlevel.checkpoint()
        if self._finished:
            return
        self._finished = True
        async with self._sending:
            with suppress(*_LOST):
                await self._stream.send_eof()
        self._tasks.spawn(self._linger)

    async def _linger(self) -> None:
        await trio.sleep(self._limits.linger)
        self._reading.cancel()
        await trio.aclose_forcefully(self._stream)
