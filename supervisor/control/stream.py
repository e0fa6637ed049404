"""The byte stream under one connection: what the WebSocket library reads and writes, and how it is let go.

Messages go past the library, which takes two rounds of the loop and a write for each.
"""

import struct
from collections.abc import Callable, Sequence
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from supervisor.control.handshake import Admission

_LINGER_CHUNK: Final = 64 * 1024
_TEXT: Final = 0x81
"""The first byte of a message in one frame."""
_TWO_BYTES: Final = 126
"""Stands for a length that follows in two bytes; one more for a length in eight."""
_MOST_IN_TWO_BYTES: Final = 2**16 - 1


def _nothing() -> None:
    """What is checked where nobody asks."""


class UpgradedStream(trio.abc.Stream):
    """A client's stream after its handshake was judged.

    First it gives the library the request made for it, then, once the upgrade is answered, what the client really
    sends. Writes and closing pass through.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream, admission: Admission) -> None:
        self._stream = stream
        self._first = admission.library_request()
        self._early = admission.early
        self._answered = trio.Event()
        self._check = _nothing

    def upgrade_answered(self, check: Callable[[], None] | None = None) -> None:
        """Let the library have what follows the handshake; `check` is called before each piece, and may raise."""
        self._check = check or self._check
        self._answered.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive as any stream does; the handshake comes in one piece."""
        if self._first:
            first, self._first = self._first, b""
            await trio.lowlevel.checkpoint()
            return first
        if not self._answered.is_set():
            await self._answered.wait()
        self._check()
        if self._early:
            early, self._early = self._early, b""
            await trio.lowlevel.checkpoint()
            return early
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send as any stream does."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait as any stream does."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """Close the client's stream."""
        await self._stream.aclose()


async def send_texts(socket: WebSocketConnection, stream: trio.abc.SendStream, texts: Sequence[str]) -> None:
    """Send messages in one write, between the library's own frames. `stream` is what `socket` is on.

    Raises:
        ConnectionClosed: the other side went away, or the library has begun to close.
    """
    data = b"".join(map(_frame, texts))
    turn = socket._stream_lock  # noqa: SLF001 - pongs and close frames are still the library's
    try:
        turn.acquire_nowait()
    except trio.WouldBlock:
        await turn.acquire()
    try:
        if socket.closed is not None:
            raise ConnectionClosed(socket.closed)
        await stream.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.aclose_forcefully(stream)  # the library's reader ends by it, too
        raise ConnectionClosed(None) from None
    finally:
        turn.release()


def _frame(text: str) -> bytes:
    """A whole text message of a server: neither fragmented nor masked nor compressed (RFC 6455, section 5.2)."""
    payload = text.encode()
    if len(payload) < _TWO_BYTES:
        return bytes((_TEXT, len(payload))) + payload
    if len(payload) <= _MOST_IN_TWO_BYTES:
        return struct.pack("!BBH", _TEXT, _TWO_BYTES, len(payload)) + payload
    return struct.pack("!BBQ", _TEXT, _TWO_BYTES + 1, len(payload)) + payload


async def let_go(stream: trio.abc.HalfCloseableStream) -> None:
    """Close a stream so that the other side gets to read our last words. The caller sets the deadline.

    A socket that is closed with unread input resets the connection, and the other side loses what we sent last. So we
    say that we are done, and read away what still comes, before we close.
    """
    try:
        await stream.send_eof()
        while await stream.receive_some(_LINGER_CHUNK):
            pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await trio.aclose_forcefully(stream)
