"""The client library: every method of the protocol as a typed call, over one connection that many tasks may share.

    async with connect(UnixAddress(Path("/run/conversationd/control.sock"))) as client:
        conversation = await client.start("c1", within=60)
        async with client.subscribe(ids=["c1"]) as events:
            async for event in events:
                ...

`within` is the command's own deadline in seconds, which the daemon keeps; to wait no longer oneself, cancel the call:
that ends the waiting, not the command.
"""

from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Final

import trio

from supervisor.control.address import ControlAddress
from supervisor.control.client_transport import Feed, Transport, beside
from supervisor.control.client_views import (
    Access,
    CannotConnect,
    ConnectionLost,
    ControlClientError,
    Conversation,
    Daemon,
    Event,
    NotAuthenticated,
    Opened,
    Page,
    RemoteError,
    StoppedConversation,
    TooFarBehind,
    UnexpectedAnswer,
    read_view,
)
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.json import JsonObject, JsonValue
from supervisor.conversation.lifecycle import Status

__all__ = [
    "Access",
    "CannotConnect",
    "ConnectionLost",
    "ControlClient",
    "ControlClientError",
    "Conversation",
    "Daemon",
    "Event",
    "EventSubscription",
    "LogLines",
    "NotAuthenticated",
    "Page",
    "RemoteError",
    "StoppedConversation",
    "TooFarBehind",
    "UnexpectedAnswer",
    "connect",
    "resumable_events",
]

_PAGE: Final = 1000
_GOODBYE_SECONDS: Final = 1.0
_BACKOFF_FIRST: Final = 0.1
_BACKOFF_MOST: Final = 5.0


class EventSubscription:
    """Events in order, each once. `seq` is where it began, `conversations` what there was then, if asked for."""

    def __init__(self, opened: Opened, feed: Feed) -> None:
        self.seq: Final = opened.seq
        self.conversations: Final = opened.conversations
        self._feed = feed

    def __aiter__(self) -> "EventSubscription":
        return self

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            ConnectionLost: the connection ended; go on with a new one and `since` of the last event.
            TooFarBehind: this iteration was too slow; the same.
        """
        return read_view((await self._feed.next()).get("event"), Event)


class LogLines:
    """Lines of a sandbox's output, until it ends."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def __aiter__(self) -> "LogLines":
        return self

    async def __anext__(self) -> str:
        """The next line.

        Raises:
            ConnectionLost: the connection ended.
            RemoteError: the daemon cannot follow any longer.
        """
        return str((await self._feed.next()).get("line"))


class ControlClient:
    """A connection to the daemon. Every call may raise `RemoteError` and `ConnectionLost`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def call(self, method: str, params: JsonObject) -> JsonValue:
        """Any method, with the daemon's answer as it wrote it: for what the typed calls do not know."""
        return await self._transport.call(method, params)

    async def info(self) -> Daemon:
        """Who the daemon is and how it does."""
        return read_view(await self._transport.call("daemon.info", {}), Daemon)

    async def start(
        self,
        conversation: str | None = None,
        *,
        agent: str | None = None,
        spec: JsonObject | None = None,
        request: JsonObject | None = None,
        labels: Mapping[str, str] | None = None,
        wait: bool = True,
        within: float | None = None,
        idempotency_key: str | None = None,
    ) -> Conversation:
        """Start a conversation; without `wait` the answer comes as soon as the start is durable."""
        params: dict[str, JsonValue] = {
            "id": conversation,
            "agent": agent,
            "spec": spec,
            "request": request,
            "labels": labels,
            "wait": wait,
            "timeout": within,
            "idempotency_key": idempotency_key,
        }
        return await self._conversation("conversation.start", params)

    async def pause(self, conversation: str, *, within: float | None = None) -> Conversation:
        """Pause the agent and freeze its sandbox."""
        return await self._conversation("conversation.pause", {"id": conversation, "timeout": within})

    async def resume(self, conversation: str, *, within: float | None = None) -> Conversation:
        """Let a paused conversation go on."""
        return await self._conversation("conversation.resume", {"id": conversation, "timeout": within})

    async def stop(self, conversation: str, *, force: bool = False, within: float | None = None) -> StoppedConversation:
        """End the sandbox: gracefully, or at once with `force`."""
        params: JsonObject = {"id": conversation, "force": force, "timeout": within}
        answer = await self._transport.call("conversation.stop", params)
        was_running = isinstance(answer, dict) and answer.get("was_running") is True
        return StoppedConversation(read_view(answer, Conversation), was_running)

    async def restart(self, conversation: str, *, force: bool = False, within: float | None = None) -> Conversation:
        """Start a stopped or failed conversation again in its workspace; with `force` also one that runs."""
        params: JsonObject = {"id": conversation, "force": force, "timeout": within}
        return await self._conversation("conversation.restart", params)

    async def archive(self, conversation: str, *, within: float | None = None) -> Conversation:
        """Remove a stopped conversation's sandbox and keep its record."""
        return await self._conversation("conversation.archive", {"id": conversation, "timeout": within})

    async def delete(self, conversation: str) -> None:
        """Remove a stopped or archived conversation for ever."""
        await self._transport.call("conversation.delete", {"id": conversation})

    async def get(self, conversation: str) -> Conversation:
        """The conversation as it is."""
        return await self._conversation("conversation.get", {"id": conversation})

    async def list(
        self,
        statuses: Collection[Status] = (),
        labels: Mapping[str, str] | None = None,
        *,
        limit: int = _PAGE,
        cursor: str | None = None,
    ) -> Page:
        """One page of the conversations that have one of the statuses (any, if none is given) and all of the labels."""
        params: JsonObject = {"status": list(statuses), "labels": labels, "limit": limit, "cursor": cursor}
        return read_view(await self._transport.call("conversation.list", params), Page)

    async def list_all(
        self, statuses: Collection[Status] = (), labels: Mapping[str, str] | None = None
    ) -> tuple[Conversation, ...]:
        """All of them, page by page."""
        page = await self.list(statuses, labels)
        items = page.items
        while page.next_cursor is not None:
            page = await self.list(statuses, labels, cursor=page.next_cursor)
            items += page.items
        return items

    async def connect(self, conversation: str) -> Access:
        """How to reach the agent server of a running conversation."""
        return read_view(await self._transport.call("conversation.connect", {"id": conversation}), Access)

    async def logs(self, conversation: str, *, tail: int = 100) -> tuple[str, ...]:
        """The last lines of the sandbox's output."""
        answer = await self._transport.call("conversation.logs", {"id": conversation, "tail": tail})
        return read_view(_member(answer, "lines"), tuple[str, ...])

    async def history(self, conversation: str, *, since: int = 0, limit: int = _PAGE) -> tuple[Event, ...]:
        """The conversation's recorded events after `since`, oldest first."""
        params: JsonObject = {"id": conversation, "since": since, "limit": limit}
        answer = await self._transport.call("conversation.history", params)
        return read_view(_member(answer, "events"), tuple[Event, ...])

    @asynccontextmanager
    async def subscribe(
        self, *, since: int | None = None, ids: Collection[str] | None = None, snapshot: bool = False
    ) -> AsyncIterator[EventSubscription]:
        """Subscribe to events after `since`, or from now on; of all conversations, or of some."""
        params: JsonObject = {"since": since, "ids": None if ids is None else list(ids), "snapshot": snapshot}
        async with self._feed("events.subscribe", params) as (answer, feed):
            yield EventSubscription(read_view(answer, Opened), feed)

    @asynccontextmanager
    async def follow_logs(self, conversation: str, *, tail: int = 100) -> AsyncIterator[LogLines]:
        """The last lines of the sandbox's output and then each new one."""
        params: JsonObject = {"id": conversation, "tail": tail, "follow": True}
        async with self._feed("conversation.logs", params) as (_, feed):
            yield LogLines(feed)

    async def _conversation(self, method: str, params: JsonObject) -> Conversation:
        return read_view(await self._transport.call(method, params), Conversation)

    @asynccontextmanager
    async def _feed(self, method: str, params: JsonObject) -> AsyncIterator[tuple[JsonValue, Feed]]:
        feeds: dict[str, Feed] = {}

        def opened(answer: JsonValue) -> None:
            if isinstance(answer, dict) and isinstance(name := answer.get("subscription"), str):
                feeds[name] = self._transport.open_feed(name)

        try:
            answer = await self._transport.call(method, params, opened)
            yield answer, feeds[str(_member(answer, "subscription"))]
        finally:
            for name in feeds:
                self._transport.close_feed(name)


@asynccontextmanager
async def connect(
    address: ControlAddress, token: str | None = None, *, within: float = 10.0
) -> AsyncIterator[ControlClient]:
    """Connect to the daemon; `token` is for TCP. The connection ends with the block.

    Raises:
        CannotConnect: nobody listens, the handshake is refused, or none came about within `within` seconds.
    """
    transport = Transport(address, token)
    async with beside(transport.run):
        with trio.move_on_after(within) as patience:
            await transport.connected()
        if patience.cancelled_caught:
            raise CannotConnect(f"{address} did not answer within {within:g} s")
        try:
            yield ControlClient(transport)
        finally:
            with trio.move_on_after(_GOODBYE_SECONDS, shield=True):
                await transport.close()


class _Resumption:
    """Reads events over as many connections as it takes."""

    def __init__(
        self, address: ControlAddress, token: str | None, since: int | None, ids: Collection[str] | None
    ) -> None:
        self._address = address
        self._token = token
        self._since = since
        self._ids = ids
        self._failure: ControlClientError | None = None
        self._backoff = _BACKOFF_FIRST
        self._send, self._receive = trio.open_memory_channel[Event](0)

    async def run(self) -> None:
        """Go on until an error that a new connection does not heal. Never raises but when cancelled."""
        async with self._send:
            while self._failure is None:
                await self._read_once()

    def __aiter__(self) -> "_Resumption":
        return self

    async def __anext__(self) -> Event:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise (self._failure or StopAsyncIteration) from None

    async def _read_once(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            async with (
                connect(self._address, self._token) as client,
                client.subscribe(since=self._since, ids=self._ids) as events,
            ):
                await self._forward(events)
        except (CannotConnect, ConnectionLost, TooFarBehind, RemoteError) as error:
            if _is_final(error):
                self._failure = error
                return
        await trio.sleep(self._backoff)
        self._backoff = min(self._backoff * 2, _BACKOFF_MOST)

    async def _forward(self, events: EventSubscription) -> None:
        await trio.lowlevel.checkpoint()
        if self._since is None:
            # Only then: with `since` the answer tells the last event that there is, and those before it are to come.
            self._since = events.seq
        async for event in events:
            await self._send.send(event)
            self._since = event.seq
            self._backoff = _BACKOFF_FIRST


@asynccontextmanager
async def resumable_events(
    address: ControlAddress,
    token: str | None = None,
    *,
    since: int | None = None,
    ids: Collection[str] | None = None,
) -> AsyncIterator[AsyncIterator[Event]]:
    """Events without a gap or a repeat, over as many connections as it takes.

        async with resumable_events(address) as events:
            async for event in events: ...

    The iteration raises `RemoteError` (`history_gone`) if the connection was away for too long, and
    `NotAuthenticated`; everything else it waits out, with a backoff.
    """
    resumption = _Resumption(address, token, since, ids)
    async with beside(resumption.run):
        yield resumption


def _is_final(error: ControlClientError) -> bool:
    if isinstance(error, RemoteError):
        return not (error.has(ErrorCode.SHUTTING_DOWN) or error.has(ErrorCode.BUSY))
    return isinstance(error, NotAuthenticated)


def _member(answer: JsonValue, name: str) -> JsonValue:
    if not isinstance(answer, dict) or name not in answer:
        raise UnexpectedAnswer(f"the daemon's answer has no {name!r}")
    member: JsonValue = answer[name]
    return member
