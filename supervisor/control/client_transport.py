"""The client's side of the wire: many requests at once over one connection, and what is subscribed to.

`Transport.run` is one task beside the caller's own; it never raises. When the connection ends, everybody who waits
for something hears of it.
"""

import itertools
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final

import attrs
import trio
from outcome import Error, Outcome, Value
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from supervisor.control.address import ControlAddress, UnixAddress
from supervisor.control.client_views import CannotConnect, ControlClientError, RemoteError, TooFarBehind, lost
from supervisor.control.outbox import Closing, Outbox
from supervisor.control.views import PROTOCOL
from supervisor.control.wire import RpcCode, encode_json, encode_notification, parse_json
from supervisor.conversation.json import JsonObject, JsonValue

_MAX_ANSWER: Final = 64 * 1024 * 1024
_MESSAGE_QUEUE: Final = 64
_FEED_WAITS_AT: Final = 1024
_FEED_BREAKS_AT: Final = 65536
_ABNORMAL: Final = 1006
_GOODBYE: Final = Closing(1000, "")
_RPC_WORDS: Final = {str(code.value): code.name.lower() for code in RpcCode}


class Feed:
    """What came for one subscription and was not read yet."""

    def __init__(self, read: Callable[[], object]) -> None:
        self._items: deque[JsonObject] = deque()
        self._news = trio.lowlevel.ParkingLot()
        self._read = read
        self._end: Outcome[None] | None = None

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: JsonObject) -> None:
        """Keep an item for the reader."""
        self._items.append(item)
        self._news.unpark()

    def finish(self, end: Outcome[None]) -> None:
        """Nothing more comes after what is here: the end, or why. The first one stands."""
        if self._end is None:
            self._end = end
        self._news.unpark_all()

    async def next(self) -> JsonObject:
        """The next item.

        Raises:
            StopAsyncIteration: the end.
            ControlClientError: why it ended, if it should not have.
        """
        await trio.lowlevel.checkpoint()
        while not self._items:
            if self._end is not None:
                self._end.unwrap()
                raise StopAsyncIteration
            await self._news.park()
        self._read()
        return self._items.popleft()


@attrs.define(eq=False)
class _Call:
    """A request that waits. `opened` sees its result before anything that follows it on the wire."""

    opened: Callable[[JsonValue], None] | None
    outcome: Outcome[JsonValue] | None = None
    answered: trio.Event = attrs.field(factory=trio.Event)


class Transport:
    """One connection, seen from the client."""

    def __init__(self, address: ControlAddress, token: str | None) -> None:
        self._address = address
        self._token = token
        self._outbox = Outbox()
        self._numbers = itertools.count(1)
        self._calls: dict[int, _Call] = {}
        self._feeds: dict[str, Feed] = {}
        self._room = trio.lowlevel.ParkingLot()
        self._connected = trio.Event()
        self._finished = trio.Event()
        self._failure: ControlClientError | None = None

    async def connected(self) -> None:
        """Wait until the connection stands.

        Raises:
            ControlClientError: it will not.
        """
        await self._connected.wait()
        if self._failure is not None:
            raise self._failure

    async def call(
        self, method: str, params: JsonObject, opened: Callable[[JsonValue], None] | None = None
    ) -> JsonValue:
        """Ask, and wait for the answer.

        Raises:
            RemoteError: the daemon refused, or failed.
            ConnectionLost: the connection ended first; whether the daemon did it is unknown.
        """
        if self._failure is not None:
            await trio.lowlevel.checkpoint()
            raise self._failure
        number = next(self._numbers)
        call = self._calls[number] = _Call(opened)
        self._room.unpark_all()
        try:
            request: JsonObject = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
            await self._outbox.put(encode_json(request))
            await call.answered.wait()
        finally:
            self._calls.pop(number, None)
        if call.outcome is None:
            raise AssertionError("answered without an outcome")
        return call.outcome.unwrap()

    def open_feed(self, subscription: str) -> Feed:
        """Keep what comes for a subscription from now on."""
        feed = self._feeds[subscription] = Feed(self._room.unpark_all)
        return feed

    def close_feed(self, subscription: str) -> None:
        """Keep nothing more of a subscription, and tell the daemon so without waiting for it."""
        del self._feeds[subscription]
        self._room.unpark_all()
        self._outbox.offer(encode_notification("events.unsubscribe", encode_json({"subscription": subscription})))

    async def close(self) -> None:
        """Send what is queued, say goodbye, and wait until the connection is gone. The caller sets the deadline."""
        self._outbox.finish(_GOODBYE)
        await self._finished.wait()

    async def run(self) -> None:
        """Connect, and carry everything until the connection ends. Never raises but when cancelled."""
        await trio.lowlevel.checkpoint()
        failure: ControlClientError = lost(_ABNORMAL, "closed by this side")
        try:
            stream = await self._connect()
            try:
                failure = await self._carry(stream)
            finally:
                await trio.aclose_forcefully(stream)
        except* Exception as group:  # noqa: BLE001 - the boundary: it becomes the error of everybody who waits
            failure = _explain(self._address, group)
        finally:
            self._end(failure)

    async def _connect(self) -> trio.SocketStream:
        if isinstance(self._address, UnixAddress):
            return await trio.open_unix_socket(self._address.path)
        return await trio.open_tcp_stream(self._address.host, self._address.port)

    async def _carry(self, stream: trio.SocketStream) -> ControlClientError:
        async with trio.open_nursery() as nursery:
            socket = await wrap_client_stream(
                nursery,
                stream,
                "localhost" if isinstance(self._address, UnixAddress) else self._address.authority,
                "/control",
                subprotocols=[PROTOCOL],
                extra_headers=[] if self._token is None else [(b"Authorization", f"Bearer {self._token}".encode())],
                message_queue_size=_MESSAGE_QUEUE,
                max_message_size=_MAX_ANSWER,
            )
            self._connected.set()
            nursery.start_soon(self._write, socket)
            failure = await self._read(socket)
            nursery.cancel_scope.cancel()
        return failure

    async def _read(self, socket: WebSocketConnection) -> ControlClientError:
        try:
            while True:
                message = parse_json(str(await socket.get_message()))
                if isinstance(message, dict):
                    await self._receive(message)
        except ConnectionClosed as closed:
            await trio.lowlevel.checkpoint()
            return lost(
                closed.reason.code if closed.reason else _ABNORMAL, (closed.reason and closed.reason.reason) or ""
            )

    async def _write(self, socket: WebSocketConnection) -> None:
        await trio.lowlevel.checkpoint()
        # When the connection ends under us the reader hears of it too, and tells everybody.
        with suppress(ConnectionClosed):
            while not isinstance(item := self._outbox.take(), Closing):
                if item is None:
                    await self._outbox.wait()
                else:
                    await socket.send_message(item)
            await socket.aclose(item.code, item.reason)

    async def _receive(self, message: Mapping[str, JsonValue]) -> None:
        await trio.lowlevel.checkpoint()
        if "method" not in message:
            self._settle(message)
            return
        params = message.get("params")
        if not isinstance(params, dict):
            return
        feed = self._feeds.get(str(params.get("subscription")))
        if feed is None:
            return
        if message["method"] == "log.end":
            feed.finish(_log_end(params))
        else:
            await self._deliver(feed, params)

    async def _deliver(self, feed: Feed, params: JsonObject) -> None:
        # A reader of events that is slow slows the daemon down, as long as nobody waits for an answer, which may be
        # what makes it slow: then we keep more, up to a point.
        await trio.lowlevel.checkpoint()
        while len(feed) >= _FEED_WAITS_AT and not self._calls and feed in self._feeds.values():
            await self._room.park()
        if len(feed) >= _FEED_BREAKS_AT:
            feed.finish(Error(TooFarBehind("events came faster than they were read: subscribe again with since")))
        else:
            feed.add(params)

    def _settle(self, message: Mapping[str, JsonValue]) -> None:
        number = message.get("id")
        call = self._calls.pop(number, None) if isinstance(number, int) else None
        if call is None:
            return
        call.outcome = _outcome(message)
        if call.opened is not None and isinstance(call.outcome, Value):
            call.opened(call.outcome.value)
        call.answered.set()

    def _end(self, failure: ControlClientError) -> None:
        self._failure = failure
        self._outbox.abandon()
        for call in self._calls.values():
            call.outcome = Error(failure)
            call.answered.set()
        for feed in self._feeds.values():
            feed.finish(Error(failure))
        self._connected.set()
        self._finished.set()


@asynccontextmanager
async def beside(task: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Run a task, which never raises, beside the body of an `async with`, and end it with the body.

    Unlike a bare nursery it leaves the body's exception as it is, without a group around it.
    """
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - raised again below, where the nursery cannot wrap it
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


def _outcome(message: Mapping[str, JsonValue]) -> Outcome[JsonValue]:
    error = message.get("error")
    if not isinstance(error, dict):
        return Value(message.get("result"))
    data = error.get("data")
    fields = dict(data) if isinstance(data, dict) else {}
    word = fields.pop("code", None) or _RPC_WORDS.get(str(error.get("code")), "internal")
    return Error(RemoteError(str(word), str(error.get("message")), fields))


def _log_end(params: JsonObject) -> Outcome[None]:
    error = params.get("error")
    if not isinstance(error, dict):
        return Value(None)
    return Error(RemoteError(str(error.get("code")), str(error.get("message")), {}))


def _explain(address: ControlAddress, error: BaseException) -> ControlClientError:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, ConnectionRejected):
        sentence = (error.body or b"").decode(errors="replace").strip()
        return CannotConnect(f"{address} refused the connection with HTTP {error.status_code}: {sentence}")
    if isinstance(error, OSError):
        return CannotConnect(f"cannot connect to {address}: {error}")
    return lost(_ABNORMAL, repr(error))
