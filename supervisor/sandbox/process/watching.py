"""Watches the keepers of all sandboxes: the kernel tells at once when one ends. Nothing is asked again and again."""

import os
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from typing import NoReturn

import attrs
import structlog
import trio

from supervisor.conversation.errors import EngineUnavailable
from supervisor.sandbox.port import EngineObserver
from supervisor.sandbox.process.lanes import Lane
from supervisor.sandbox.process.proc import Identity, open_pidfd
from supervisor.sandbox.process.sandboxes import Sandbox, Sandboxes

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@attrs.define
class KeeperWatch:
    """Tells an observer of sandboxes that end: those that are found at its start, and those that are begun later."""

    sandboxes: Sandboxes
    lane: Lane
    _begun: set[str] = attrs.field(factory=set)
    _news: trio.Event = attrs.field(factory=trio.Event)

    def add(self, name: str) -> None:
        """Watch this one, too."""
        self._begun.add(name)
        self._news.set()

    async def run(self, observer: EngineObserver) -> NoReturn:
        """Watch for ever. This engine is always there: it is the host's kernel."""
        observer.engine_connected()
        watched: dict[str, Identity] = {}
        found = await self.lane.call(self.sandboxes.all)
        async with trio.open_nursery() as nursery:
            while True:
                for sandbox in found:
                    keeper = sandbox.keeper
                    if keeper is not None and watched.get(sandbox.path.name) != keeper:
                        watched[sandbox.path.name] = keeper
                        nursery.start_soon(self._await_end, sandbox, keeper, observer)
                await self._news.wait()
                self._news, names, self._begun = trio.Event(), self._begun, set()
                found = await self.lane.call(self._find, names)

    def _find(self, names: AbstractSet[str]) -> Sequence[Sandbox]:
        return [sandbox for name in sorted(names) if (sandbox := self.sandboxes.find(name)) is not None]

    async def _await_end(self, sandbox: Sandbox, keeper: Identity, observer: EngineObserver) -> None:
        pidfd = await self.lane.call(open_pidfd, keeper)
        if pidfd is not None:
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                trio.lowlevel.notify_closing(pidfd)
                os.close(pidfd)
        try:
            await self.lane.call(self.sandboxes.settle, sandbox.path.name)
        except EngineUnavailable as error:
            _log.warning("sandbox.not_settled", name=sandbox.path.name, error=str(error))
        observer.sandbox_changed(sandbox.conversation)
