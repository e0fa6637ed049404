"""The real daemon over an engine in memory that has every image, as a program: `python -m` this module `--config FILE`.

Nothing of it runs, so a fuzzer may ask for any command, mount or limit. Only the table of providers is another one.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final
from unittest.mock import patch

import attrs
import trio

from supervisor.cli.conversationd import main
from supervisor.conversation.spec import SandboxSpec
from supervisor.providers import Surroundings, open_providers
from supervisor.sandbox.port import Endpoint, PullProgress, SandboxProvider, SandboxView
from tests.fakes.engine import FakeEngine

_ANSWER: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"


class WillingEngine(FakeEngine):
    """Satisfies `SandboxProvider`. Whatever port a sandbox has, `port` is where it is reached."""

    def __init__(self, owner: str, port: int) -> None:
        super().__init__(owner=owner, latency=0.0)
        self.port: Final = port

    async def ensure_image(
        self, spec: SandboxSpec, progress: Callable[[PullProgress], Awaitable[None]], stall: float
    ) -> None:
        """As the port says; it is there."""
        self.images = {spec.image}
        await super().ensure_image(spec, progress, stall)

    def _view(self, name: str) -> SandboxView:
        view = super()._view(name)
        return view if view.published is None else attrs.evolve(view, published=Endpoint("127.0.0.1", self.port))


async def _serve(stream: trio.SocketStream) -> None:
    """Answer one request with an empty object, which is a ready server and no good agent."""
    with suppress(trio.BrokenResourceError):
        if await stream.receive_some():
            await stream.send_all(_ANSWER)
    await trio.aclose_forcefully(stream)


@asynccontextmanager
async def _open(around: Surroundings) -> AsyncIterator[SandboxProvider]:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, _serve, 0, host="127.0.0.1"))
        yield WillingEngine(around.owner, listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    with patch("supervisor.daemon.open_providers", partial(open_providers, openers={"docker": _open})):
        main()
