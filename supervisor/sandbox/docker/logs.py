"""A sandbox's output: the engine's frames of stdout and stderr, taken apart into lines."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio
from docker.errors import NotFound

from supervisor.sandbox.docker.client import EngineClient
from supervisor.sandbox.docker.containers import Containers
from supervisor.sandbox.docker.lanes import Lane
from supervisor.sandbox.docker.limits import read_limit
from supervisor.sandbox.docker.streams import EngineStream
from supervisor.sandbox.lines import Lines

_HEADER_SIZE: Final = 8
_SIZE_OFFSET: Final = 4


class LogLines:
    """Takes the engine's stream of frames apart: a header with stream number and size, then so many bytes.

    Lines of stdout and stderr are put together apart from each other and come in the order in which they end.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._stream = 0
        self._left = 0
        self._streams: dict[int, Lines] = {}

    def feed(self, chunk: bytes) -> list[str]:
        """The lines that end in this chunk."""
        lines: list[str] = []
        rest = memoryview(chunk)
        while rest:
            if self._left == 0:
                rest = self._take_header(rest)
            else:
                payload, rest = rest[: self._left], rest[self._left :]
                self._left -= len(payload)
                lines += self._take_payload(bytes(payload))
        return lines

    def finish(self) -> list[str]:
        """What is left of lines that never ended."""
        return [line for _, lines in sorted(self._streams.items()) for line in lines.finish()]

    def _take_header(self, data: memoryview) -> memoryview:
        missing = _HEADER_SIZE - len(self._header)
        self._header += data[:missing]
        if len(self._header) == _HEADER_SIZE:
            self._stream = self._header[0]
            self._left = int.from_bytes(self._header[_SIZE_OFFSET:], "big")
            self._header.clear()
        return data[missing:]

    def _take_payload(self, payload: bytes) -> list[str]:
        return self._streams.setdefault(self._stream, Lines()).feed(payload)


def read_logs(client: EngineClient, containers: Containers, name: str, tail: int) -> Sequence[str]:
    """The last lines that the engine has kept; blocks. Never holds more than `tail` of them."""
    container = containers.find(client, name)
    if container is None:
        return ()
    try:
        response = client.open_stream("GET", f"/containers/{container}/logs", _parameters(tail, follow=False))
    except NotFound:
        return ()
    lines: deque[str] = deque(maxlen=tail)
    split = LogLines()
    with response:
        for chunk in response.iter_content(None):
            lines += split.feed(chunk)
    lines += split.finish()
    return tuple(lines)


@asynccontextmanager
async def follow_logs(lane: Lane, container: str, tail: int) -> AsyncGenerator[AsyncIterator[str]]:
    """Open a container's output for as long as the context lasts; at the end no thread is left.

    Raises:
        Busy: as many logs are followed as the lane allows.
        EngineUnavailable: the engine does not answer.
    """
    parameters = _parameters(tail, follow=True)
    async with (
        lane.slot_now("logs are followed"),
        lane.open_stream(
            read_limit(),
            lambda client: client.open_stream("GET", f"/containers/{container}/logs", parameters),
        ) as stream,
    ):
        yield FollowedLines(stream)


class FollowedLines(AsyncIterator[str]):
    """The lines of a stream as they come. Nothing is read ahead of whoever iterates: the engine waits for them."""

    def __init__(self, stream: EngineStream) -> None:
        self._stream = stream
        self._split = LogLines()
        self._ready: deque[str] = deque()
        self._ended = False

    async def __anext__(self) -> str:
        await trio.lowlevel.checkpoint()
        while not self._ready:
            if self._ended:
                raise StopAsyncIteration
            chunk = await self._stream.next_chunk()
            self._ended = not chunk
            self._ready.extend(self._split.feed(chunk) if chunk else self._split.finish())
        return self._ready.popleft()


def _parameters(tail: int, *, follow: bool) -> dict[str, str]:
    return {"stdout": "1", "stderr": "1", "tail": str(tail), "follow": str(int(follow))}
