"""The monitor of one sandbox: work that needs it ends when it does.

The term is Erlang's, whose monitors tell of a death.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from supervisor.actors.findings import Died, describe_death
from supervisor.conversation.errors import ConversationdError, EngineUnavailable
from supervisor.sandbox.port import SandboxProvider, SandboxState, SandboxView

_LOOK_AFTER: Final = 0.02


class SandboxDied(Exception):
    """This attempt's sandbox ended, or did not get ready in time."""

    def __init__(self, died: Died) -> None:
        super().__init__(died.message)
        self.died = died


class SandboxMoved(Exception):
    """The sandbox is reached in another way from now on: its engine has brought it up, or brought it up again."""

    def __init__(self, view: SandboxView) -> None:
        super().__init__(f"{view.name} is at {view.url}")
        self.view = view


class SandboxMonitor:
    """Watches over a sandbox while something is done that needs it."""

    def __init__(self, provider: SandboxProvider) -> None:
        self._provider = provider
        self._poked = trio.Event()

    def poke(self) -> None:
        """Look at the sandbox: something may have happened to it."""
        self._poked.set()

    async def while_alive(self, view: SandboxView, *works: Callable[[], Awaitable[None]]) -> None:
        """Do some work that needs a sandbox, all at once; the first failure ends the rest.

        Raises:
            SandboxDied: the sandbox ended meanwhile.
            SandboxMoved: it is not reached as `view` says any more.
        """
        failure: SandboxDied | SandboxMoved | ConversationdError | None = None
        under_way = len(works)

        async def watch(scope: trio.CancelScope) -> None:
            nonlocal failure
            failure = await self._await_news(view)
            scope.cancel()

        async def do(work: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
            nonlocal failure, under_way
            await trio.lowlevel.checkpoint()
            try:
                await work()
            except ConversationdError as error:
                failure = error
            under_way -= 1
            if failure is not None or not under_way:
                scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch, nursery.cancel_scope)
            for work in works:
                nursery.start_soon(do, work, nursery.cancel_scope)
        if failure is not None:
            raise failure

    async def _await_news(self, seen: SandboxView) -> SandboxDied | SandboxMoved:
        while True:
            await self._poked.wait()
            # Most hints are of what we did ourselves: work that is done by then is spared a look.
            await trio.sleep(_LOOK_AFTER)
            self._poked = trio.Event()
            try:
                view = await self._provider.inspect(seen.name)
            except EngineUnavailable:
                continue  # unknown is not dead; the next hint comes when the engine is back
            if view is None or view.state in (SandboxState.EXITED, SandboxState.CREATED):
                return SandboxDied(describe_death(view))
            if _way_to(view) != _way_to(seen):
                return SandboxMoved(view)


def _way_to(view: SandboxView) -> tuple[str | None, str | None, bool]:
    return view.url, view.session_key, view.is_pending
