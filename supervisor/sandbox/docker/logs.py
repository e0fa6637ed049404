"""A sandbox's output: the engine's frames of stdout and stderr, taken apart into lines."""

from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio
from requests import Response

from supervisor.conversation.errors import EngineUnavailable, SandboxFailed
from supervisor.sandbox.docker.client import EngineClient
from supervisor.sandbox.docker.containers import Containers
from supervisor.sandbox.docker.lanes import Lane
from supervisor.sandbox.docker.limits import READ_MOST, read_limit
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


async def read_logs(lane: Lane, containers: Containers, name: str, tail: int, most: float = READ_MOST) -> Sequence[str]:
    """The last lines that the engine has kept; none if it has none to tell. Never holds more than `tail` of them.

    Once it has begun to answer no request's limit keeps the engine from stopping in the middle, so the whole is limited
    to `most` seconds, and who is cancelled leaves at once.

    Raises:
        EngineUnavailable: the engine does not answer, or not to the end.
    """
    with trio.move_on_after(most):
        await trio.lowlevel.checkpoint()
        try:
            async with (
                lane.slot(),
                lane.open_stream(read_limit(), partial(_begin, containers=containers, name=name, tail=tail)) as stream,
            ):
                return await stream.read(partial(_read, stream, tail))
        except SandboxFailed:
            return ()
    raise EngineUnavailable(f"the Docker Engine did not tell the output of {name} within {most:g} s")


def _begin(client: EngineClient, containers: Containers, name: str, tail: int) -> Response:
    container = containers.find(client, name)
    if container is None:
        raise SandboxFailed(f"{name} is gone, and its output with it")
    return client.open_stream("GET", f"/containers/{container}/logs", _parameters(tail, follow=False))


def _read(stream: EngineStream, tail: int) -> Sequence[str]:
    lines: deque[str] = deque(maxlen=tail)
    split = LogLines()
    while chunk := stream.next_chunk_blocking():
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
