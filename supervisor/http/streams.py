"""What happens, as it happens: server-sent events and a WebSocket at `/api/events`, over the channel's subscription.

A stream waits for its reader, and the service's bounded buffer for it overflows when that takes too long: then it ends
(a WebSocket with 1013), and the reader comes back with the last number that it saw. Both begin by telling where they
do: `opened` has the `seq` of `events.subscribe`, and its snapshot if one was asked for.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Annotated, Final, TypeAlias

import attrs
import structlog
import trio
from fastapi import APIRouter, Header, Query
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from supervisor.control import messages, views
from supervisor.control.messages import MAX_IDS
from supervisor.control.outbox import Closing
from supervisor.control.service import ConversationService, SlowSubscriber, Subscription
from supervisor.control.subscriptions import FAILED, GOING_AWAY, TOO_SLOW
from supervisor.conversation.ids import ConversationId
from supervisor.http.connection import ClientGone
from supervisor.http.failures import answer_to
from supervisor.http.models import MAX_SEQUENCE, Id
from supervisor.http.openapi import refusals

_PATH: Final = "/api/events"
_QUIET: Final = b":\n\n"
_log: Final = structlog.stdlib.get_logger("supervisor.http")

_Since: TypeAlias = Annotated[
    int | None, Query(ge=0, le=MAX_SEQUENCE, description="Tell everything after this event first.")
]
_Ids: TypeAlias = Annotated[list[Id] | None, Query(max_length=MAX_IDS, description="Of these conversations only.")]
_Snapshot: TypeAlias = Annotated[bool, Query(description="Begin with the conversations as they are.")]
_LastEventId: TypeAlias = Annotated[
    int | None, Header(alias="Last-Event-ID", ge=0, le=MAX_SEQUENCE, description="Goes before `since`.")
]


@attrs.frozen
class _Lifetime:
    """What ends a stream besides its client, and how often it says something."""

    ending: trio.Event
    keep_alive: float


class EventRoutes:
    """The streams over one service. All end when `ending` is set; `keep_alive` bounds their silence, in seconds."""

    def __init__(self, service: ConversationService, ending: trio.Event, keep_alive: float) -> None:
        self._service = service
        self._lifetime = _Lifetime(ending, keep_alive)

    def router(self) -> APIRouter:
        """Both routes, which share a path."""
        router = APIRouter(tags=["events"])
        content = {"text/event-stream": {"schema": {"type": "string"}}}
        answers = {**refusals(410), 200: {"content": content, "description": "Server-sent events."}}
        router.add_api_route(
            _PATH, self.stream, methods=["GET"], responses=answers, response_class=Response, response_model=None
        )
        router.add_api_websocket_route(_PATH, self.socket)
        return router

    async def stream(
        self,
        since: _Since = None,
        ids: _Ids = None,
        snapshot: _Snapshot = False,
        last_event_id: _LastEventId = None,
    ) -> Response:
        """Server-sent events; a client that comes back with `Last-Event-ID` misses nothing and sees nothing twice."""
        await trio.lowlevel.checkpoint()
        wanted = _wanted(since if last_event_id is None else last_event_id, ids, snapshot=snapshot)
        return _EventStream(self._service, wanted, self._lifetime)

    async def socket(
        self, socket: WebSocket, since: _Since = None, ids: _Ids = None, snapshot: _Snapshot = False
    ) -> None:
        """The same as frames: first `{"opened": {...}}`, then `{"event": {...}}` for each."""
        wanted = _wanted(since, ids, snapshot=snapshot)
        async with _subscribed(self._service, wanted) as subscription:
            await socket.accept()
            await socket.send_text(f'{{"opened":{await _opened(subscription)}}}')
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, partial(_gone, socket.receive), nursery.cancel_scope)
                closing = await _until_the_end(self._lifetime.ending, partial(_send_frames, subscription, socket))
                await socket.close(closing.code, closing.reason)
                nursery.cancel_scope.cancel()


class _EventStream(Response):
    """Server-sent events, until the client goes away or the stream ends."""

    media_type = "text/event-stream"

    def __init__(self, service: ConversationService, wanted: messages.Subscribe, lifetime: _Lifetime) -> None:
        super().__init__(headers={"Cache-Control": "no-store"})
        del self.headers["Content-Length"]
        self._service = service
        self._wanted = wanted
        self._lifetime = lifetime
        self._quiet = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Subscribe, which may be refused, and only then begin to answer."""
        del scope
        async with _subscribed(self._service, self._wanted) as subscription:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_after, partial(_gone, receive), nursery.cancel_scope)
                nursery.start_soon(self._keep_alive, send)
                await _until_the_end(self._lifetime.ending, partial(self._write, subscription, send))
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                nursery.cancel_scope.cancel()

    async def _write(self, subscription: Subscription, send: Send) -> None:
        first = subscription.seq if self._wanted.since is None else self._wanted.since
        await self._say(send, f"event: opened\nid: {first}\ndata: {await _opened(subscription)}\n\n".encode())
        async for event in subscription:
            await self._say(send, f"id: {event.seq}\ndata: {views.encode_event(event)}\n\n".encode())

    async def _say(self, send: Send, text: bytes) -> None:
        self._quiet = False
        await send({"type": "http.response.body", "body": text, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        while True:
            await trio.sleep(self._lifetime.keep_alive)
            if self._quiet:
                await self._say(send, _QUIET)
            self._quiet = True


async def _send_frames(subscription: Subscription, socket: WebSocket) -> None:
    await trio.lowlevel.checkpoint()
    async for event in subscription:
        await socket.send_text(f'{{"event":{views.encode_event(event)}}}')


async def _until_the_end(ending: trio.Event, pump: Callable[[], Awaitable[None]]) -> Closing:
    """Move events until the daemon ends or the stream does; says which, as a WebSocket closes."""
    closing = GOING_AWAY
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_cancel_after, ending.wait, nursery.cancel_scope)
        try:
            await pump()
        except SlowSubscriber:
            _log.warning("http.consumer_too_slow")
            closing = TOO_SLOW
        except (ClientGone, WebSocketDisconnect):
            raise
        except Exception as error:  # noqa: BLE001 - the boundary: a bug in the events is this stream's only
            answer_to(error)
            closing = FAILED
        nursery.cancel_scope.cancel()
    return closing


async def _cancel_after(wait: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
    await wait()
    scope.cancel()


async def _gone(receive: Receive) -> None:
    """Wait until the client is gone; what it says before means nothing here."""
    while not (await receive())["type"].endswith("disconnect"):
        pass


def _wanted(since: int | None, ids: list[str] | None, *, snapshot: bool) -> messages.Subscribe:
    return messages.structure_params({"since": since, "ids": ids, "snapshot": snapshot}, messages.Subscribe)


def _subscribed(service: ConversationService, wanted: messages.Subscribe) -> AbstractAsyncContextManager[Subscription]:
    ids: frozenset[ConversationId] | None = None if wanted.ids is None else frozenset(wanted.ids)
    return service.subscribe(wanted.since, ids, snapshot=wanted.snapshot)


async def _opened(subscription: Subscription) -> str:
    await trio.lowlevel.checkpoint()
    records = subscription.conversations
    snapshot = "" if records is None else f',"conversations":{await views.encode_snapshot(records)}'
    return f'{{"seq":{subscription.seq}{snapshot}}}'
