"""A WebSocket peer made of a bare socket, which can break every rule. No pytest in here."""

import base64
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import attrs

PATIENCE: Final = 20.0
"""Seconds of real time after which a test that waits has failed."""

Place: TypeAlias = Path | tuple[str, int]
"""A Unix socket's path, or a TCP host and port."""

_MASK: Final = bytes(4)
_NO_CODE: Final = struct.pack("!H", 1005)
_SHORT, _MIDDLE, _LONG = 125, 126, 127


class Opcode(IntEnum):
    """What a frame is."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


@attrs.frozen
class Frame:
    """One frame that the daemon sent."""

    opcode: int
    payload: bytes


def frame(
    payload: bytes | str = b"",
    opcode: int = Opcode.TEXT,
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bool = True,
    length: int | None = None,
) -> bytes:
    """The bytes of a frame, right or wrong; `length` is what it says of its size, where that is a lie."""
    body = payload.encode() if isinstance(payload, str) else payload
    size = len(body) if length is None else length
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    masked = 0x80 if mask else 0
    if size <= _SHORT:
        head = bytes([first, masked | size])
    elif size < 1 << 16:
        head = bytes([first, masked | _MIDDLE]) + struct.pack("!H", size)
    else:
        head = bytes([first, masked | _LONG]) + struct.pack("!Q", size)
    return head + (_MASK if mask else b"") + body


def close_frame(code: int = 1000) -> bytes:
    """A proper close."""
    return frame(struct.pack("!H", code), Opcode.CLOSE)


def request(method: str, params: object = None, identity: object = 1) -> str:
    """A JSON-RPC request."""
    given = {} if params is None else {"params": params}
    return json.dumps({"jsonrpc": "2.0", "id": identity, "method": method, **given})


def handshake(*headers: str, host: str | None = "localhost", target: str = "/control", version: str = "1.1") -> bytes:
    """An opening handshake; without `host` it has none."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        f"GET {target} HTTP/{version}",
        *([] if host is None else [f"Host: {host}"]),
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


class Peer:
    """One connection. Reading gives up after `PATIENCE`; writing to a daemon that hung up is no error."""

    def __init__(self, place: Place, patience: float = PATIENCE) -> None:
        family = socket.AF_UNIX if isinstance(place, Path) else socket.AF_INET
        self.socket: Final = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(patience)
        self.socket.connect(str(place) if isinstance(place, Path) else place)
        self._place = place
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.socket.close()

    def upgrade(self, *headers: str) -> Self:
        """Shake hands, properly."""
        host = "localhost" if isinstance(self._place, Path) else f"{self._place[0]}:{self._place[1]}"
        self.send(handshake(*headers, host=host))
        head = self.read_head()
        assert head.startswith(b"HTTP/1.1 101 "), head
        return self

    def send(self, data: bytes) -> bool:
        """Send; says whether the daemon still took it."""
        try:
            self.socket.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def say(self, text: str) -> bool:
        """Send a text frame."""
        return self.send(frame(text))

    def read_head(self) -> bytes:
        """The head of an HTTP answer; what there was of it, if the daemon hung up."""
        while b"\r\n\r\n" not in self._received and self._receive():
            pass
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        return head

    def read_frame(self) -> Frame | None:
        """The next frame; None when the daemon has hung up."""
        start = self._take(2)
        if start is None:
            return None
        size = start[1] & _LONG
        if size in (_MIDDLE, _LONG):
            extended = self._take(2 if size == _MIDDLE else 8)
            if extended is None:
                return None
            size = int.from_bytes(extended, "big")
        payload = self._take(size)
        return None if payload is None else Frame(start[0] & 0x0F, payload)

    def read_message(self) -> Any:  # noqa: ANN401 - JSON
        """The next text frame, decoded; the pongs before it are passed over."""
        while (received := self.read_frame()) is not None and received.opcode == Opcode.PONG:
            pass
        assert received is not None, "the daemon hung up"
        assert received.opcode == Opcode.TEXT, received
        return json.loads(received.payload)

    def ask(self, method: str, params: object = None, identity: object = 1) -> Any:  # noqa: ANN401 - JSON
        """One request and the next message."""
        self.say(request(method, params, identity))
        return self.read_message()

    def end_code(self) -> tuple[int | None, int]:
        """Read to the end: the code of the close frame, None if none came, and how many messages came before it."""
        messages = 0
        while (received := self.read_frame()) is not None:
            if received.opcode == Opcode.CLOSE:
                # A close without a code answers one without a code.
                return struct.unpack("!H", received.payload[:2] or _NO_CODE)[0], messages
            messages += received.opcode in (Opcode.TEXT, Opcode.BINARY)
        return None, messages

    def read_all(self) -> bytes:
        """All bytes until the daemon hangs up."""
        while self._receive():
            pass
        received, self._received = self._received, b""
        return received

    def finish_sending(self) -> None:
        """Half-close: nothing more comes from here."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            # The daemon was faster, and hung up.
            return

    def reset(self) -> None:
        """Vanish without a word: over TCP this is a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _take(self, count: int) -> bytes | None:
        while len(self._received) < count:
            if not self._receive():
                return None
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def _receive(self) -> bool:
        try:
            chunk = self.socket.recv(1 << 16)
        except ConnectionResetError:
            return False
        self._received += chunk
        return bool(chunk)


@contextmanager
def client(place: Place, *headers: str) -> Iterator[Peer]:
    """A peer that has shaken hands."""
    with Peer(place) as peer:
        yield peer.upgrade(*headers)


def within(seconds: float = PATIENCE) -> Iterator[float]:
    """Look again and again, for so many seconds; each turn says how many are left."""
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        yield left
        time.sleep(0.01)
