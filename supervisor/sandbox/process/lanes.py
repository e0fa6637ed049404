"""Lanes: work on files and processes in worker threads, so much of a kind at a time."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar, TypeVarTuple

import trio

from supervisor.conversation.errors import EngineUnavailable
from supervisor.sandbox.process.trees import StillThere
from supervisor.threads import NoThread, in_thread

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Lane:
    """One kind of work: at most `size` at once."""

    def __init__(self, size: int) -> None:
        self._slots = trio.CapacityLimiter(size)

    async def call(self, function: Callable[[*Ts], T], *arguments: *Ts) -> T:
        """Run it in a thread of this lane. Whoever is cancelled still waits for its end: none of it takes long.

        Raises:
            EngineUnavailable: the host does not do what it was asked: its disk is full, say.
        """
        try:
            return await in_thread(partial(function, *arguments), self._slots)
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            raise EngineUnavailable(f"the host does not do it: {where}{error.strerror or error}") from error
        except (StillThere, NoThread) as error:
            raise EngineUnavailable(f"the host does not do it: {error}") from error
