"""Follows a sandbox's output: wakes when there is more of it, and when its keeper has ended."""

import os
import select
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress

import attrs
import trio

from supervisor.sandbox.process.inotify import watch_directory
from supervisor.sandbox.process.lanes import Lane
from supervisor.sandbox.process.logs import LogReader
from supervisor.sandbox.process.proc import open_pidfd
from supervisor.sandbox.process.sandboxes import Sandbox

_EVENTS_AT_ONCE = 64 * 1024


@attrs.frozen
class Opened:
    """An output that is followed, and the one descriptor that says when to look again. `keeper` is None if it ended."""

    reader: LogReader
    ready: "deque[str]"
    wake: select.epoll
    changes: int
    keeper: int | None


@asynccontextmanager
async def follow_logs(lane: Lane, sandbox: Sandbox, tail: int) -> AsyncGenerator[AsyncIterator[str]]:
    """Open a sandbox's output for as long as the context lasts."""
    with ExitStack() as stack:
        yield FollowedLines(lane, await lane.call(_open, sandbox, tail, stack))


class FollowedLines(AsyncIterator[str]):
    """The lines as they come. Nothing is read ahead of whoever iterates, but that the log is bounded."""

    def __init__(self, lane: Lane, opened: Opened) -> None:
        self._lane = lane
        self._opened = opened
        self._ended = False

    async def __anext__(self) -> str:
        await trio.lowlevel.checkpoint()
        ready = self._opened.ready
        while not ready:
            if self._ended:
                raise StopAsyncIteration
            if self._opened.keeper is not None:
                await trio.lowlevel.wait_readable(self._opened.wake.fileno())
            self._ended = await self._lane.call(_read_on, self._opened)
        return ready.popleft()


def _open(sandbox: Sandbox, tail: int, stack: ExitStack) -> Opened:
    changes = watch_directory(sandbox.path)
    stack.callback(os.close, changes)
    wake = stack.enter_context(select.epoll())
    wake.register(changes, select.EPOLLIN)
    keeper = open_pidfd(sandbox.keeper) if sandbox.keeper is not None else None
    if keeper is not None:
        stack.callback(os.close, keeper)
        wake.register(keeper, select.EPOLLIN)
    reader = LogReader(sandbox.path)
    stack.callback(reader.close)
    return Opened(reader, deque(reader.begin(tail)), wake, changes, keeper)


def _read_on(opened: Opened) -> bool:
    """Read what has come; True says that nothing will come any more."""
    # Asked before reading: what a keeper has written is there when it has ended.
    ended = opened.keeper is None or bool(select.select([opened.keeper], [], [], 0)[0])
    with suppress(BlockingIOError):
        os.read(opened.changes, _EVENTS_AT_ONCE)
    opened.ready.extend(opened.reader.more())
    if ended:
        opened.ready.extend(opened.reader.finish())
    return ended
