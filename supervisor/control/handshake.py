"""The opening handshake, judged before the WebSocket library sees a byte of it.

The library would answer a plain GET without a word, let its task linger, and end on headers that are not ASCII. So
the request's head is read here, within bounds, and judged by a pure function; what the library then gets is a
request of our own making, of which only the key came from outside.
"""

import base64
import binascii
from http import HTTPStatus
from typing import Final, TypeAlias

import attrs
import h11
import trio

from supervisor.control.address import TcpAddress
from supervisor.control.token import Token
from supervisor.control.views import PROTOCOL

PATH: Final = b"/control"
_CHUNK: Final = 4096
_KEY_BYTES: Final = 16
_HTTP_PORT: Final = 80
_SWITCH: Final = (b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")
_VERSION: Final = (b"Sec-WebSocket-Version", b"13")


class HandshakeAborted(Exception):
    """The client went away before its request was complete."""


@attrs.frozen
class Gate:
    """Who may come in through one listener.

    `names` are the `Host` headers that mean it, None where any will do (Unix sockets, which no browser reaches).
    `token` is None where none is needed.
    """

    names: frozenset[bytes] | None
    origins: frozenset[bytes]
    token: Token | None


@attrs.frozen
class Refusal:
    """An HTTP answer that ends the connection."""

    status: HTTPStatus
    sentence: str
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def encode(self) -> bytes:
        """The whole answer as bytes."""
        body = f"{self.sentence}\n".encode()
        lines = [
            f"HTTP/1.1 {self.status.value} {self.status.phrase}".encode(),
            b"Content-Type: text/plain; charset=utf-8",
            b"Content-Length: %d" % len(body),
            *(b"%s: %s" % header for header in self.headers),
            b"Connection: close" if not self.headers else b"Connection: close, Upgrade",
        ]
        return b"\r\n".join([*lines, b"", body])


@attrs.frozen
class Admission:
    """A handshake that is accepted. `token` is what its Authorization header showed, None without one."""

    key: bytes
    subprotocol: str | None
    token: str | None = attrs.field(repr=False)
    early: bytes = b""

    def library_request(self) -> bytes:
        """The request that the WebSocket library gets to see."""
        lines = [
            b"GET /control HTTP/1.1",
            b"Host: localhost",
            *(b"%s: %s" % header for header in (*_SWITCH, _VERSION)),
            b"Sec-WebSocket-Key: " + self.key,
        ]
        if self.subprotocol is not None:
            lines.append(b"Sec-WebSocket-Protocol: " + self.subprotocol.encode())
        return b"\r\n".join([*lines, b"", b""])


Verdict: TypeAlias = Refusal | Admission


def own_names(address: TcpAddress, port: int) -> frozenset[bytes]:
    """The `Host` headers that mean a TCP listener on this address, bound to this port."""
    hosts = {TcpAddress(host, port).authority for host in (address.host, "localhost", "127.0.0.1", "::1")}
    if port == _HTTP_PORT:
        hosts |= {name.removesuffix(f":{port}") for name in hosts}
    return frozenset(name.lower().encode() for name in hosts)


async def receive_handshake(stream: trio.abc.ReceiveStream, gate: Gate) -> Verdict:
    """Read the head of a client's request and judge it. The caller sets the deadline.

    Raises:
        HandshakeAborted: the client went away first.
    """
    await trio.lowlevel.checkpoint()
    http = h11.Connection(h11.SERVER)
    while True:
        try:
            event = http.next_event()
        except h11.RemoteProtocolError:
            return _NOT_HTTP
        if isinstance(event, h11.Request):
            verdict = judge(event, gate)
            return attrs.evolve(verdict, early=http.trailing_data[0]) if isinstance(verdict, Admission) else verdict
        try:
            chunk = await stream.receive_some(_CHUNK)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise HandshakeAborted from None
        if not chunk:
            raise HandshakeAborted
        http.receive_data(bytes(chunk))


def judge(request: h11.Request, gate: Gate) -> Verdict:
    """Decide about a handshake. Nothing else of a request is looked at before its `Host` and `Origin` are right."""
    headers = _Headers(request)
    if gate.names is not None and headers.one(b"host").lower() not in gate.names:
        return Refusal(HTTPStatus.FORBIDDEN, "This Host is not one of the listener's own names.")
    if any(origin not in gate.origins for origin in headers.all(b"origin")):
        return Refusal(HTTPStatus.FORBIDDEN, "This Origin is not one of [control] allowed_origins.")
    if request.target.partition(b"?")[0] != PATH:
        return Refusal(HTTPStatus.NOT_FOUND, "The control channel is at /control.")
    return _judge_upgrade(request, headers)


def _judge_upgrade(request: h11.Request, headers: "_Headers") -> Verdict:
    upgrades = b"upgrade" in headers.tokens(b"connection") and b"websocket" in headers.tokens(b"upgrade")
    if request.method != b"GET" or not upgrades:
        return _NOT_WEBSOCKET
    if headers.one(b"sec-websocket-version") != b"13":
        return Refusal(HTTPStatus.UPGRADE_REQUIRED, "This is WebSocket version 13.", (_SWITCH[0], _VERSION))
    key = headers.one(b"sec-websocket-key")
    if not _is_key(key):
        return Refusal(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key is not 16 bytes in base64.")
    offered = [
        name for value in headers.all(b"sec-websocket-protocol") for name in value.replace(b" ", b"").split(b",")
    ]
    if offered and PROTOCOL.encode() not in offered:
        return Refusal(HTTPStatus.BAD_REQUEST, f"The only subprotocol spoken here is {PROTOCOL}.")
    return Admission(key, PROTOCOL if offered else None, _bearer(headers))


def _bearer(headers: "_Headers") -> str | None:
    values = headers.all(b"authorization")
    if not values:
        return None
    scheme, _, token = values[0].partition(b" ")
    return token.strip().decode("ascii", errors="replace") if scheme.lower() == b"bearer" else ""


def _is_key(key: bytes) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == _KEY_BYTES
    except binascii.Error:
        return False


class _Headers:
    """A request's headers by lower-case name. Values are bytes as they came, ASCII or not."""

    def __init__(self, request: h11.Request) -> None:
        self._pairs = list(request.headers)

    def all(self, name: bytes) -> list[bytes]:
        return [value for key, value in self._pairs if key == name]

    def one(self, name: bytes) -> bytes:
        values = self.all(name)
        return values[0] if len(values) == 1 else b""

    def tokens(self, name: bytes) -> set[bytes]:
        return {token.strip().lower() for value in self.all(name) for token in value.split(b",")}


_NOT_HTTP: Final = Refusal(HTTPStatus.BAD_REQUEST, "This is not an HTTP/1.1 request that makes sense here.")
_NOT_WEBSOCKET: Final = Refusal(
    HTTPStatus.UPGRADE_REQUIRED,
    f"This is a WebSocket endpoint: connect a client that speaks {PROTOCOL}.",
    (_SWITCH[0],),
)
