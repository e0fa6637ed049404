"""A web page on this host's browser: it reaches loopback ports, and gets nothing out of this one."""

import pytest

from tests.hostile.peer import Peer, client, frame, handshake, request
from tests.hostile.target import GOOD_ORIGIN, Target

INFO = request("daemon.info")


def answer_of(target: Target, data: bytes) -> bytes:
    """All that the daemon sends over TCP to somebody who sends this."""
    with Peer(target.tcp) as peer:
        peer.send(data)
        peer.finish_sending()
        return peer.read_all()


def status_of(answer: bytes) -> int:
    """The HTTP status of an answer."""
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("over_tcp", [True, False])
@pytest.mark.parametrize(
    ("origins", "status"),
    [
        ([], 101),
        ([GOOD_ORIGIN], 101),
        (["https://evil.example"], 403),
        (["null"], 403),
        ([""], 403),
        (["http://localhost"], 403),
        (["http://localhost:3001"], 403),
        (["https://localhost:3000"], 403),
        ([f"{GOOD_ORIGIN}/"], 403),
        ([f"{GOOD_ORIGIN}.evil.example"], 403),
        ([f"{GOOD_ORIGIN}@evil.example"], 403),
        ([f"{GOOD_ORIGIN} https://evil.example"], 403),
        (["HTTP://LOCALHOST:3000"], 403),
        (["http://localhos\u0165:3000".encode().decode("latin-1")], 403),
        ([GOOD_ORIGIN, "https://evil.example"], 403),
        (["https://evil.example", GOOD_ORIGIN], 403),
        (["file://"], 403),
    ],
)
def test_page_of_another_origin_is_refused(target: Target, origins: list[str], status: int, over_tcp: bool) -> None:
    """By the whole Origin, on both sockets, with the right token too; who sends none is no browser."""
    headers = [*(f"Origin: {origin}" for origin in origins), target.bearer]
    host = f"localhost:{target.tcp[1]}"
    with Peer(target.tcp if over_tcp else target.unix) as peer:
        peer.send(handshake(*headers, host=host) + frame(INFO))
        assert status_of(peer.read_head()) == status
        if status == 101:
            assert peer.read_message()["id"] == 1
        else:
            assert b'"result"' not in peer.read_all()


@pytest.mark.parametrize(
    "host",
    ["localhost:{port}", "LocalHost:{port}", "127.0.0.1:{port}", "[::1]:{port}"],
)
def test_host_that_means_this_listener_is_let_in(target: Target, host: str) -> None:
    """Its own names, in any case."""
    named = host.format(port=target.tcp[1])
    assert status_of(answer_of(target, handshake(target.bearer, host=named))) == 101


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:{port}",
        "localhost",
        "localhost:80",
        "localhost.:{port}",
        "localhost.evil.example:{port}",
        "evil.example#localhost:{port}",
        "localhost:{port}@evil.example",
        "localhost:{port}, evil.example",
        "localhost:0{port}",
        "localhost:{port}1",
        "127.0.0.1",
        "127.0.0.1.:{port}",
        "127.1:{port}",
        "127.0.0.2:{port}",
        "2130706433:{port}",
        "0x7f000001:{port}",
        "0177.0.0.1:{port}",
        "0.0.0.0:{port}",
        "127.0.0.1.nip.io:{port}",
        "::1:{port}",
        "[::1]",
        "[::]:{port}",
        "[::1%25lo]:{port}",
        "[::ffff:127.0.0.1]:{port}",
        "[0:0:0:0:0:0:0:1]:{port}",
        "lo\u00e7alhost:{port}",
        "",
        None,
    ],
)
def test_page_whose_name_was_rebound_is_refused(target: Target, host: str | None) -> None:
    """Its browser says the name that it believes in, and no spelling of loopback but ours is ours; token or not."""
    named = None if host is None else host.format(port=target.tcp[1])
    for headers in ((), (target.bearer,), (f"Origin: {GOOD_ORIGIN}", target.bearer)):
        answer = answer_of(target, handshake(*headers, host=named) + frame(INFO))
        assert status_of(answer) in ({403} if host is not None else {400})
        assert b"101" not in answer[:13]
        assert b"conversationd" not in answer


def test_host_must_be_told_once(target: Target) -> None:
    """Two are none, and so is none at all in HTTP/1.0."""
    good = f"localhost:{target.tcp[1]}"
    assert status_of(answer_of(target, handshake("Host: evil.example", target.bearer, host=good))) == 400
    assert status_of(answer_of(target, handshake(target.bearer, host=None, version="1.0"))) == 403
    absolute = handshake(target.bearer, host=good, target="http://evil.example/control")
    assert status_of(answer_of(target, absolute)) == 404


@pytest.mark.parametrize("path", ["/", "/control", "/control?x=1", "/favicon.ico", "//control", "/../control"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "PUT"])
def test_requests_that_a_page_can_send_unasked_are_answered_with_nothing(
    target: Target, method: str, path: str
) -> None:
    """Images, forms and preflights: no answer allows a page to read it, and none says anything of ours."""
    for origin in ("", "Origin: https://evil.example\r\n"):
        body = INFO.encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost:{target.tcp[1]}\r\n{origin}Content-Length: {len(body)}\r\n"
            "Content-Type: text/plain\r\nAccess-Control-Request-Method: POST\r\n\r\n"
        )
        answer = answer_of(target, head.encode() + body)
        assert status_of(answer) in ({403} if origin else {400, 403, 404, 426})
        assert b"access-control" not in answer.lower()
        assert b'"result"' not in answer


@pytest.mark.parametrize(
    "bend",
    [
        pytest.param(lambda token: "", id="empty"),
        pytest.param(lambda token: token[:-1], id="truncated"),
        pytest.param(lambda token: token[1:], id="beheaded"),
        pytest.param(lambda token: token[:1], id="one-character"),
        pytest.param(lambda token: f"{token}x", id="longer"),
        pytest.param(lambda token: token.swapcase(), id="other-case"),
        pytest.param(lambda token: f"{token}\0", id="NUL"),
        pytest.param(lambda token: token * 1000, id="repeated"),
        pytest.param(lambda token: f"{token},{token}", id="twice"),
        pytest.param(lambda token: "\u00e9" + token[1:], id="not-ascii"),
    ],
)
def test_wrong_token_gets_nothing(target: Target, bend: object) -> None:
    """In the message or in the header: 4401, and not one answer to what comes behind it."""
    assert callable(bend)
    wrong = bend(target.token)
    with client(target.tcp) as peer:
        peer.say(request("authenticate", {"token": wrong}))
        peer.say(request("authenticate", {"token": target.token}))
        peer.say(INFO)
        assert peer.end_code() == (4401, 0)
    data = handshake(f"Authorization: Bearer {wrong}", host=f"localhost:{target.tcp[1]}")
    with Peer(target.tcp) as peer:
        peer.send(data + frame(request("authenticate", {"token": target.token})) + frame(INFO))
        head = peer.read_head()
        # A NUL is no header at all, and one that is too long is no request.
        assert head.startswith(b"HTTP/1.1 400 ") or peer.end_code() == (4401, 0)


@pytest.mark.parametrize(
    "first",
    [
        INFO,
        f"[{request('authenticate', {'token': 'TOKEN'})}]",
        f"[{request('authenticate', {'token': 'TOKEN'})},{INFO}]",
        '{"jsonrpc":"2.0","id":1,"method":"authenticate","params":["TOKEN"]}',
        '{"jsonrpc":"2.0","id":1,"method":"authenticate","params":{"token":"TOKEN","token2":""}}',
        '{"jsonrpc":"2.0","id":1,"method":"Authenticate","params":{"token":"TOKEN"}}',
        '{"jsonrpc":"1.0","id":1,"method":"authenticate","params":{"token":"TOKEN"}}',
        "TOKEN",
        "",
    ],
)
def test_first_message_that_is_no_authentication_gets_nothing(target: Target, first: str) -> None:
    """Not even with the right token in it, and nothing behind it is answered."""
    with client(target.tcp) as peer:
        peer.say(first.replace("TOKEN", target.token))
        peer.say(request("authenticate", {"token": target.token}))
        peer.say(INFO)
        assert peer.end_code() == (4401, 0)


@pytest.mark.parametrize("header", ["Authorization: {token}", "Authorization: Basic {token}", "Cookie: token={token}"])
def test_token_anywhere_else_is_no_token(target: Target, header: str) -> None:
    """Nor is one in the URL, where it would get into logs."""
    host = f"localhost:{target.tcp[1]}"
    for data in (
        handshake(header.format(token=target.token), host=host),
        handshake(host=host, target=f"/control?token={target.token}"),
        handshake(f"Sec-WebSocket-Protocol: conversation-control.v1, {target.token}", host=host),
    ):
        with Peer(target.tcp) as peer:
            peer.send(data + frame(INFO))
            peer.read_head()
            assert peer.end_code() == (4401, 0)
    assert target.token not in target.process.log.read_text()


def test_token_in_its_place_lets_in(target: Target) -> None:
    """In the header, in the first message, in that message in fragments, and as a notification."""
    with client(target.tcp, target.bearer) as peer:
        assert peer.ask("daemon.info")["id"] == 1
    message = request("authenticate", {"token": target.token})
    for frames in (frame(message), frame(message[:20], fin=False) + frame(message[20:], 0)):
        with client(target.tcp) as peer:
            peer.send(frames)
            assert peer.read_message()["result"] == {}
            assert peer.ask("daemon.info")["id"] == 1
    with client(target.tcp) as peer:
        peer.say(message.replace('"id": 1, ', ""))
        assert peer.ask("daemon.info")["id"] == 1
