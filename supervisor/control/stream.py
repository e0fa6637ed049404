"""The byte stream under one connection: what the WebSocket library reads and writes, and how it is let go."""

from collections.abc import Callable
from typing import Final

import trio

from supervisor.control.handshake import Admission

_LINGER_CHUNK: Final = 64 * 1024


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
