"""A Unix socket in front of the engine's that can stop forwarding, as an engine that hangs does."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio

_CHUNK = 65536


class EngineProxy:
    """Forwards bytes both ways until `stall`; connections stay open then, and new ones are still accepted."""

    def __init__(self, engine_url: str, path: Path) -> None:
        self.base_url = f"unix://{path}"
        self._engine = engine_url.removeprefix("unix://")
        self._flowing = trio.Event()
        self._flowing.set()

    def stall(self) -> None:
        """Forward nothing from now on."""
        self._flowing = trio.Event()

    def resume(self) -> None:
        """Forward again what has waited."""
        self._flowing.set()

    async def serve(
        self, listener: trio.socket.SocketType, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept connections for ever."""
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                client, _ = await listener.accept()
                nursery.start_soon(self._join, trio.SocketStream(client))

    async def _join(self, client: trio.SocketStream) -> None:
        async with client, await trio.open_unix_socket(self._engine) as engine, trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, client, engine)
            await self._answer(engine, client)
            nursery.cancel_scope.cancel()

    async def _answer(self, engine: trio.SocketStream, client: trio.SocketStream) -> None:
        """Forward what the engine says; for those who forward it otherwise."""
        await self._pump(engine, client)

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        await trio.lowlevel.checkpoint()
        with suppress(trio.BrokenResourceError):  # one side has gone
            while chunk := await source.receive_some(_CHUNK):
                await self._flowing.wait()
                await sink.send_all(chunk)


@asynccontextmanager
async def proxied_engine(engine_url: str, path: Path) -> AsyncIterator[EngineProxy]:
    """A proxy that runs for as long as the context lasts."""
    proxy = EngineProxy(engine_url, path)
    async with serving(proxy, path):
        yield proxy


@asynccontextmanager
async def serving(proxy: EngineProxy, path: Path) -> AsyncIterator[None]:
    """Let a proxy serve at a path for as long as the context lasts."""
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(str(path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            await nursery.start(proxy.serve, listener)
            yield
            nursery.cancel_scope.cancel()
