"""Watches a host that tells nothing by itself: one request for all sandboxes, as often as there is something to see."""

from collections.abc import Mapping
from random import Random
from typing import Final, NoReturn, TypeAlias

import attrs
import trio

from supervisor.conversation.errors import EngineUnavailable
from supervisor.conversation.ids import ConversationId
from supervisor.sandbox.names import read_name
from supervisor.sandbox.port import EngineObserver
from supervisor.sandbox.remote.answers import Garbled, Runtime, parse_runtimes
from supervisor.sandbox.remote.host import Host, NotNow, Refused
from supervisor.sandbox.remote.views import read_view

LIST: Final = "/list"

_QUICK: Final = 0.1
_PENDING: Final = 1.0
_SLOW: Final = 5.0
_JITTER: Final = 0.25
_LOST_AFTER: Final = 3
_RETRY_FIRST: Final = 0.25
_ANSWERS_WITHIN: Final = 5.0

_Shown: TypeAlias = tuple[str, str, str | None, str | None, int]


class Bell:
    """Rung by whoever changes something at the host, or has trouble with it: the next look is to come soon."""

    def __init__(self) -> None:
        self._rung = trio.Event()

    def ring(self) -> None:
        """Have a look soon."""
        self._rung.set()

    async def heard(self, seconds: float) -> bool:
        """Sleep for so long, or until it is rung; says whether it was."""
        with trio.move_on_after(seconds):
            await self._rung.wait()
        rung, self._rung = self._rung.is_set(), trio.Event()
        return rung


@attrs.define
class Pace:
    """How long to wait until the next look: 0.1 s after something has moved, then twice as long each time, up to 5 s.

    While something is pending, which moves soon, it is 1 s at most. The longest waits are spread by chance.
    """

    random: Random
    _next: float = _QUICK

    def hurry(self) -> None:
        """Something moves, or is going to."""
        self._next = _QUICK

    def wait(self, *, pending: bool) -> float:
        """Seconds until the next look."""
        most = _PENDING if pending else _SLOW
        seconds, self._next = min(self._next, most), min(2 * self._next, _SLOW)
        spread = 1 + _JITTER * (2 * self.random.random() - 1)
        return seconds * spread if seconds == _SLOW else seconds


@attrs.define
class Poller:
    """Looks at the host for ever, and tells the observer what differs from the look before."""

    host: Host
    owner: str
    observer: EngineObserver
    bell: Bell
    random: Random = attrs.field(factory=Random)
    _seen: Mapping[str, _Shown] = attrs.field(factory=dict, repr=False)
    _failures: int = 0
    _in_sight: bool = False

    async def run(self) -> NoReturn:
        """Until cancelled."""
        pace = Pace(self.random)
        while True:
            try:
                runtimes = await self._look()
            except EngineUnavailable as trouble:
                await self._fail(trouble)
                continue
            if self._compare({runtime.session_id: _shown(runtime) for runtime in runtimes}):
                pace.hurry()
            if await self.bell.heard(pace.wait(pending=any(read_view(each).is_pending for each in runtimes))):
                pace.hurry()

    async def _look(self) -> list[Runtime]:
        try:
            runtimes = parse_runtimes(await self.host.look_once(LIST, _ANSWERS_WITHIN))
        except Garbled as error:
            raise NotNow(f"the remote host at {self.host.address} makes no sense: {error}") from error
        except Refused as error:
            raise NotNow(error.words) from error
        return [runtime for runtime in runtimes if read_name(self.owner, runtime.session_id) is not None]

    async def _fail(self, trouble: EngineUnavailable) -> None:
        """Try again soon; after some failures in a row the host is out of sight."""
        self._failures += 1
        if self._failures == _LOST_AFTER:
            self._in_sight = False
            self.observer.engine_lost(trouble.message)
        pause = min(_RETRY_FIRST * 2 ** min(self._failures - 1, 10), _SLOW)
        await trio.sleep(max(pause, trouble.after if isinstance(trouble, NotNow) else 0.0))

    def _compare(self, shown: Mapping[str, _Shown]) -> bool:
        """Tell what differs from the look before; says whether anything does."""
        before, self._seen = self._seen, shown
        self._failures = 0
        if not self._in_sight:
            self._in_sight = True
            self.observer.engine_connected()
            return True
        moved = {name for name in {*before, *shown} if before.get(name) != shown.get(name)}
        for conversation in sorted({_conversation(self.owner, name) for name in moved}):
            self.observer.sandbox_changed(conversation)
        return bool(moved)


def _shown(runtime: Runtime) -> _Shown:
    return (runtime.status, runtime.pod_status, runtime.url, runtime.session_api_key, runtime.restart_count)


def _conversation(owner: str, name: str) -> ConversationId:
    ownership = read_name(owner, name)
    assert ownership is not None  # noqa: S101 - others were left out
    return ownership.conversation
