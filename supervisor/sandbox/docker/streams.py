"""Answers without an end: read by a worker thread, ended at once from the Trio side."""

import json
import os
import socket
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, TypeVar

import outcome
import trio
from requests import Response

from supervisor.conversation.errors import EngineUnavailable
from supervisor.sandbox.docker.translation import ENGINE_ERRORS, translate
from supervisor.sandbox.docker.views import EngineJson
from supervisor.threads import NoThread, in_thread

T = TypeVar("T")

READER: Final = "engine-stream"
"""The name of the threads that read a stream."""


class EngineStream:
    """The body of one answer, as chunks. At most one read at a time."""

    def __init__(self, response: Response) -> None:
        self._response = response
        self._chunks = response.iter_content(None)
        # A socket of our own for the same connection: whatever the reader does with its own, this one can end it.
        self._socket = socket.socket(fileno=os.dup(response.raw.fileno()))

    async def next_chunk(self) -> bytes:
        """The next bytes as soon as the engine sends some; none at the end."""
        return await self.read(self.next_chunk_blocking)

    async def read(self, read: Callable[[], T]) -> T:
        """Run a blocking read in a thread; cancellation ends the stream, so that the thread always ends with us.

        With `trio.to_thread` a second task would have to stand by for that, and every event of the engine would wait
        until it has gone.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()

        def deliver(result: outcome.Outcome[T]) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(trio.lowlevel.reschedule, task, outcome.Value(result))

        def abort(_: object) -> trio.lowlevel.Abort:
            self.end()
            return trio.lowlevel.Abort.FAILED

        try:
            trio.lowlevel.start_thread_soon(read, deliver, READER)
        except RuntimeError as error:
            raise EngineUnavailable(str(NoThread())) from error
        result: outcome.Outcome[T] = await trio.lowlevel.wait_task_rescheduled(abort)
        await trio.lowlevel.checkpoint_if_cancelled()
        return result.unwrap()

    def next_chunk_blocking(self) -> bytes:
        """`next_chunk` for a function that `read` runs.

        Raises:
            EngineUnavailable: the connection broke.
        """
        try:
            return next(self._chunks, b"")
        except ENGINE_ERRORS as error:
            raise translate(error) from error

    def end(self) -> None:
        """Make whoever reads see the end now."""
        with suppress(OSError):  # the engine was first
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the connection."""
        self._response.close()
        self._socket.close()


@asynccontextmanager
async def open_stream(begin: Callable[[], Response]) -> AsyncGenerator[EngineStream]:
    """Begin an answer in a thread; it is closed at the end.

    Beginning it changes nothing at the engine, so a cancelled caller leaves at once: the thread then closes what it
    still gets, when its limit passes at the latest.

    Raises:
        ConversationdError: the engine does not answer, or refuses.
    """
    opening = _Opening()
    try:
        stream = await in_thread(partial(opening.run, begin), trio.CapacityLimiter(1), abandon_on_cancel=True)
    except NoThread as error:
        raise EngineUnavailable(str(error)) from error
    except BaseException:
        opening.abandon()
        raise
    try:
        yield stream
    finally:
        stream.close()


class JsonLines:
    """Takes a stream of JSON objects, one a line, apart."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> list[EngineJson]:
        """The objects that end in this chunk."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        return [json.loads(line) for line in lines if line.strip()]


class _Opening:
    """Hands a stream from the thread that opens it to the task that wants it, or closes it if that one has left."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._abandoned = False
        self._stream: EngineStream | None = None

    def run(self, begin: Callable[[], Response]) -> EngineStream:
        stream = EngineStream(begin())
        with self._lock:
            self._stream = stream
            unwanted = self._abandoned
        if unwanted:
            stream.close()
        return stream

    def abandon(self) -> None:
        with self._lock:
            self._abandoned = True
            stream = self._stream
        if stream is not None:
            stream.close()
