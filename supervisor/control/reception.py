"""Reception: takes connections in, no more than there are places for, and lets them end in two phases.

Nothing that a client does leaves its connection: whatever goes wrong there is logged here and ends there.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import attrs
import structlog
import trio

from supervisor.control.handshake import Refusal
from supervisor.control.sockets import Bound
from supervisor.control.stream import let_go

_REFUSED_AT_ONCE: Final = 32

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

ByteStream: TypeAlias = trio.abc.HalfCloseableStream
Converse: TypeAlias = Callable[[ByteStream], Awaitable[None]]


@attrs.frozen
class HouseRules:
    """What holds for every connection of a server.

    `name` begins its log lines, `full` is the answer when all places of a listener are taken, `ordinary_ends` are what
    connections end with every day. `linger` is seconds that a connection has to be let go, `shutdown` those that all of
    them have once the end has begun.
    """

    name: str
    max_connections: int
    full: Refusal
    ordinary_ends: tuple[type[Exception], ...]
    linger: float
    shutdown: float


@attrs.define(eq=False)
class _Door:
    """One listener: what is done with who comes in, and how many are in."""

    converse: Converse
    open: int = 0


class Reception:
    """One server's connections. `run` it once; `begin_shutdown` makes it return."""

    def __init__(self, rules: HouseRules) -> None:
        self._rules = rules
        self._doors: list[_Door] = []
        self._shelters: set[trio.CancelScope] = set()
        self.ending = trio.Event()

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return sum(door.open for door in self._doors)

    def begin_shutdown(self) -> None:
        """Stop accepting, and bound what is left to every connection. Returns at once."""
        if self.ending.is_set():
            return
        self.ending.set()
        for shelter in self._shelters:
            shelter.deadline = trio.current_time() + self._rules.shutdown

    async def run(
        self, bound: Sequence[Bound], open_door: Callable[[Bound], Converse], end: Callable[[], None]
    ) -> None:
        """Accept until the end has begun, which a cancellation does by `end`, and wait until all are gone."""
        async with trio.open_nursery() as connections:
            try:
                await self._accept_until_the_end(bound, open_door, connections)
            finally:
                end()

    async def _accept_until_the_end(
        self, bound: Sequence[Bound], open_door: Callable[[Bound], Converse], connections: trio.Nursery
    ) -> None:
        async with trio.open_nursery() as accepting:
            for one in bound:
                door = _Door(open_door(one))
                self._doors.append(door)
                accepting.start_soon(self._accept, one, door, connections)
            await self.ending.wait()
            accepting.cancel_scope.cancel()

    async def _accept(self, bound: Bound, door: _Door, connections: trio.Nursery) -> None:
        async def handle(stream: trio.SocketStream) -> None:
            await self._shelter(door, stream)

        await trio.serve_listeners(handle, list(bound.listeners), handler_nursery=connections)

    async def _shelter(self, door: _Door, stream: ByteStream) -> None:
        # Connections outlive a cancellation of `run` by the moment that their last words take. The shield is bounded as
        # soon as the end begins, which `run` never leaves out.
        with trio.CancelScope(shield=True) as shelter:
            self._shelters.add(shelter)
            if self.ending.is_set():
                shelter.cancel()
            try:
                await self._contain(door, stream)
            finally:
                self._shelters.discard(shelter)

    async def _contain(self, door: _Door, stream: ByteStream) -> None:
        door.open += 1
        try:
            if door.open > self._rules.max_connections:
                await self._refuse(door, stream)
            else:
                await door.converse(stream)
        except* self._rules.ordinary_ends as group:
            _log.debug(f"{self._rules.name}.connection_ended", causes=[repr(cause) for cause in group.exceptions])
        except* Exception:  # noqa: BLE001 - the boundary: one client's failure is nobody else's
            _log.exception(f"{self._rules.name}.connection_failed")
        finally:
            with trio.move_on_after(self._rules.linger, shield=True):
                await let_go(stream)
            door.open -= 1

    async def _refuse(self, door: _Door, stream: ByteStream) -> None:
        if door.open > self._rules.max_connections + _REFUSED_AT_ONCE:
            await trio.aclose_forcefully(stream)
            return
        _log.warning(f"{self._rules.name}.connections_exhausted", max_connections=self._rules.max_connections)
        await stream.send_all(self._rules.full.encode())
