"""What one connection still has to send: bounded in frames and bytes, written by one task."""

from collections import deque
from collections.abc import Sequence
from typing import Final

import attrs
import trio

MAX_FRAMES: Final = 1024
MAX_BYTES: Final = 8 * 1024 * 1024
MOST_AT_ONCE: Final = 16 * 1024
"""Bytes that `take_some` takes, unless the first frame alone is larger."""


@attrs.frozen
class Closing:
    """The last thing to send: a close frame."""

    code: int
    reason: str


class Outbox:
    """A queue of text frames with one reader. Our frames are ASCII, so their length is their size in bytes.

    Once the end is decided (`finish`, `cut` or `abandon`) further frames are dropped: nobody will read them.
    """

    def __init__(self, max_frames: int = MAX_FRAMES, max_bytes: int = MAX_BYTES) -> None:
        self._max_frames = max_frames
        self._max_bytes = max_bytes
        self._frames: deque[str] = deque()
        self._bytes = 0
        self._closing: Closing | None = None
        self._ended = False
        self._room = trio.lowlevel.ParkingLot()
        self._news = trio.lowlevel.ParkingLot()

    @property
    def is_idle(self) -> bool:
        """Whether nothing is queued and more may come: who sends now overtakes nothing."""
        return not self._frames and not self._ended

    def offer(self, frame: str) -> bool:
        """Queue a frame if there is room now; says whether that is settled."""
        if self._ended:
            return True
        if not self._has_room(frame):
            return False
        self._frames.append(frame)
        self._bytes += len(frame)
        self._news.unpark()
        return True

    async def put(self, frame: str) -> None:
        """Queue a frame as soon as there is room."""
        await trio.lowlevel.checkpoint()
        while not self.offer(frame):
            await self._room.park()

    def finish(self, closing: Closing) -> None:
        """Send what is queued, then close. The first end that is decided stands."""
        self._end(closing)

    def cut(self, closing: Closing) -> None:
        """Forget what is queued and close."""
        if not self._ended:
            self._frames.clear()
        self._end(closing)

    def abandon(self) -> None:
        """Nobody sends any more: forget everything and let all who wait go on."""
        self._frames.clear()
        self._ended = True
        self._room.unpark_all()

    async def wait(self) -> None:
        """Wait until there may be something to take."""
        await self._news.park()

    def take(self) -> str | Closing | None:
        """The next frame, or the end, which is the last thing that is taken; None if there is nothing yet."""
        if not self._frames:
            return self._closing
        return self._pop()

    def take_some(self) -> Sequence[str] | Closing | None:
        """As `take`, but as many frames as one write should carry."""
        if not self._frames:
            return self._closing
        some: list[str] = []
        size = 0
        while self._frames and (not some or size + len(self._frames[0]) <= MOST_AT_ONCE):
            some.append(self._pop())
            size += len(some[-1])
        return some

    def _pop(self) -> str:
        frame = self._frames.popleft()
        self._bytes -= len(frame)
        self._room.unpark()
        return frame

    def _has_room(self, frame: str) -> bool:
        # A frame larger than the bound has to go, too, alone.
        return not self._frames or (
            len(self._frames) < self._max_frames and self._bytes + len(frame) <= self._max_bytes
        )

    def _end(self, closing: Closing) -> None:
        if self._ended:
            return
        self._ended = True
        self._closing = closing
        self._room.unpark_all()
        self._news.unpark()
