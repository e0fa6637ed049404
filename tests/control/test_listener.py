"""The server over real sockets: each test is named for the harm that it rules out."""

import json
import resource
import socket
import struct

import attrs
import pytest
import trio
from trio_websocket import ConnectionRejected

from supervisor.control.address import TcpAddress, UnixAddress
from supervisor.control.connection import ConnectionLimits
from supervisor.control.handshake import Admission
from supervisor.control.listener import ControlOptions, ControlServer
from supervisor.control.sockets import CannotListen
from supervisor.control.token import Token
from tests.control.clients import (
    HANDSHAKE,
    PATIENCE,
    TOKEN,
    Running,
    ask,
    close_code,
    dial,
    eventually,
    exchange,
    receive,
    still_serves,
    websocket,
)
from tests.control.conftest import parse_spec
from tests.control.scripted_service import ScriptedService

MASKED_TEXT = b"\x81\x82\x00\x00\x00\x00{}"
MASKED_PING = b"\x89\x80\x00\x00\x00\x00"
MASKED_CLOSE = b"\x88\x82\x00\x00\x00\x00\x03\xe8"


@pytest.fixture
def limits() -> ConnectionLimits:
    """A short patience with clients that do not answer the close frame."""
    return ConnectionLimits(close=0.2)


def status_of(answer: bytes) -> int:
    """The status of an HTTP answer."""
    return int(answer.split(b" ", 2)[1])


async def handshake(running: Running) -> trio.SocketStream:
    """A bare socket that has been upgraded, for sending frames by hand."""
    stream = await dial(running.unix)
    await stream.send_all(HANDSHAKE + b"\r\n")
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await stream.receive_some()
    assert status_of(answer) == 101
    return stream


async def read_to_end(stream: trio.SocketStream) -> bytes:
    """All that comes until the server ends the connection, by whatever means."""
    received = b""
    async with stream:
        try:
            while chunk := await stream.receive_some():
                received += chunk
        except trio.BrokenResourceError:
            pass
    return received


async def test_any_websocket_client_is_served_on_both_sockets(running: Running) -> None:
    """Unix without a token, TCP with one in the header; the subprotocol is chosen when offered."""
    async with websocket(running.unix) as client:
        assert client.subprotocol is None
        assert (await ask(client, "daemon.info"))["result"]["protocol"] == "conversation-control.v1"
        assert (await ask(client, "authenticate", {"token": "whatever"}))["result"] == {}
    async with websocket(running.tcp, token=TOKEN, subprotocols=("x", "conversation-control.v1")) as client:
        assert client.subprotocol == "conversation-control.v1"
        assert (await ask(client, "conversation.get", {"id": "c1"}))["result"]["id"] == "c1"


async def test_normal_close_does_not_end_the_server(running: Running) -> None:
    """With the library's own server, `ConnectionClosed` left the handler and ended everything."""
    async with websocket(running.unix) as client:
        await client.aclose(1000)
    assert await still_serves(running)


@pytest.mark.parametrize(
    "header", [b"Host: \xff\xfe", b"Sec-WebSocket-Protocol: \xe9", b"Connection: \xe9, Upgrade", b"X: \xe9"]
)
async def test_headers_that_are_not_ascii_do_not_end_the_server(running: Running, header: bytes) -> None:
    """They were raised in the library's reader, before any handler."""
    request = (
        HANDSHAKE.replace(b"Host: localhost", header) if header.startswith(b"Host") else HANDSHAKE + header + b"\r\n"
    )
    with trio.fail_after(PATIENCE):
        async with await dial(running.unix) as stream:
            await stream.send_all(request + b"\r\n")
            assert await stream.receive_some()
    assert await still_serves(running)


async def test_ping_during_the_close_does_not_end_the_server(running: Running) -> None:
    """Answering it is an error of the library's, in its reader."""
    with trio.fail_after(PATIENCE):
        async with await handshake(running) as stream:
            await stream.send_all(MASKED_CLOSE + MASKED_PING + MASKED_PING)
            assert (await read_to_end(stream)).startswith(b"\x88")
        async with await handshake(running) as stream:
            running.server.begin_shutdown()
            assert b"\x03\xe9" in await stream.receive_some()
            await stream.send_all(MASKED_PING)
            await read_to_end(stream)
    await eventually(lambda: not running.unix.path.exists())


@pytest.mark.parametrize(
    "junk",
    [
        b"\xff\xff\xff\xff",
        b"\x81\x02{}",
        b"\x81\x81\x00\x00\x00\x00\xff",
        b"\x89\xff" + b"\xff" * 12,
        b"\x83\x80\x00\x00\x00\x00",
    ],
)
async def test_frames_that_break_the_protocol_end_only_their_connection(running: Running, junk: bytes) -> None:
    """Unmasked, not UTF-8, reserved, a ping that is too long."""
    with trio.fail_after(PATIENCE):
        async with await handshake(running) as stream:
            await stream.send_all(junk)
            await read_to_end(stream)
    assert await still_serves(running)


async def test_client_that_vanishes_ends_only_its_connection(running: Running) -> None:
    """By a reset in the middle of a frame, during the handshake, or right after connecting."""
    for beginning in (b"", b"GET /con", HANDSHAKE + b"\r\n" + MASKED_TEXT[:3]):
        stream = await dial(running.tcp)
        if beginning:
            await stream.send_all(beginning)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await trio.aclose_forcefully(stream)
    assert await still_serves(running)


async def test_plain_get_is_answered_at_once_and_lingers_not(running: Running) -> None:
    """The library answers it without a word and keeps its task for a minute."""
    answer = await exchange(running.unix, b"GET /control HTTP/1.1\r\nHost: x\r\n\r\n")
    assert status_of(answer) == 426
    assert b"WebSocket" in answer
    await eventually(lambda: not running.server.connections)


@pytest.mark.parametrize(
    ("request_line", "status"),
    [(b"GET /other HTTP/1.1", 404), (b"POST /control HTTP/1.1", 426), (b"nonsense", 400)],
)
async def test_requests_that_are_no_handshakes_are_answered(running: Running, request_line: bytes, status: int) -> None:
    """Each by its status, with a body that is still being sent read away so that the answer arrives."""
    body = b"x" * 100_000
    head = b"\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    assert status_of(await exchange(running.unix, request_line + head + body)) == status


async def test_foreign_pages_are_refused(running: Running) -> None:
    """A page in a browser reaches loopback ports: its Origin, or the Host it was rebound to, gives it away."""
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectionRejected, check=lambda error: error.status_code == 403)):
        async with websocket(running.tcp, token=TOKEN, headers=((b"Origin", b"https://evil.example"),)):
            raise AssertionError("it is in")
    async with websocket(running.tcp, token=TOKEN, headers=((b"Origin", b"https://good.example"),)) as client:
        assert "result" in await ask(client, "daemon.info")
    rebound = HANDSHAKE.replace(b"localhost", b"evil.example") + b"Authorization: Bearer the-token\r\n\r\n"
    assert status_of(await exchange(running.tcp, rebound)) == 403


async def test_unknown_subprotocol_is_refused(running: Running) -> None:
    """Only unknown ones offered: 400."""
    answer = await exchange(running.unix, HANDSHAKE + b"Sec-WebSocket-Protocol: graphql\r\n\r\n")
    assert status_of(answer) == 400


@pytest.mark.parametrize("token", ["wrong", "tökén"])
async def test_wrong_token_in_the_header_is_closed_with_4401(running: Running, token: str) -> None:
    """After the handshake, so that every client can see the code."""
    async with websocket(running.tcp, token=token) as client:
        assert await close_code(client) == 4401
    assert running.service.calls == []


async def test_token_may_come_as_the_first_message(running: Running) -> None:
    """Answered like any request."""
    async with websocket(running.tcp) as client:
        assert (await ask(client, "authenticate", {"token": TOKEN}))["result"] == {}
        assert "result" in await ask(client, "daemon.info")
    async with websocket(running.tcp) as client:
        await client.send_message(json.dumps({"jsonrpc": "2.0", "method": "authenticate", "params": {"token": TOKEN}}))
        assert "result" in await ask(client, "daemon.info")


@pytest.mark.parametrize(
    "message",
    [
        '{"jsonrpc":"2.0","id":1,"method":"authenticate","params":{"token":"wrong"}}',
        '{"jsonrpc":"2.0","id":1,"method":"authenticate","params":{"token":7}}',
        '{"jsonrpc":"2.0","id":1,"method":"authenticate"}',
        '{"jsonrpc":"2.0","id":1,"method":"daemon.info"}',
        '[{"jsonrpc":"2.0","id":1,"method":"daemon.info"}]',
        "{",
    ],
)
async def test_nothing_but_the_token_is_accepted_before_it(running: Running, message: str) -> None:
    """Whatever else comes first is closed with 4401, and the service never hears of it."""
    async with websocket(running.tcp) as client:
        await client.send_message(message)
        assert await close_code(client) == 4401
    assert running.service.calls == []


async def test_client_that_leaves_before_it_authenticates_is_no_trouble(running: Running) -> None:
    """Nor one that closes properly."""
    async with websocket(running.tcp) as client:
        await client.aclose()
    assert await still_serves(running)


async def test_message_that_is_too_large_is_closed_with_1009(running: Running) -> None:
    """And the close frame arrives, although the client was still sending when it was written."""
    async with websocket(running.unix) as client:
        with trio.fail_after(PATIENCE):
            await client.send_message(json.dumps({"x": "y" * 2 * 1024 * 1024}))
            assert await close_code(client) == 1009
    assert await still_serves(running)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{", -32700),
        ('{"jsonrpc":"2.0","id":1,"method":"daemon.info","params":{"a":NaN}}', -32700),
        ("[]", -32600),
        ('{"id":1}', -32600),
        ('{"jsonrpc":"2.0","id":1,"method":"conversation.fly"}', -32601),
        ('{"jsonrpc":"2.0","id":1,"method":"conversation.get","params":{"id":"../../etc/passwd"}}', -32602),
        ('{"jsonrpc":"2.0","id":1,"method":"conversation.stop","params":{"id":"c1","force":"yes"}}', -32602),
        ('{"jsonrpc":"2.0","id":1,"method":"conversation.start","params":{"spec":{"image":1}}}', -32602),
    ],
)
async def test_bad_input_is_answered_and_harms_nothing(running: Running, frame: str, code: int) -> None:
    """The same connection goes on."""
    async with websocket(running.unix) as client:
        await client.send_message(frame)
        assert (await receive(client))["error"]["code"] == code
        assert "result" in await ask(client, "daemon.info")
    assert [call[0] for call in running.service.calls] == ["info"]


async def test_binary_frame_is_answered_with_a_parse_error(running: Running) -> None:
    """Frames are text."""
    async with websocket(running.unix) as client:
        await client.send_message(b"{}")
        assert (await receive(client))["error"]["code"] == -32700


async def test_frames_sent_behind_the_handshake_are_not_lost(running: Running) -> None:
    """A hasty client does not wait for the answer to its handshake."""
    request = b'{"jsonrpc":"2.0","id":9,"method":"daemon.info"}'
    frame = b"\x81" + bytes([0x80 | len(request)]) + b"\0\0\0\0" + request
    with trio.fail_after(PATIENCE):
        async with await dial(running.unix) as stream:
            await stream.send_all(HANDSHAKE + b"\r\n" + frame)
            answer = b""
            while b'"id":9' not in answer:
                answer += await stream.receive_some()
    assert status_of(answer) == 101


async def test_too_many_connections_are_refused_without_harm_to_the_others(
    nursery: trio.Nursery, service: ScriptedService, running: Running
) -> None:
    """The newest gets 503; when one leaves, there is room again."""
    server = ControlServer(service, parse_spec, ControlOptions(max_connections=2))
    address = UnixAddress(running.unix.path.with_name("few.sock"))
    await nursery.start(server.run, [address])
    async with websocket(address) as first:
        async with websocket(address):
            assert status_of(await exchange(address, HANDSHAKE + b"\r\n")) == 503
            assert "result" in await ask(first, "daemon.info")
        await eventually(lambda: server.connections == 1)
        async with websocket(address) as third:
            assert "result" in await ask(third, "daemon.info")


async def test_flood_of_connections_is_dropped_without_an_answer(
    nursery: trio.Nursery, service: ScriptedService, running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond those that are refused with a sentence nothing is said at all."""
    monkeypatch.setattr("supervisor.control.reception._REFUSED_AT_ONCE", 0)
    server = ControlServer(service, parse_spec, ControlOptions(max_connections=1))
    address = UnixAddress(running.unix.path.with_name("one.sock"))
    await nursery.start(server.run, [address])
    async with websocket(address) as first:
        with trio.fail_after(PATIENCE):
            assert await read_to_end(await dial(address)) == b""
        assert "result" in await ask(first, "daemon.info")


async def test_running_out_of_file_descriptors_does_not_end_the_listener(
    running: Running, caplog: pytest.LogCaptureFixture
) -> None:
    """`accept` fails, Trio waits a moment, and the client that waited is served once there is room again."""
    with trio.socket.socket(socket.AF_UNIX) as waiting, trio.fail_after(PATIENCE):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        with (running.unix.path.parent / "next").open("w") as free:
            most = free.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, limits[1]))
        try:
            await waiting.connect(str(running.unix.path))
            await eventually(lambda: "EMFILE" in caplog.text)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await waiting.send(HANDSHAKE + b"\r\n")
        assert status_of(await waiting.recv(4096)) == 101
    assert await still_serves(running)


async def test_shutdown_closes_every_connection_with_1001_and_removes_the_socket(running: Running) -> None:
    """Answers that are under way go first; nobody can connect any more."""
    async with websocket(running.unix) as one, websocket(running.tcp, token=TOKEN) as other, await dial(running.unix):
        assert "result" in await ask(one, "daemon.info")
        running.server.begin_shutdown()
        running.server.begin_shutdown()
        assert await close_code(one) == 1001
        assert await close_code(other) == 1001
    await eventually(lambda: not running.unix.path.exists())
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the kind of socket
        await dial(running.tcp)


async def test_cancelled_server_still_says_goodbye(
    nursery: trio.Nursery, service: ScriptedService, running: Running
) -> None:
    """Cancellation as such sends no close frame: clients would see 1006."""
    server = ControlServer(service, parse_spec, ControlOptions())
    address = UnixAddress(running.unix.path.with_name("other.sock"))
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await server.run([address])

    nursery.start_soon(run)
    await eventually(address.path.exists)
    async with websocket(address) as client:
        assert "result" in await ask(client, "daemon.info")
        scope.cancel()
        assert await close_code(client) == 1001


async def test_client_that_ignores_the_shutdown_does_not_hold_it_up(service: ScriptedService, running: Running) -> None:
    """A bare socket that never answers the close frame is dropped."""
    limits = ConnectionLimits(close=0.01, linger=0.01)
    server = ControlServer(service, parse_spec, ControlOptions(shutdown=0.05, limits=limits))
    address = UnixAddress(running.unix.path.with_name("other.sock"))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as outer:
            await outer.start(server.run, [address])
            stream = await handshake(attrs.evolve(running, unix=address))
            server.begin_shutdown()
        assert server.connections == 0
        await stream.aclose()


async def test_listener_on_tcp_needs_a_token(service: ScriptedService) -> None:
    """Without one everybody on the host would be let in."""
    server = ControlServer(service, parse_spec, ControlOptions())
    with pytest.raises(CannotListen, match="token"):
        await server.run([TcpAddress("127.0.0.1", 0)])


async def test_bug_in_a_connection_ends_only_that_connection(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is: the server logs it and goes on."""
    failures = iter([RuntimeError("a bug")])

    def buggy(self: Admission) -> bytes:
        for failure in failures:
            raise failure
        return original(self)

    original = Admission.library_request
    monkeypatch.setattr(Admission, "library_request", buggy)
    with trio.fail_after(PATIENCE):
        async with await dial(running.unix) as stream:
            await stream.send_all(HANDSHAKE + b"\r\n")
            assert await read_to_end(stream) == b""
    assert await still_serves(running)


def test_options_keep_the_token_out_of_their_text() -> None:
    """They may be logged."""
    assert TOKEN not in repr(ControlOptions(Token(TOKEN)))
