"""The server: who comes and goes, and how it ends."""

from contextlib import suppress
from pathlib import Path

import attrs
import httpx2 as httpx
import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from supervisor.control.address import TcpAddress, UnixAddress
from supervisor.control.sockets import CannotListen
from supervisor.conversation.lifecycle import Status
from supervisor.http.connection import HttpLimits
from supervisor.http.server import HttpOptions, HttpServer
from tests.control.clients import dial, eventually
from tests.control.conftest import parse_spec
from tests.control.scripted_service import ScriptedService, make_event
from tests.http.clients import KEY, PATIENCE, Running, event_source, http_client

UPGRADE = (
    b"GET /api/events HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-API-Key: "
    + KEY.encode()
    + b"\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n%s\r\n"
)


@pytest.fixture
def limits() -> HttpLimits:
    """Little patience."""
    return HttpLimits(idle=0.3, send=0.3, linger=0.2)


def host(running: Running) -> bytes:
    """The `Host` of the server's address."""
    assert isinstance(running.address, TcpAddress)
    return running.address.authority.encode()


def get(running: Running, *, target: bytes = b"/conversations/c1") -> bytes:
    """A request as bytes."""
    return b"GET %s HTTP/1.1\r\nHost: %s\r\nX-API-Key: %s\r\n\r\n" % (target, host(running), KEY.encode())


async def talk(running: Running, *pieces: bytes) -> bytes:
    """Send pieces, and read until the server ends the connection."""
    with trio.fail_after(PATIENCE):
        async with await dial(running.address) as stream:
            answer = b""
            try:
                for piece in pieces:
                    await stream.send_all(piece)
                while chunk := await stream.receive_some():
                    answer += chunk
            except trio.BrokenResourceError:
                pass
            return answer


async def still_serves(running: Running) -> bool:
    """Whether a well-behaved client is served."""
    async with http_client(running.address) as client:
        return (await client.get("/conversations/c1")).status_code == 200


async def test_unix_socket_serves_any_host_and_needs_a_key(
    nursery: trio.Nursery, tmp_path: Path, service: ScriptedService, options: HttpOptions
) -> None:
    """It has the mode of the control socket; a key is needed all the same; it is gone with the server."""
    server, socket = HttpServer(service, parse_spec, options), UnixAddress(tmp_path / "run" / "http.sock")
    assert await nursery.start(server.run, socket) == socket
    assert socket.path.stat().st_mode & 0o777 == 0o660
    async with http_client(socket) as client:
        assert (await client.get("/conversations/c1", headers={"Host": "any.example"})).status_code == 200
    async with http_client(socket, None) as client:
        assert (await client.get("/conversations/c1")).status_code == 401
    server.begin_shutdown()
    await eventually(lambda: not socket.path.exists())


async def test_port_that_is_taken_is_told(running: Running, service: ScriptedService, options: HttpOptions) -> None:
    """The error of the control channel, which the command line knows."""
    with pytest.raises(CannotListen, match="Address already in use"):
        await HttpServer(service, parse_spec, options).run(running.address)


async def test_client_that_hangs_up_cancels_nothing(running: Running) -> None:
    """Its command is waited for to its end, and the connection is given back then."""
    running.service.gate = trio.Event()
    with trio.fail_after(PATIENCE):
        async with await dial(running.address) as stream:
            await stream.send_all(
                b"POST /conversations/c1/pause HTTP/1.1\r\nHost: %s\r\nX-API-Key: %s\r\n\r\n"
                % (host(running), KEY.encode())
            )
            await running.service.waiting.wait()
        assert await still_serves_beside(running)
        assert running.server.connections >= 1
        assert not running.service.abandoned.is_set()
        running.service.gate.set()
    await eventually(lambda: running.server.connections == 0)
    assert not running.service.abandoned.is_set()


async def still_serves_beside(running: Running) -> bool:
    """Whether others are answered while a command waits."""
    async with http_client(running.address) as client:
        return (await client.get("/openapi.json")).status_code == 200


async def test_many_requests_go_over_one_connection(running: Running) -> None:
    """Also when they are all sent at once."""
    answer = await talk(running, get(running) * 5)
    assert answer.count(b"HTTP/1.1 200 ") == 5


async def test_client_that_floods_a_socket_that_ends_is_let_go(running: Running) -> None:
    """What it still sends is read away, so that neither it nor the server waits for the other."""
    with trio.fail_after(PATIENCE):
        async with await dial(running.address) as stream:
            await stream.send_all(UPGRADE % (host(running), b""))
            await stream.receive_some()
            running.service.overflow()
            with suppress(trio.BrokenResourceError):
                for _ in range(2000):
                    await stream.send_all(b"\x81\x85\0\0\0\0hello" * 50)
    await eventually(lambda: running.server.connections == 0)


async def test_client_that_says_nothing_is_let_go(running: Running) -> None:
    """Neither silence nor a head that never ends keeps a connection."""
    assert await talk(running) == b""
    assert await talk(running, b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""
    await eventually(lambda: running.server.connections == 0)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\r\nX-API-Key: \xff\r\n\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"x" * 100_000,
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nHTTP2-Settings: AA\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT evil.example:80 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    ],
)
async def test_garbage_ends_at_most_its_own_connection(running: Running, garbage: bytes) -> None:
    """It is refused or let go, nothing is switched to, and the others are served."""
    answer = await talk(running, garbage)
    assert answer[:10] in (b"", b"HTTP/1.1 4")
    assert running.service.calls == []
    assert await still_serves(running)


@pytest.mark.parametrize(
    "frames",
    [
        b"\xff" * 100,
        b"\x81\x05hello",
        b"\x81\xff" + b"\xff" * 8,
        b"\xc1\x85\0\0\0\0hello",
        b"\x89\x80\0\0\0\0" * 1000,
        b"\x88\x80\0\0\0\0\x81\x85\0\0\0\0hello",
    ],
)
async def test_frames_that_are_none_end_at_most_their_own_connection(running: Running, frames: bytes) -> None:
    """Whatever comes after the upgrade, and whenever."""
    with trio.fail_after(PATIENCE):
        async with await dial(running.address) as stream:
            await stream.send_all(UPGRADE % (host(running), b""))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
            await stream.send_all(frames)
    await eventually(lambda: running.server.connections == 0)
    assert await still_serves(running)
    assert running.service.closed_subscriptions == 1


async def test_frames_before_the_handshake_is_answered_are_no_incident(running: Running) -> None:
    """They are the client's fault, and its connection's end."""
    with capture_logs() as logs:
        answer = await talk(running, UPGRADE % (host(running), b"") + b"\x81\x85\0\0\0\0hello")
    assert answer[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 101")
    assert await still_serves(running)
    assert not any(line["event"] == "http.request_failed" for line in logs)


async def test_message_without_an_end_is_not_kept(running: Running) -> None:
    """Who sends more than the limit in one message is let go, with 1009, and not listened to any longer."""
    piece = b"\x01\xff" + (2**20).to_bytes(8, "big") + b"\0\0\0\0" + b"x" * 2**20
    with trio.fail_after(PATIENCE):
        async with await dial(running.address) as stream:
            await stream.send_all(UPGRADE % (host(running), b""))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")
            await stream.send_all(piece + b"\x00\x81\0\0\0\0x")
            answer = b""
            while chunk := await stream.receive_some():
                answer += chunk
    assert answer.endswith(b"\x88\x02" + (1009).to_bytes(2, "big"))
    await eventually(lambda: running.server.connections == 0)
    assert running.service.closed_subscriptions == 1


async def test_no_compression_is_agreed_on(running: Running) -> None:
    """A compressed frame may hold a bomb."""
    with trio.fail_after(PATIENCE):
        async with await dial(running.address) as stream:
            offer = b"Sec-WebSocket-Extensions: permessage-deflate\r\n"
            await stream.send_all(UPGRADE % (host(running), offer))
            assert b"sec-websocket-extensions" not in (await stream.receive_some()).lower()


async def test_reader_that_does_not_read_is_let_go(running: Running) -> None:
    """Its stream ends when a piece has not gone out in time, and its subscription with it."""
    with trio.fail_after(PATIENCE):
        async with event_source(running.address) as events:
            await anext(events)
            for number in range(11, 200):
                running.service.publish(make_event(number, data=f'"{"x" * 100_000}"'))
            await eventually(lambda: running.service.closed_subscriptions == 1)
    await eventually(lambda: running.server.connections == 0)
    assert await still_serves(running)


async def test_shutdown_lets_what_is_being_answered_end(running: Running) -> None:
    """A command that is under way is answered; the connection ends then, and new ones are not accepted."""
    running.service.gate = trio.Event()
    answers: list[httpx.Response] = []

    async def pause() -> None:
        async with http_client(running.address) as client:
            answers.append(await client.post("/conversations/c1/pause"))

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pause)
            await running.service.waiting.wait()
            running.server.begin_shutdown()
            running.server.begin_shutdown()
            running.service.gate.set()
    assert [answer.status_code for answer in answers] == [200]
    with pytest.raises(OSError, match=r"refused|connect"):
        await dial(running.address)


async def test_shutdown_does_not_wait_for_ever(service: ScriptedService, options: HttpOptions) -> None:
    """What is not answered in time is cut, a reader that does not read among it; `run` returns."""
    service.gate = trio.Event()
    server = HttpServer(service, parse_spec, HttpOptions(options.keys, shutdown=0.3))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            address = await nursery.start(server.run, TcpAddress("127.0.0.1", 0))
            running = Running(server, service, address)
            async with await dial(address) as stream:
                await stream.send_all(get(running))
                await service.waiting.wait()
                server.begin_shutdown()
                await eventually(lambda: server.connections == 0)


async def test_cancelling_ends_it_in_the_same_two_phases(service: ScriptedService, options: HttpOptions) -> None:
    """Idle connections are closed, and the port is free."""
    server = HttpServer(service, parse_spec, options)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            address = await nursery.start(server.run, TcpAddress("127.0.0.1", 0))
            async with await dial(address) as stream:
                await stream.send_all(get(Running(server, service, address)))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
                nursery.cancel_scope.cancel()
    assert server.connections == 0


async def test_connections_beyond_the_limit_are_refused(service: ScriptedService, options: HttpOptions) -> None:
    """In words at first, and without any if it is a crowd; who is in is served."""
    server = HttpServer(service, parse_spec, HttpOptions(options.keys, max_connections=1))
    async with trio.open_nursery() as nursery:
        address = await nursery.start(server.run, TcpAddress("127.0.0.1", 0))
        running = Running(server, service, address)
        async with await dial(address) as stream:
            await eventually(lambda: server.connections == 1)
            assert (await talk(running)).startswith(b"HTTP/1.1 503 ")
            crowd = [await dial(address) for _ in range(40)]
            for one in crowd:
                await one.aclose()
            await eventually(lambda: server.connections == 1)
            await stream.send_all(get(running))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("after", [b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n", b"\r\nGET / HTTP/1.1\r\n"])
async def test_stream_is_let_go_though_its_client_asked_for_more_than_it(running: Running, after: bytes) -> None:
    """An upgrade that is not made, as Java's and curl's clients ask for, or a request that came before its turn."""
    ask = b"GET /api/events HTTP/1.1\r\nHost: %s\r\nX-API-Key: %s\r\n" % (host(running), KEY.encode())
    with trio.fail_after(PATIENCE):
        async with await dial(running.address) as stream:
            await stream.send_all(ask + after)
            await stream.receive_some()
        for number in range(11, 16):  # what is sent to somebody who is gone fails at the second time
            running.service.publish(make_event(number))
            await trio.testing.wait_all_tasks_blocked(0.01)
    await eventually(lambda: running.server.connections == 0)
    assert running.service.closed_subscriptions == 1


async def test_socket_that_floods_and_does_not_read_is_let_go(running: Running) -> None:
    """Before anybody listens to it, too: the snapshot is still on its way."""
    running.service.record = attrs.evolve(running.service.record, labels={"title": "x" * 30_000_000})
    with trio.fail_after(PATIENCE):
        async with await dial(running.address) as stream:
            upgrade = UPGRADE % (host(running), b"")
            await stream.send_all(upgrade.replace(b"/api/events", b"/api/events?snapshot=true"))
            await stream.receive_some(10)
            with suppress(trio.BrokenResourceError):
                await stream.send_all(b"\x81\x85\0\0\0\0hello" * 1000)
            await eventually(lambda: running.service.closed_subscriptions == 1)
    await eventually(lambda: running.server.connections == 0)


async def test_request_before_its_turn_does_not_hold_up_the_end(running: Running) -> None:
    """The first is answered, and the connection ends without the cut that nobody can be kept from."""
    running.service.gate = trio.Event()
    with trio.fail_after(PATIENCE):
        async with await dial(running.address) as stream:
            await stream.send_all(get(running) * 2)
            await running.service.waiting.wait()
            running.server.begin_shutdown()
            (shelter,) = running.server._reception._shelters
            await trio.testing.wait_all_tasks_blocked()
            running.service.gate.set()
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
            await eventually(lambda: running.server.connections == 0)
    assert not shelter.cancelled_caught


async def test_unanswered_statuses_are_none(client: httpx.AsyncClient, running: Running) -> None:
    """HEAD of what can be got is answered without a body, or refused; never left open."""
    answer = await client.head("/conversations/c1")
    assert answer.status_code in (200, 405)
    assert running.service.record.status is Status.RUNNING
