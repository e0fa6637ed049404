"""Worker threads, on a host that may have none to spare: its pids, or ours, can be used up."""

from collections.abc import Callable
from typing import TypeVar

import trio

from supervisor.conversation.errors import HostTrouble

_T = TypeVar("_T")


class NoThread(HostTrouble):
    """The host started no thread for us; nothing was done."""

    def __init__(self) -> None:
        super().__init__("the host has no thread to spare: are its pids used up, or the unit's TasksMax?")


async def in_thread(call: Callable[[], _T], limiter: trio.CapacityLimiter, *, abandon_on_cancel: bool = False) -> _T:
    """Run a blocking call in a worker thread, as `trio.to_thread.run_sync` does.

    Raises:
        NoThread: the call was not begun. Whatever the call itself raises comes as it is.
    """
    begun = False

    def begin() -> _T:
        nonlocal begun
        begun = True
        return call()

    try:
        return await trio.to_thread.run_sync(begin, abandon_on_cancel=abandon_on_cancel, limiter=limiter)
    except RuntimeError as error:
        if begun:
            raise
        raise NoThread from error
