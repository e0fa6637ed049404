"""Lanes: docker-py's blocking calls in worker threads, so many of a kind at a time, each kind with its own client."""

import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar

import attrs
import trio
from requests import Response

from supervisor.conversation.errors import Busy, EngineUnavailable
from supervisor.sandbox.docker.client import EngineClient
from supervisor.sandbox.docker.limits import READ_MOST, TimeLimit, current_limit, read_limit
from supervisor.sandbox.docker.streams import EngineStream, open_stream
from supervisor.sandbox.docker.translation import ENGINE_ERRORS, speaks_another_version, translate, words_of
from supervisor.threads import NoThread, in_thread

T = TypeVar("T")


@attrs.frozen
class Lanes:
    """How many calls of a kind may run at once: the config's `[docker] lanes`.

    `launch` are creates and starts, which keep the engine's cores busy: more at once only take longer. `control` are
    the quick ones, that must not wait behind those: looks, pauses and resumes. `stop` are graceful stops, and as many
    removals beside them. `stream` are followed logs, `transfer` image pulls and workspace exports.
    """

    control: int = 8
    launch: int = 8
    stop: int = 32
    stream: int = 32
    kill: int = 8
    transfer: int = 8


class Lane:
    """One kind of engine calls: at most `size` at once, over connections that no other lane uses."""

    def __init__(self, base_url: str | None, size: int) -> None:
        self.slots = trio.CapacityLimiter(size)
        self._base_url = base_url
        self._client: EngineClient | None = None
        self._lock = threading.Lock()
        self._closed = False

    async def call(self, limit: TimeLimit, function: Callable[[EngineClient], T]) -> T:
        """Run a call in a thread of this lane; when the caller is cancelled it still waits for the answer.

        Raises:
            ConversationdError: what `translate` makes of docker-py's errors, or what the function itself raises.
        """
        return await self._in_thread(partial(self.run, limit, function), abandon_on_cancel=False)

    async def look(self, function: Callable[[EngineClient], T], most: float = READ_MOST) -> T:
        """Run a call that changes nothing, for `most` seconds: whoever is cancelled leaves it to end by itself.

        Raises:
            ConversationdError: as for `call`.
        """
        return await self._in_thread(partial(self.run, read_limit(most), function), abandon_on_cancel=True)

    def open_stream(
        self, limit: TimeLimit, begin: Callable[[EngineClient], Response]
    ) -> AbstractAsyncContextManager[EngineStream]:
        """Begin an answer without an end; see `streams.open_stream`. It takes none of the lane's places."""
        return open_stream(partial(self.run, limit, begin))

    @asynccontextmanager
    async def slot(self) -> AsyncGenerator[None]:
        """Hold one of the lane's places for longer than a call, waiting for it if need be."""
        holder = object()
        await self.slots.acquire_on_behalf_of(holder)
        try:
            yield
        finally:
            self.slots.release_on_behalf_of(holder)

    @asynccontextmanager
    async def slot_now(self, what: str) -> AsyncGenerator[None]:
        """Hold one of the lane's places, or refuse.

        Raises:
            Busy: all are held; `what` says by what.
        """
        holder = object()
        try:
            self.slots.acquire_on_behalf_of_nowait(holder)
        except trio.WouldBlock:
            raise Busy(f"{int(self.slots.total_tokens)} {what} already: try again when one has ended") from None
        try:
            yield
        finally:
            self.slots.release_on_behalf_of(holder)

    def run(self, limit: TimeLimit, function: Callable[[EngineClient], T]) -> T:
        """The same in the thread that we are already in."""
        current_limit.set(limit)
        try:
            return function(self._connected())
        except ENGINE_ERRORS as error:
            if speaks_another_version(error):
                self._disconnect()
            raise translate(error) from error

    def close(self) -> None:
        """Close the connections; calls that are still under way close theirs when they end."""
        self._closed = True
        self._disconnect()

    async def _in_thread(self, call: Callable[[], T], *, abandon_on_cancel: bool) -> T:
        try:
            return await in_thread(call, self.slots, abandon_on_cancel=abandon_on_cancel)
        except NoThread as error:
            raise EngineUnavailable(str(error)) from error

    def _connected(self) -> EngineClient:
        """The lane's client, made when an engine first answers; no thread waits for another one's attempt."""
        client = self._client
        if client is not None:
            return client
        made = self._connect()
        with self._lock:
            if self._client is None and not self._closed:
                self._client = made
        if self._client is not made:
            made.close()
        if self._client is None:
            raise EngineUnavailable("the connection to the Docker Engine is closed")
        return self._client

    def _connect(self) -> EngineClient:
        try:
            return EngineClient(self._base_url, int(self.slots.total_tokens))
        except ENGINE_ERRORS as error:
            where = self._base_url or "its default socket"
            raise EngineUnavailable(f"no Docker Engine answers at {where}: {words_of(error)}") from error

    def _disconnect(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()
