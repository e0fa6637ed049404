"""One client: reads its frames, answers each request in a task of its own, writes from one task.

The reader never waits for a command. Writing is one task's alone, because a send that is cancelled half way would
break the framing for whatever follows; a send that takes too long ends the connection instead.
"""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import attrs
import structlog
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.utilities import ProtocolError, RemoteProtocolError

from supervisor.control import views, wire
from supervisor.control.handshake import Admission
from supervisor.control.messages import Authenticate, InvalidParams, structure_params
from supervisor.control.methods import EMPTY, Answer, Methods, refuse
from supervisor.control.outbox import MAX_BYTES, MAX_FRAMES, Closing, Outbox
from supervisor.control.service import ConversationService
from supervisor.control.stream import UpgradedStream, send_texts
from supervisor.control.subscriptions import TOO_SLOW, Subscriptions
from supervisor.control.token import Token
from supervisor.control.wire import Batch, Item, Malformed, Request
from supervisor.conversation.errors import Busy

_RECEIVE_BYTES: Final = 16 * 1024

NORMAL: Final = Closing(1000, "")
AT_ONCE: Final = frozenset({"conversation.get", "daemon.info"})
"""Methods that only look something up: answered by the reader itself."""

MAX_FRAGMENTS: Final = 64 * 1024
"""Pieces that one message may come in."""

TOO_MANY_FRAGMENTS: Final = Closing(1009, "message in too many fragments")
NOT_AUTHENTICATED: Final = Closing(4401, "not authenticated")

_log: Final = structlog.stdlib.get_logger("supervisor.control")


@attrs.frozen
class ConnectionLimits:
    """How much one connection may take. Times are seconds, sizes bytes.

    `handshake` and `authentication` bound the way in, `send` one write's way out, `close` the closing handshake and
    `linger` the time in which the other side may read our last words. An idle connection is pinged every
    `ping_interval` and dropped when no pong comes within `pong`.
    """

    handshake: float = 5.0
    authentication: float = 5.0
    send: float = 10.0
    close: float = 2.0
    linger: float = 1.0
    ping_interval: float = 30.0
    pong: float = 20.0
    message_size: int = 1024 * 1024
    message_queue: int = 8
    in_flight: int = 64
    subscriptions: int = 16
    outbox_frames: int = MAX_FRAMES
    outbox_bytes: int = MAX_BYTES


class Connection:
    """A client whose handshake was admitted. `token` is what it has to show, None if nothing."""

    def __init__(
        self,
        service: ConversationService,
        methods: Methods,
        token: Token | None,
        limits: ConnectionLimits,
        stream: trio.abc.HalfCloseableStream,
    ) -> None:
        self._stream = stream
        self._service = service
        self._methods = methods
        self._token = token
        self._limits = limits
        self._outbox = Outbox(limits.outbox_frames, limits.outbox_bytes)
        self._in_flight = 0
        self._written = trio.Event()

    def close(self, closing: Closing) -> None:
        """End the connection once what is queued is sent. Returns at once."""
        self._outbox.finish(closing)

    async def run(self, admission: Admission) -> None:
        """Serve the client until it goes away or is closed. The caller contains what this raises."""
        offer, accept = trio.open_memory_channel[WebSocketConnection](1)
        async with trio.open_nursery() as transport:
            transport.start_soon(self._run_library, admission, offer)
            with suppress(trio.EndOfChannel):
                with trio.fail_after(self._limits.handshake):
                    socket = await accept.receive()
                await self._converse(transport, socket, admission.token)
            transport.cancel_scope.cancel()

    async def _run_library(self, admission: Admission, upgraded: trio.MemorySendChannel[WebSocketConnection]) -> None:
        # The library's reader raises on input that comes at a bad moment, a ping during our close for one. That ends
        # its reading; it must not end our writing, or the close frame would be lost.
        await trio.lowlevel.checkpoint()
        stream = UpgradedStream(self._stream, admission)
        try:
            async with upgraded, trio.open_nursery() as library:
                request = await wrap_server_stream(
                    library,
                    stream,
                    message_queue_size=self._limits.message_queue,
                    max_message_size=self._limits.message_size,
                    receive_buffer_size=_RECEIVE_BYTES,
                )
                socket = await request.accept(subprotocol=admission.subprotocol)
                stream.upgrade_answered(partial(self._check_fragments, socket))
                await upgraded.send(socket)
        except* (ProtocolError, ConnectionClosed) as group:
            _log.debug("control.reading_ended", causes=[repr(cause) for cause in group.exceptions])

    def _check_fragments(self, socket: WebSocketConnection) -> None:
        # The library bounds the size of a message and not the number of its fragments, which may be empty.
        if len(socket._message_parts) > MAX_FRAGMENTS:  # noqa: SLF001 - it tells nobody else
            self._outbox.cut(TOO_MANY_FRAGMENTS)
            raise RemoteProtocolError(TOO_MANY_FRAGMENTS.reason)

    async def _converse(self, transport: trio.Nursery, socket: WebSocketConnection, shown: str | None) -> None:
        transport.start_soon(self._write, socket)
        transport.start_soon(self._keep_alive, socket)
        with suppress(ConnectionClosed):
            if await self._authenticate(socket, shown):
                await self._serve(socket)
        self._outbox.finish(NORMAL)
        with trio.move_on_after(self._limits.send + self._limits.close):
            await self._written.wait()

    async def _authenticate(self, socket: WebSocketConnection, shown: str | None) -> bool:
        if self._token is None:
            await trio.lowlevel.checkpoint()
            return True
        if shown is None:
            passed = await self._authenticate_by_message(socket, self._token)
        else:
            await trio.lowlevel.checkpoint()
            passed = self._token.matches(shown)
        if not passed:
            self._outbox.finish(NOT_AUTHENTICATED)
        return passed

    async def _authenticate_by_message(self, socket: WebSocketConnection, token: Token) -> bool:
        first = None
        with trio.move_on_after(self._limits.authentication):
            first = await socket.get_message()
        request = wire.decode(first) if first is not None else None
        if not isinstance(request, Request) or not _shows(request, token):
            return False
        if request.wants_answer:
            await self._outbox.put(wire.encode_result(request.id, EMPTY))
        return True

    async def _serve(self, socket: WebSocketConnection) -> None:
        async with trio.open_nursery() as tasks:
            session = Subscriptions(self._service, self._outbox, tasks, self._limits.subscriptions)
            with suppress(ConnectionClosed):
                while True:
                    message = wire.decode(await socket.get_message())
                    if isinstance(message, Request) and message.method in AT_ONCE:
                        await self._answer_at_once(socket, session, message)
                    else:
                        self._dispatch(tasks, session, message)
            tasks.cancel_scope.cancel()

    async def _answer_at_once(self, socket: WebSocketConnection, session: Subscriptions, request: Request) -> None:
        # A task and a hop to the writer would cost more than the answer does. Sending here is safe: this task is
        # cancelled only with its connection, and the library keeps two senders' frames apart.
        answer = await self._methods.answer(session, request)
        if answer.frame is None:
            return
        if self._outbox.is_idle:
            await self._send(socket, [answer.frame])
        else:
            await self._outbox.put(answer.frame)

    def _dispatch(self, tasks: trio.Nursery, session: Subscriptions, message: Item | Batch) -> None:
        items = message.items if isinstance(message, Batch) else (message,)
        if self._in_flight + len(items) > self._limits.in_flight:
            self._refuse_busy(message)
            return
        self._in_flight += len(items)
        if isinstance(message, Batch):
            tasks.start_soon(self._answer_batch, session, message.items)
        else:
            tasks.start_soon(self._answer_one, session, message)

    async def _answer_one(self, session: Subscriptions, item: Item) -> None:
        try:
            answer = await self._answer(session, item)
            if answer.frame is not None and not self._outbox.offer(answer.frame):
                await self._outbox.put(answer.frame)
            answer.then()
        finally:
            self._in_flight -= 1

    async def _answer_batch(self, session: Subscriptions, items: Sequence[Item]) -> None:
        try:
            answers: list[Answer] = []
            async with trio.open_nursery() as nursery:
                for item in items:
                    nursery.start_soon(self._collect, session, item, answers)
            frames = [answer.frame for answer in answers if answer.frame is not None]
            if frames:
                await self._outbox.put(wire.encode_batch(frames))
            for answer in answers:
                answer.then()
        finally:
            self._in_flight -= len(items)

    async def _collect(self, session: Subscriptions, item: Item, answers: list[Answer]) -> None:
        answers.append(await self._answer(session, item))

    async def _answer(self, session: Subscriptions, item: Item) -> Answer:
        if isinstance(item, Malformed):
            await trio.lowlevel.checkpoint()
            return _answer_malformed(item)
        return await self._methods.answer(session, item)

    def _refuse_busy(self, message: Item | Batch) -> None:
        items = message.items if isinstance(message, Batch) else (message,)
        error = Busy(f"this connection has {self._in_flight} of {self._limits.in_flight} requests in flight")
        answers = [
            _answer_malformed(item) if isinstance(item, Malformed) else refuse(item, views.failure_of(error))
            for item in items
        ]
        frames = [answer.frame for answer in answers if answer.frame is not None]
        if not frames:
            return
        if not self._outbox.offer(wire.encode_batch(frames) if isinstance(message, Batch) else frames[0]):
            _log.warning("control.consumer_too_slow", frames=self._limits.outbox_frames)
            self._outbox.cut(TOO_SLOW)

    async def _send(self, socket: WebSocketConnection, frames: Sequence[str]) -> None:
        with trio.move_on_after(self._limits.send) as patience:
            await send_texts(socket, self._stream, frames)
        if patience.cancelled_caught:
            _log.warning("control.send_too_slow", seconds=self._limits.send)
            await trio.aclose_forcefully(self._stream)

    async def _write(self, socket: WebSocketConnection) -> None:
        await trio.lowlevel.checkpoint()
        try:
            with suppress(ConnectionClosed):
                while not isinstance(item := self._outbox.take_some(), Closing):
                    if item is None:
                        await self._outbox.wait()
                    else:
                        await self._send(socket, item)
                with trio.move_on_after(self._limits.close):
                    await socket.aclose(item.code, item.reason)
        finally:
            self._outbox.abandon()
            self._written.set()

    async def _keep_alive(self, socket: WebSocketConnection) -> None:
        await trio.sleep(self._limits.ping_interval)
        with suppress(ConnectionClosed):
            while True:
                with trio.move_on_after(self._limits.pong) as patience:
                    await socket.ping()
                if patience.cancelled_caught:
                    _log.info("control.peer_vanished", seconds=self._limits.pong)
                    await trio.aclose_forcefully(self._stream)
                    return
                await trio.sleep(self._limits.ping_interval)


def _answer_malformed(item: Malformed) -> Answer:
    return Answer(wire.encode_failure(item.id, item.failure) if item.wants_answer else None)


def _shows(request: Request, token: Token) -> bool:
    if request.method != "authenticate":
        return False
    try:
        return token.matches(structure_params(request.params, Authenticate).token)
    except InvalidParams:
        return False
