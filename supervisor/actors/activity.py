"""An activity: what goes on for a conversation beside its mailbox, as long as its status lasts."""

from collections.abc import Awaitable, Callable

import trio


class Activity:
    """Work of an actor that can be ended, and whose end can be waited for."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def run(self) -> None:
        """Do the work; what it raises is the caller's."""
        try:
            with self._scope:
                await self._work()
        finally:
            self._ended.set()

    def cancel(self) -> None:
        """Ask it to end."""
        self._scope.cancel()

    async def end(self) -> None:
        """Ask it to end and wait until it has: an engine call under way is waited for."""
        self._scope.cancel()
        await self._ended.wait()
