"""Waiting for a condition of the real world, which tells nobody when it comes true."""

from collections.abc import Callable
from typing import Final

import trio

_LOOK_AGAIN_AFTER: Final = 0.05


async def comes_true(condition: Callable[[], bool], within: float) -> bool:
    """Wait until it is true, for some seconds at the most; says whether it is."""
    deadline = trio.current_time() + within
    while True:
        await trio.lowlevel.checkpoint()
        if condition():
            return True
        if trio.current_time() > deadline:
            return False
        await trio.sleep(_LOOK_AGAIN_AFTER)
