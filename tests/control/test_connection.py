"""One connection: what it has in flight, what it sends, and the deadlines that it keeps."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import attrs
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from supervisor.control.connection import ConnectionLimits
from supervisor.control.handshake import Gate
from supervisor.control.listener import ControlOptions, ControlServer
from supervisor.control.reception import _Door
from supervisor.control.token import Token
from tests.control.clients import HANDSHAKE, PATIENCE, TOKEN, Running, ask, close_code, receive, websocket
from tests.control.conftest import parse_spec
from tests.control.scripted_service import ScriptedService

Pipe = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]
OPEN = Gate(None, frozenset(), None)
GOOD_BAD_AND_MALFORMED: tuple[object, ...] = ({"id": "c1"}, {"id": "/"}, [])
CLOSED = Gate(None, frozenset(), Token(TOKEN))


def call(number: int, method: str = "conversation.pause", **params: object) -> dict[str, object]:
    """A request, by default one that takes a task."""
    return {"jsonrpc": "2.0", "id": number, "method": method, "params": params or {"id": "c1"}}


async def ended_at(stream: Pipe) -> float:
    """Read until the server ends the stream; the time at which it did."""
    await trio.lowlevel.checkpoint()
    with suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass
    return trio.current_time()


def door(server: ControlServer, gate: Gate = OPEN) -> _Door:
    """A listener's way in, without the listener."""
    return _Door(partial(server._converse, gate))


@asynccontextmanager
async def piped(server: ControlServer, gate: Gate = OPEN) -> AsyncIterator[Pipe]:
    """The client's end of a connection without a socket, for simulated time."""
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._reception._contain, door(server, gate), far)
        yield near
        await near.aclose()


async def wrap(nursery: trio.Nursery, stream: Pipe) -> WebSocketConnection:
    """A WebSocket client over any stream: the library takes them all, its annotation only sockets."""
    socket: trio.SocketStream = stream  # type: ignore[assignment]  # see above
    return await wrap_client_stream(nursery, socket, "localhost", "/control")


@asynccontextmanager
async def piped_websocket(server: ControlServer, gate: Gate = OPEN) -> AsyncIterator[WebSocketConnection]:
    """A WebSocket client on simulated time."""
    async with piped(server, gate) as stream, trio.open_nursery() as nursery:
        yield await wrap(nursery, stream)
        nursery.cancel_scope.cancel()


async def test_handshake_that_takes_too_long_is_dropped(server: ControlServer, autojump_clock: MockClock) -> None:
    """Nothing sent, or one byte now and then: 5 s."""
    async with piped(server) as stream:
        await stream.send_all(b"GET")
        assert await ended_at(stream) == pytest.approx(5.0, abs=0.1)


async def test_client_that_does_not_authenticate_in_time_is_closed_with_4401(
    server: ControlServer, autojump_clock: MockClock
) -> None:
    """5 s after the handshake."""
    async with piped_websocket(server, CLOSED) as client:
        assert await close_code(client) == 4401
        assert trio.current_time() == pytest.approx(5.0, abs=0.1)


async def test_half_open_connection_ends(server: ControlServer, autojump_clock: MockClock) -> None:
    """Nothing comes from the other side any more: a ping after 30 s, dropped 20 s later."""
    async with piped(server) as stream:
        await stream.send_all(HANDSHAKE + b"\r\n")
        assert await ended_at(stream) == pytest.approx(50.0, abs=3.0)


async def test_idle_connection_that_answers_pings_stays(server: ControlServer, autojump_clock: MockClock) -> None:
    """For as long as it likes."""
    async with piped_websocket(server) as client:
        await trio.sleep(1000)
        assert "result" in await ask(client, "daemon.info")


async def test_client_that_does_not_read_is_dropped(
    server: ControlServer, service: ScriptedService, autojump_clock: MockClock
) -> None:
    """One frame that takes longer than 10 s to send ends the connection, however it was sent."""
    for method in ("conversation.pause", "conversation.get"):
        near, far = memory_stream_pair()
        blocked = Blocking(far)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server._reception._contain, door(server, OPEN), blocked)
            client = await wrap(nursery, near)
            began = trio.current_time()
            blocked.blocks = True
            await client.send_message(json.dumps(call(1, method)))
            with pytest.raises(ConnectionClosed):
                await client.get_message()
            assert trio.current_time() - began == pytest.approx(10.0, abs=1.5)
            await near.aclose()
            nursery.cancel_scope.cancel()


class Blocking(trio.abc.HalfCloseableStream):
    """A stream whose writes can be made to wait for ever, or to fail after some."""

    def __init__(self, stream: Pipe) -> None:
        self._stream = stream
        self._closed = trio.Event()
        self.blocks = False
        self.working_writes = 10**6

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send, wait or fail."""
        if self.blocks:
            await self._closed.wait()
            raise trio.ClosedResourceError
        if not self.working_writes:
            raise trio.BrokenResourceError
        self.working_writes -= 1
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Pass on."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Pass on."""
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        """Pass on."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        """Close, and let the sender go that waits."""
        self._closed.set()
        await self._stream.aclose()


async def test_close_of_a_client_that_does_not_answer_is_bounded(
    server: ControlServer, autojump_clock: MockClock
) -> None:
    """The close frame is sent, and after `close` seconds the stream is dropped."""
    async with piped(server) as stream:
        await stream.send_all(HANDSHAKE + b"\r\n")
        await wait_all_tasks_blocked()
        server.begin_shutdown()
        assert await ended_at(stream) == pytest.approx(0.5, abs=0.1)


async def test_client_that_arrives_during_the_shutdown_is_not_served(server: ControlServer) -> None:
    """Neither in the middle of its handshake nor before it."""
    async with piped(server) as stream:
        await wait_all_tasks_blocked()
        server.begin_shutdown()
        await ended_at(stream)
    assert server.connections == 0


async def test_commands_of_one_connection_run_at_once(running: Running) -> None:
    """One that waits holds up no other."""
    gate = running.service.gate = trio.Event()
    async with websocket(running.unix) as client:
        await client.send_message(json.dumps(call(1)))
        await running.service.waiting.wait()
        running.service.gate = None
        assert (await ask(client, "conversation.resume", {"id": "c1"}, 2))["id"] == 2
        gate.set()
        assert (await receive(client))["id"] == 1


@pytest.fixture
def limits() -> ConnectionLimits:
    """Small ones."""
    return ConnectionLimits(in_flight=3, outbox_frames=4, linger=0.1, close=0.5)


async def test_requests_beyond_those_in_flight_are_busy(running: Running) -> None:
    """At once, and those in flight go on; a batch is busy as a whole, a notification silently."""
    running.service.gate = trio.Event()
    async with websocket(running.unix) as client:
        for number in (1, 2, 3):
            await client.send_message(json.dumps(call(number)))
        await client.send_message(json.dumps({"jsonrpc": "2.0", "method": "conversation.pause", "params": {"id": "c"}}))
        await client.send_message(json.dumps([call(4), {}]))
        batch = await receive(client)
        assert [one["error"]["code"] for one in batch] == [-32000, -32600]
        await client.send_message(json.dumps(call(5)))
        refused = await receive(client)
        assert (refused["id"], refused["error"]["data"]["code"]) == (5, "busy")
        running.service.gate.set()
        assert {(await receive(client))["id"] for _ in range(3)} == {1, 2, 3}
        running.service.gate = None
        assert "result" in await ask(client, "conversation.pause", {"id": "c1"}, 6)


async def test_batch_is_answered_in_one_frame(running: Running) -> None:
    """Each item by its own result or error, notifications not at all."""
    async with websocket(running.unix) as client:
        notification = {"jsonrpc": "2.0", "method": "conversation.resume", "params": {"id": "c1"}}
        await client.send_message(json.dumps([call(1), 5, notification]))
        answers = await receive(client)
        assert {one["id"]: "result" in one for one in answers} == {1: True, None: False}
        await client.send_message(json.dumps([notification]))
        assert "result" in await ask(client, "daemon.info")
    assert [name for name, *_ in running.service.calls].count("resume") == 2


async def test_notifications_are_carried_out_and_never_answered(running: Running) -> None:
    """Not even when they fail, are unknown or malformed."""
    async with websocket(running.unix) as client:
        for method in ("conversation.get", "conversation.pause", "no.such"):
            for params in GOOD_BAD_AND_MALFORMED:
                await client.send_message(json.dumps({"jsonrpc": "2.0", "method": method, "params": params}))
                assert "result" in await ask(client, "daemon.info")
    assert [name for name, *_ in running.service.calls if name != "info"] == ["get", "pause"]


async def test_client_that_hangs_up_ends_the_waiting_for_its_commands(running: Running) -> None:
    """Only the waiting is cancelled; what the service makes of it is the service's business."""
    running.service.gate = trio.Event()
    async with websocket(running.unix) as client:
        await client.send_message(json.dumps(call(1)))
        await running.service.waiting.wait()
    with trio.fail_after(PATIENCE):
        await running.service.abandoned.wait()


async def test_client_that_asks_without_reading_is_closed_with_1013(
    server: ControlServer, service: ScriptedService, autojump_clock: MockClock
) -> None:
    """Its answers are bounded: when even the refusals find no room, it is too slow."""
    near, far = memory_stream_pair()
    blocked = Blocking(far)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._reception._contain, door(server, OPEN), blocked)
        client = await wrap(nursery, near)
        blocked.blocks = True
        for number in range(20):
            await client.send_message(json.dumps(call(number)))
        with trio.move_on_after(1):
            await trio.sleep_forever()
        (connection,) = server._connections
        closing = connection._outbox.take()
        assert getattr(closing, "code", None) == 1013
        nursery.cancel_scope.cancel()


async def test_answers_wait_for_room_rather_than_get_lost(running: Running, service: ScriptedService) -> None:
    """Far more requests than the outbox holds, from a client that reads only afterwards."""
    async with websocket(running.unix) as client, trio.open_nursery() as nursery:
        count = 200

        async def send() -> None:
            await trio.lowlevel.checkpoint()
            for number in range(count):
                await client.send_message(json.dumps(call(number, "conversation.get")))

        nursery.start_soon(send)
        assert [(await receive(client))["id"] for _ in range(count)] == list(range(count))


async def test_library_that_never_upgrades_is_not_waited_for(
    server: ControlServer, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Should it ever refuse a request of our own making."""
    monkeypatch.setattr("supervisor.control.handshake.Admission.library_request", lambda _: b"POST / HTTP/1.1\r\n\r\n")
    async with piped(server) as stream:
        await stream.send_all(HANDSHAKE + b"\r\n")
        await ended_at(stream)
    assert trio.current_time() == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize("working_writes", [0, 1])
async def test_client_that_vanishes_while_it_is_sent_to_is_let_go_at_once(
    server: ControlServer, service: ScriptedService, autojump_clock: MockClock, working_writes: int
) -> None:
    """Whether that was the answer to its handshake or to a command."""
    near, far = memory_stream_pair()
    stream = Blocking(far)
    stream.working_writes = working_writes
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._reception._contain, door(server, OPEN), stream)
        request = json.dumps(call(1)).encode()
        frame = b"\x81" + bytes([0x80 | len(request)]) + b"\0\0\0\0" + request
        await near.send_all(HANDSHAKE + b"\r\n" + frame)
    assert trio.current_time() < 2
    await near.aclose()


async def test_client_whose_task_begins_after_the_end_did_is_not_served(server: ControlServer) -> None:
    """It was accepted in the very moment of the shutdown."""
    near, far = memory_stream_pair()
    server.begin_shutdown()
    with trio.fail_after(PATIENCE):
        await server._reception._shelter(door(server), far)
        assert await near.receive_some() == b""
        await near.aclose()


def test_options_have_the_protocols_limits() -> None:
    """Those that clients may rely on."""
    standard = ConnectionLimits()
    assert (standard.message_size, standard.authentication, standard.in_flight) == (2**20, 5.0, 64)
    assert (
        ControlServer(ScriptedService(), parse_spec, attrs.evolve(ControlOptions(), limits=standard)).connections == 0
    )
