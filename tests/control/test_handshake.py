"""Handshakes, judged."""

import h11
import pytest
import trio
from trio.testing import memory_stream_one_way_pair

from supervisor.control.address import TcpAddress
from supervisor.control.handshake import (
    Admission,
    Gate,
    HandshakeAborted,
    Refusal,
    judge,
    own_names,
    receive_handshake,
)

UNIX = Gate(None, frozenset(), None)
TCP = Gate(own_names(TcpAddress("127.0.0.1", 0), 8090), frozenset({b"https://good.example"}), None)
GOOD = {
    "Host": "127.0.0.1:8090",
    "Connection": "keep-alive, Upgrade",
    "Upgrade": "WebSocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
}


def request(changes: dict[str, str | None], method: str = "GET", target: str = "/control") -> h11.Request:
    """A good handshake with some headers changed; None takes one away."""
    headers = {name: value for name, value in {**GOOD, **changes}.items() if value is not None}
    return h11.Request(
        method=method,
        target=target,
        headers=[(name.encode(), value.encode("latin-1")) for name, value in headers.items()],
    )


def status(gate: Gate, changes: dict[str, str | None], method: str = "GET", target: str = "/control") -> int:
    """The HTTP status of the verdict, 101 for an admission."""
    verdict = judge(request(changes, method, target), gate)
    return verdict.status.value if isinstance(verdict, Refusal) else 101


@pytest.mark.parametrize("host", ["127.0.0.1:8090", "localhost:8090", "LOCALHOST:8090", "[::1]:8090"])
def test_judge_admits_the_listeners_own_names(host: str) -> None:
    """Its address and the names of this host."""
    assert status(TCP, {"Host": host}) == 101


@pytest.mark.parametrize(
    "host", ["evil.example:8090", "127.0.0.1", "127.0.0.1:8091", "", "localhost:8090.evil", "\xe9"]
)
def test_judge_refuses_other_hosts(host: str) -> None:
    """A page whose name was made to point here says its own name."""
    assert status(TCP, {"Host": host}) == 403


def test_judge_lets_any_host_through_a_unix_socket() -> None:
    """No browser gets there, and clients write whatever they like."""
    assert status(UNIX, {"Host": "what.ever\xe9"}) == 101


def test_own_names_leave_out_the_port_of_http() -> None:
    """As clients do."""
    assert b"localhost" in own_names(TcpAddress("127.0.0.1", 80), 80)
    assert b"example.org:80" in own_names(TcpAddress("Example.org", 80), 80)


@pytest.mark.parametrize(
    ("origin", "expected"), [("https://good.example", 101), ("https://bad.example", 403), ("null", 403)]
)
def test_judge_refuses_origins_that_are_not_allowed(origin: str, expected: int) -> None:
    """Only browsers send one."""
    assert status(TCP, {"Origin": origin}) == expected


def test_judge_refuses_origins_on_unix_sockets_too() -> None:
    """The rule is the same everywhere."""
    assert status(UNIX, {"Origin": "https://good.example"}) == 403


def test_judge_refuses_the_origin_before_it_looks_at_the_rest() -> None:
    """Not even which paths exist is told."""
    assert status(UNIX, {"Origin": "https://x", "Upgrade": None}, target="/nothing") == 403


@pytest.mark.parametrize(
    ("changes", "method", "target", "expected"),
    [
        ({}, "GET", "/", 404),
        ({}, "GET", "/control/", 404),
        ({}, "GET", "/control?token=x", 101),
        ({}, "POST", "/control", 426),
        ({"Upgrade": None}, "GET", "/control", 426),
        ({"Connection": "close"}, "GET", "/control", 426),
        ({"Sec-WebSocket-Version": "8"}, "GET", "/control", 426),
        ({"Sec-WebSocket-Version": None}, "GET", "/control", 426),
        ({"Sec-WebSocket-Key": None}, "GET", "/control", 400),
        ({"Sec-WebSocket-Key": "AAAA"}, "GET", "/control", 400),
        ({"Sec-WebSocket-Key": "\xe9"}, "GET", "/control", 400),
        ({"Sec-WebSocket-Protocol": "other"}, "GET", "/control", 400),
        ({"Sec-WebSocket-Protocol": "\xe9"}, "GET", "/control", 400),
    ],
)
def test_judge_refuses_what_is_no_handshake_of_ours(
    changes: dict[str, str | None], method: str, target: str, expected: int
) -> None:
    """Each with the status that says what is wrong."""
    assert status(UNIX, changes, method, target) == expected


def test_judge_chooses_the_subprotocol_if_it_is_offered() -> None:
    """Offered among others it is chosen; none offered is fine."""
    verdict = judge(request({"Sec-WebSocket-Protocol": "other, conversation-control.v1"}), UNIX)
    assert isinstance(verdict, Admission)
    assert verdict.subprotocol == "conversation-control.v1"
    assert b"Sec-WebSocket-Protocol: conversation-control.v1\r\n" in verdict.library_request()
    verdict = judge(request({}), UNIX)
    assert isinstance(verdict, Admission)
    assert verdict.subprotocol is None


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer abc", "abc"), ("bearer  abc", "abc"), ("Basic abc", ""), ("Bearer \xe9", "\ufffd"), (None, None)],
)
def test_judge_reads_the_token(header: str | None, token: str | None) -> None:
    """Another scheme is a wrong token, none at all may still be shown later."""
    verdict = judge(request({"Authorization": header}), UNIX)
    assert isinstance(verdict, Admission)
    assert verdict.token == token
    assert token is None or len(token) < 2 or token not in repr(verdict)


def test_refusal_is_a_whole_http_answer() -> None:
    """Any HTTP client can read it."""
    verdict = judge(request({"Upgrade": None}), UNIX)
    assert isinstance(verdict, Refusal)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    client.receive_data(verdict.encode())
    answer, body = client.next_event(), client.next_event()
    assert isinstance(answer, h11.Response)
    assert isinstance(body, h11.Data)
    assert answer.status_code == 426
    assert (b"upgrade", b"websocket") in list(answer.headers)
    assert b"WebSocket" in body.data


async def receive(*chunks: bytes) -> object:
    """What comes of bytes that arrive in these pieces, after which the client is gone."""
    sender, receiver = memory_stream_one_way_pair()
    async with trio.open_nursery() as nursery:

        async def send() -> None:
            for chunk in chunks:
                await sender.send_all(chunk)
            await sender.aclose()

        nursery.start_soon(send)
        verdicts = [await receive_handshake(receiver, UNIX)]
    return verdicts[0]


HEAD = b"".join(f"{name}: {value}\r\n".encode() for name, value in GOOD.items())


async def test_receive_puts_the_pieces_together_and_keeps_what_follows() -> None:
    """Frames that a hasty client sends behind its handshake are not lost."""
    whole = b"GET /control HTTP/1.1\r\n" + HEAD + b"\r\nearly"
    verdict = await receive(whole[:7], whole[7:])
    assert isinstance(verdict, Admission)
    assert verdict.early == b"early"


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000]
)
async def test_receive_answers_what_is_no_http(junk: bytes) -> None:
    """TLS, no Host, a head without end: 400, at once."""
    verdict = await receive(junk)
    assert isinstance(verdict, Refusal)
    assert verdict.status == 400


async def test_receive_notices_that_the_client_went_away() -> None:
    """Before its request was complete, quietly or not."""
    with pytest.RaisesGroup(HandshakeAborted):
        await receive(b"GET /con")
    _, receiver = memory_stream_one_way_pair()
    await receiver.aclose()
    with pytest.raises(HandshakeAborted):
        await receive_handshake(receiver, UNIX)
