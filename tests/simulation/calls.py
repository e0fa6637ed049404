"""What goes between a simulated engine and who asks it: a request under way, and an answer without an end."""

import json
from collections import deque

import attrs
import trio
from requests.exceptions import ReadTimeout

from supervisor.sandbox.docker.views import EngineJson


class Stream:
    """An answer without an end, as a lane's reader sees it."""

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._arrived = trio.Event()
        self.ended = False

    def push(self, message: EngineJson) -> None:
        """Send one message."""
        if not self.ended:
            self._chunks.append(json.dumps(message).encode() + b"\n")
            self._arrived.set()

    def end(self) -> None:
        """Nothing more comes."""
        self.ended = True
        self._arrived.set()

    close = end

    async def next_chunk(self) -> bytes:
        """The next message; none at the end."""
        await trio.lowlevel.checkpoint()
        while not self._chunks:
            if self.ended:
                return b""
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._chunks.popleft()


@attrs.define(eq=False)
class Call:
    """One request under way; `settle` is the engine's, `abandon` the network's: the first one counts."""

    done: trio.Event = attrs.field(factory=trio.Event)
    answer: object = None
    error: Exception | None = None

    def settle(self, answer: object, error: Exception | None) -> None:
        """Give the answer, or the error."""
        if not self.done.is_set():
            self.answer, self.error = answer, error
            self.done.set()

    async def wait(self, seconds: float) -> object:
        """Wait so long for the answer.

        Raises:
            ReadTimeout: it did not come.
            APIError: it is an error.
        """
        with trio.move_on_after(seconds):
            await self.done.wait()
        if not self.done.is_set():
            raise ReadTimeout(f"no answer in {seconds:g} s")
        if self.error is not None:
            raise self.error
        return self.answer
