"""Streams of events: server-sent and over a WebSocket."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2 as httpx
import pytest
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, WebSocketConnection, wrap_client_stream

from supervisor.control.address import ControlAddress, TcpAddress
from supervisor.conversation.errors import HistoryGone
from supervisor.http.connection import HttpLimits
from tests.control.clients import close_code, dial, eventually, receive
from tests.control.scripted_service import make_event
from tests.http.clients import KEY, PATIENCE, Running, error_of, event_source


@pytest.fixture
def limits() -> HttpLimits:
    """Streams that say soon that they live."""
    return HttpLimits(keep_alive=0.1)


@asynccontextmanager
async def socket_of(address: ControlAddress, query: str = "", key: str = KEY) -> AsyncIterator[WebSocketConnection]:
    """An open WebSocket."""
    assert isinstance(address, TcpAddress)
    with trio.fail_after(PATIENCE):
        async with await dial(address) as stream, trio.open_nursery() as nursery:
            headers = [(b"X-API-Key", key.encode())]
            socket = await wrap_client_stream(
                nursery, stream, address.authority, f"/api/events{query}", extra_headers=headers
            )
            try:
                yield socket
            finally:
                with trio.move_on_after(1, shield=True):
                    await socket.aclose()
                nursery.cancel_scope.cancel()


async def test_stream_begins_with_where_it_begins_and_goes_on_live(running: Running) -> None:
    """First `opened`, with the snapshot that was asked for, then each event with its number."""
    async with event_source(running.address, "?snapshot=true&ids=c1&ids=c2") as events:
        opened = await anext(events)
        assert (opened.name, opened.id, opened.data["seq"]) == ("opened", 10, 10)
        assert [one["id"] for one in opened.data["conversations"]] == ["c1"]
        running.service.publish(make_event(11, data='{"to":"RUNNING"}'))
        event = await anext(events)
        assert (event.name, event.id) == ("message", 11)
        assert event.data == {
            "seq": 11,
            "at": "2025-11-22T12:30:15.000042Z",
            "conversation": "c1",
            "kind": "status",
            "data": {"to": "RUNNING"},
        }
    assert running.service.calls == [("subscribe", None, frozenset({"c1", "c2"}), True)]


async def test_stream_resumes_after_last_event_id(running: Running) -> None:
    """The header, which browsers send by themselves, goes before `since`; where it began is no event's number."""
    running.service.replay = tuple(make_event(number) for number in range(1, 6))
    running.service.last_seq = 5
    async with event_source(running.address, "?since=1", Last_Event_ID="3") as events:
        assert [(await anext(events)).id for _ in range(3)] == [3, 4, 5]
    assert running.service.calls == [("subscribe", 3, None, False)]


async def test_stream_of_a_history_that_is_gone_is_refused(client: httpx.AsyncClient, running: Running) -> None:
    """Before anything is streamed, with the oldest number that there is."""
    running.service.failure = HistoryGone("gone", 7)
    answer = await client.get("/api/events", params={"since": 1})
    assert (answer.status_code, error_of(answer)) == (410, {"code": "history_gone", "message": "gone", "oldest": 7})


async def test_stream_says_that_it_lives(running: Running) -> None:
    """A comment, which no client shows, when there was nothing else for a while."""
    async with event_source(running.address) as events:
        await anext(events)
        for _ in range(2):
            await events.comment()


async def test_stream_whose_buffer_overflowed_ends(running: Running) -> None:
    """It ends as it should, so that the client comes back with the last number that it saw."""
    async with event_source(running.address) as events:
        await anext(events)
        running.service.overflow()
        assert [event async for event in events] == []
    await eventually(lambda: running.service.closed_subscriptions == 1)


async def test_stream_with_a_bug_behind_it_ends_alone(client: httpx.AsyncClient, running: Running) -> None:
    """The stream ends, and the next request is answered."""
    async with event_source(running.address) as events:
        await anext(events)
        for subscriber in running.service.subscribers:
            subscriber.send_nowait(RuntimeError("a bug"))
        assert [event async for event in events] == []
    assert (await client.get("/conversations/c1")).status_code == 200


async def test_stream_of_a_client_that_hangs_up_is_closed(running: Running) -> None:
    """Its subscription is given back at once, not at the next event."""
    async with event_source(running.address) as events:
        await anext(events)
    await eventually(lambda: running.service.closed_subscriptions == 1)


async def test_streams_end_with_the_daemon(running: Running) -> None:
    """Both kinds are ended, in their own ways, and the server is gone."""
    async with event_source(running.address) as events, socket_of(running.address) as socket:
        await anext(events)
        await receive(socket)
        running.server.begin_shutdown()
        assert [event async for event in events] == []
        assert await close_code(socket) == 1001
    await eventually(lambda: running.server.connections == 0)


async def test_socket_tells_the_same_as_the_stream(running: Running) -> None:
    """First `opened`, then each event."""
    running.service.replay = (make_event(4), make_event(5))
    async with socket_of(running.address, "?since=4&ids=c1&snapshot=true") as socket:
        opened = (await receive(socket))["opened"]
        assert opened["seq"] == 4
        assert [one["id"] for one in opened["conversations"]] == ["c1"]
        event = (await receive(socket))["event"]
        assert (event["seq"], event["conversation"], event["kind"]) == (5, "c1", "status")
    assert running.service.calls == [("subscribe", 4, frozenset({"c1"}), True)]
    await eventually(lambda: running.service.closed_subscriptions == 1)


async def test_socket_that_talks_is_not_listened_to(running: Running) -> None:
    """Whatever a client sends is read away; its events go on."""
    async with socket_of(running.address) as socket:
        await receive(socket)
        for _ in range(50):
            await socket.send_message("anybody there?")
        running.service.publish(make_event(11))
        assert (await receive(socket))["event"]["seq"] == 11


async def test_socket_whose_buffer_overflowed_is_closed_with_1013(running: Running) -> None:
    """The code of the channel: resume with since."""
    async with socket_of(running.address) as socket:
        await receive(socket)
        running.service.overflow()
        assert await close_code(socket) == 1013


async def test_socket_with_a_bug_behind_it_is_closed_with_1011(running: Running) -> None:
    """The bug is in the log, and this connection's only."""
    async with socket_of(running.address) as socket:
        await receive(socket)
        for subscriber in running.service.subscribers:
            subscriber.send_nowait(RuntimeError("a bug"))
        assert await close_code(socket) == 1011


@pytest.mark.parametrize(
    ("query", "key", "status", "code"),
    [
        ("?since=-1", KEY, 400, "invalid_params"),
        ("?ids=-x", KEY, 400, "invalid_params"),
        ("?since=99", KEY, 410, "history_gone"),
        ("", "a-wrong-key-of-somebody", 401, "unauthorized"),
    ],
)
async def test_socket_that_may_not_be_is_refused_in_words(
    running: Running, query: str, key: str, status: int, code: str
) -> None:
    """The handshake is answered as any request would be."""
    if status == 410:
        running.service.failure = HistoryGone("gone", 7)
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectionRejected), flatten_subgroups=True) as caught:
        async with socket_of(running.address, query, key):
            raise AssertionError("it was let in")
    rejected = caught.value.exceptions[0]
    while isinstance(rejected, BaseExceptionGroup):
        rejected = rejected.exceptions[0]
    assert isinstance(rejected, ConnectionRejected)
    assert rejected.status_code == status
    assert json.loads(rejected.body or b"")["error"]["code"] == code


async def test_socket_on_another_path_is_refused(running: Running) -> None:
    """Only events come by WebSocket."""
    with pytest.RaisesGroup(pytest.RaisesExc((ConnectionRejected, ConnectionClosed)), flatten_subgroups=True):
        async with socket_of(running.address, "/nothing"):
            raise AssertionError("it was let in")
