"""docker-py and the lanes of our provider over the simulated engine: blocking code on simulated time.

The provider's blocking functions run unchanged in a greenlet. Where they ask the engine, or sleep, they hand that to
the Trio task that runs them, which waits on simulated time and hands the answer back. So each call of the engine is a
moment of its own at which anything may happen, and nothing depends on threads.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol, TypeVar, cast

import trio
from docker.auth import AuthConfig
from greenlet import getcurrent, greenlet
from outcome import Outcome, capture

from supervisor.conversation.json import JsonObject
from supervisor.sandbox.docker.client import EngineClient
from supervisor.sandbox.docker.lanes import Lane
from supervisor.sandbox.docker.limits import READ_MOST, TimeLimit, current_limit, read_limit
from supervisor.sandbox.docker.streams import EngineStream
from supervisor.sandbox.docker.views import EngineJson
from tests.simulation.calls import Stream
from tests.simulation.docker import Engine

T = TypeVar("T")

_Waiting = Callable[[], Awaitable[object]]
"""What a greenlet hands over: something to wait for."""


class Line(Protocol):
    """The connection between one daemon's life and the engine: it can be cut, and counts what goes over it."""

    engine: Engine

    async def mutate(self, op: str, effect: _Waiting, limit: float, name: str | None = None) -> object:
        """Ask the engine to change something."""

    async def look(self, op: str, effect: Callable[[], object], limit: float) -> object:
        """Ask the engine for something."""


def wait_for(waiting: _Waiting) -> object:
    """Called in a greenlet: let the task that runs it wait."""
    loop = getcurrent().parent
    assert loop is not None
    return loop.switch(waiting)


class SimulatedClient:
    """As much of `EngineClient` as our provider uses, and what docker-py looks for in it."""

    is_local: Final = False
    credstore_env: Final = None

    def __init__(self, line: Line) -> None:
        self.line = line
        self._auth_configs = AuthConfig({"auths": {"registry.simulated": {}}})

    def info(self) -> EngineJson:
        """Of the host, what we need to know."""
        return self._look("info", lambda: {"NCPU": 2, "SecurityOptions": []})

    def version(self) -> EngineJson:
        """Who it is."""
        return self._look("version", lambda: {"Version": "simulated", "ApiVersion": "1.41"})

    def ping(self) -> None:
        """Whether it lives."""
        self._look("ping", lambda: None)

    def inspect_container(self, name: str) -> EngineJson:
        """Look at a container."""
        return self._look("inspect", lambda: self.line.engine.inspect(name))

    def containers(self, *, all: bool, filters: Mapping[str, str]) -> list[EngineJson]:  # noqa: A002 - docker-py's
        """List containers."""
        return self._look("list", lambda: self.line.engine.listing(filters["label"]))

    def volumes(self, filters: Mapping[str, str]) -> EngineJson:
        """List volumes."""
        return self._look("volumes", lambda: {"Volumes": self.line.engine.list_volumes(filters["name"])})

    def look_at_image(self, image: str) -> EngineJson:
        """Look at an image."""
        return self._look("image", lambda: self.line.engine.look_at_image(image))

    def inspect_volume(self, name: str) -> EngineJson:
        """Look at a volume."""
        return self._look("volume", lambda: self.line.engine.look_at_volume(name))

    def open_stream(
        self, method: str, path: str, params: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> "Stream | Silence":
        """Begin an answer without an end."""
        engine = self.line.engine
        if path == "/events":
            return self._look("events", lambda: engine.open_events(float(params["since"])))
        if path == "/images/create":
            return self._look("pull", lambda: engine.open_pull(params["fromImage"]))
        return self._look("logs", Silence)

    def create_named(self, name: str, body: JsonObject) -> str:
        """Create a container."""
        return cast("str", self._mutate("create", lambda: self.line.engine.create(name, body), name))

    def start(self, container: str) -> None:
        """Start a container."""
        self._mutate("start", lambda: self.line.engine.start(container))

    def stop(self, container: str, timeout: float) -> None:
        """Stop a container."""
        self._mutate("stop", lambda: self.line.engine.stop(container, timeout))

    def kill(self, container: str) -> None:
        """Kill a container."""
        self._mutate("kill", lambda: self.line.engine.kill(container))

    def rename(self, container: str, name: str) -> None:
        """Give a container another name."""
        self._mutate("rename", lambda: self.line.engine.rename(container, name))

    def pause(self, container: str) -> None:
        """Freeze a container."""
        self._mutate("pause", lambda: self.line.engine.pause(container))

    def unpause(self, container: str) -> None:
        """Thaw a container."""
        self._mutate("unpause", lambda: self.line.engine.unpause(container))

    def remove_container(self, container: str, *, v: bool, force: bool) -> None:
        """Remove a container."""
        self._mutate("remove", lambda: self.line.engine.remove(container))

    def create_volume(self, name: str, labels: Mapping[str, str]) -> EngineJson:
        """Create a volume."""
        return cast("EngineJson", self._mutate("volume", lambda: self.line.engine.create_volume(name, labels)))

    def remove_volume(self, name: str) -> None:
        """Remove a volume."""
        self._mutate("volume", lambda: self.line.engine.remove_volume(name))

    def _look(self, op: str, effect: Callable[[], T]) -> T:
        limit = current_limit.get().seconds()
        return cast("T", wait_for(lambda: self.line.look(op, effect, limit)))

    def _mutate(self, op: str, effect: _Waiting, name: str | None = None) -> object:
        limit = current_limit.get().seconds()
        return wait_for(lambda: self.line.mutate(op, effect, limit, name))


class Silence:
    """The output of a container that says nothing: as much of `EngineStream` as reading it takes."""

    async def read(self, read: Callable[[], T]) -> T:
        """Nothing has to be waited for."""
        await trio.lowlevel.checkpoint()
        return read()

    def next_chunk_blocking(self) -> bytes:
        """The end."""
        return b""

    def close(self) -> None:
        """Nothing is held."""


class SimulatedLane(Lane):
    """A lane whose calls run in greenlets: bounded, cancellable and uncancellable as those in threads are."""

    def __init__(self, line: Line, size: int) -> None:
        super().__init__(None, size)
        self._simulated = SimulatedClient(line)

    async def call(self, limit: TimeLimit, function: Callable[[EngineClient], T]) -> T:
        """See `Lane`: it waits for the answer, whatever becomes of the caller."""
        async with self.slots:
            return await self._undisturbed(limit, function)

    async def _undisturbed(self, limit: TimeLimit, function: Callable[[EngineClient], T]) -> T:
        with trio.CancelScope(shield=True):
            return await self._drive(limit, function)
        raise AssertionError("nobody cancels this scope")

    async def look(self, function: Callable[[EngineClient], T], most: float = READ_MOST) -> T:
        """See `Lane`."""
        limit = read_limit(most)
        async with self.slots:
            return await self._drive(limit, function)

    def open_stream(
        self, limit: TimeLimit, begin: Callable[[EngineClient], object]
    ) -> AbstractAsyncContextManager[EngineStream]:
        """See `Lane`."""
        return self._open(limit, begin)

    @asynccontextmanager
    async def _open(self, limit: TimeLimit, begin: Callable[[EngineClient], object]) -> AsyncIterator[EngineStream]:
        stream = cast("Stream", await self._drive(limit, begin))
        try:
            yield cast("EngineStream", stream)
        finally:
            stream.close()

    def _connected(self) -> EngineClient:
        return cast("EngineClient", self._simulated)

    async def _drive(self, limit: TimeLimit, function: Callable[[EngineClient], T]) -> T:
        """Run it in a greenlet; wait for what it waits for."""
        worker = greenlet(lambda: capture(self.run, limit, function))
        handed = worker.switch()
        while not worker.dead:
            try:
                answer = await cast("_Waiting", handed)()
            except Exception as error:  # noqa: BLE001 - it is the greenlet's, to be handled where it asked
                handed = worker.throw(error)
            else:
                handed = worker.switch(answer)
        await trio.lowlevel.checkpoint_if_cancelled()
        return cast("Outcome[T]", handed).unwrap()
