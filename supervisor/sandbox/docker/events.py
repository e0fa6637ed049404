"""The engine's events: one stream for all sandboxes of an owner, kept up for ever."""

import time
from contextlib import suppress
from typing import Final, NoReturn

import attrs
import trio
from docker.utils import convert_filters
from requests import Response

from supervisor.conversation.errors import EngineUnavailable
from supervisor.sandbox.docker.client import EngineClient
from supervisor.sandbox.docker.containers import Containers
from supervisor.sandbox.docker.endings import HEARD, Endings
from supervisor.sandbox.docker.lanes import Lane
from supervisor.sandbox.docker.limits import read_limit
from supervisor.sandbox.docker.streams import EngineStream, JsonLines
from supervisor.sandbox.port import EngineObserver

_DELAY_FIRST: Final = 0.05
_DELAY_MOST: Final = 2.0
_SETTLED: Final = 1.0
_OVERLAP: Final = 1


@attrs.frozen
class Pulse:
    """How a connection that is open but dead is noticed: pings while no event comes. Times are seconds."""

    every: float = 10.0
    limit: float = 5.0
    failures: int = 2


@attrs.define
class EngineWatch:
    """Follows the engine's events and tells the observer; see the port."""

    lane: Lane
    containers: Containers
    endings: Endings
    observer: EngineObserver
    pulse: Pulse = attrs.field(factory=Pulse)
    _lost: bool = False
    _silence: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def run(self) -> NoReturn:
        """Follow for ever. A stream that ends is opened again at once; only when that fails is the engine lost."""
        delay = _DELAY_FIRST
        while True:
            stood = await self._follow()
            self.endings.forget_all()
            if stood > _SETTLED:
                delay = _DELAY_FIRST
            if self._lost or stood <= _SETTLED:
                await trio.sleep(delay)
                delay = min(2 * delay, _DELAY_MOST)

    async def _follow(self) -> float:
        """Follow one stream to its end; answers for how many seconds it stood."""
        await trio.lowlevel.checkpoint()
        try:
            async with self.lane.open_stream(read_limit(), self._begin) as stream:
                self._lost = False
                began = trio.current_time()
                self.endings.begin(began)
                self.observer.engine_connected()
                await self._listen(stream)
                return trio.current_time() - began
        except EngineUnavailable as error:
            self._lose(error.message)
            return 0.0

    async def _listen(self, stream: EngineStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feel_pulse, stream)
            with suppress(EngineUnavailable):  # a broken stream is an ended one
                await self._hear(stream)
            nursery.cancel_scope.cancel()

    async def _hear(self, stream: EngineStream) -> None:
        messages = JsonLines()
        while chunk := await stream.next_chunk():
            now = trio.current_time()
            self._silence.deadline = now + self.pulse.every
            for event in messages.feed(chunk):
                conversation = self.endings.hear(event, now, time.time())
                if conversation is not None:
                    self.observer.sandbox_changed(conversation)

    async def _feel_pulse(self, stream: EngineStream) -> None:
        """End a stream whose engine does not answer any more."""
        failed = 0
        while True:
            if failed == 0:
                await self._wait_for_silence()
            failed = 0 if await self._answers() else failed + 1
            if failed == self.pulse.failures:
                break
        self._lose(f"the engine answered none of {failed} pings in a row")
        stream.end()

    async def _wait_for_silence(self) -> None:
        with trio.move_on_after(self.pulse.every) as self._silence:
            await trio.sleep_forever()

    async def _answers(self) -> bool:
        await trio.lowlevel.checkpoint()
        try:
            await self.lane.look(_ping, self.pulse.limit)
        except EngineUnavailable:
            return False
        return True

    def _lose(self, reason: str) -> None:
        if not self._lost:
            self._lost = True
            self.observer.engine_lost(reason)

    def _begin(self, client: EngineClient) -> Response:
        """Ask for the events from a moment ago: the engine answers just before it begins to listen to itself."""
        self.containers.host(client)
        filters = {"label": [self.containers.names.owner_filter()], "type": ["container"], "event": list(HEARD)}
        parameters = {"filters": convert_filters(filters), "since": str(int(time.time()) - _OVERLAP)}
        return client.open_stream("GET", "/events", parameters)


def _ping(client: EngineClient) -> None:
    client.ping()
