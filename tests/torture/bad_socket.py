"""The engine's socket in front of the engine, which hangs, crawls, or breaks off in the middle of an answer."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import trio

from tests.engine.proxy import EngineProxy, serving

_CHUNK: Final = 1024


class BadSocket(EngineProxy):
    """An `EngineProxy` that can also crawl and cut."""

    def __init__(self, engine_url: str, path: Path) -> None:
        super().__init__(engine_url, path)
        self.cuts = 0
        self._delay = 0.0
        self._to_cut = 0

    def crawl(self, delay: float) -> None:
        """From now on wait so many seconds with every kilobyte; 0 is full speed again."""
        self._delay = delay

    def cut_replies(self, count: int) -> None:
        """Break off in the middle of the next so many answers; the engine has done by then what it was asked to."""
        self._to_cut = count

    async def _answer(self, engine: trio.SocketStream, client: trio.SocketStream) -> None:
        await trio.lowlevel.checkpoint()
        with suppress(trio.BrokenResourceError):  # one side has gone
            while chunk := await engine.receive_some(_CHUNK):
                await self._flowing.wait()
                await trio.sleep(self._delay)
                if self._to_cut > 0:
                    self._to_cut -= 1
                    self.cuts += 1
                    await client.send_all(chunk[: len(chunk) // 2])
                    return
                await client.send_all(chunk)


@asynccontextmanager
async def bad_socket(engine_url: str, path: Path) -> AsyncIterator[BadSocket]:
    """One that runs for as long as the context lasts."""
    proxy = BadSocket(engine_url, path)
    async with serving(proxy, path):
        yield proxy
