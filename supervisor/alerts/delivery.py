"""The deliverers: one task for each sink takes its queue in the journal, oldest first, until each notice is delivered.

A notice is taken off the queue after the sink has taken it, so a crash in between tells the sink once more, never less
than once. A sink that does not answer is tried again after a while, ever longer; one that refuses a notice is told the
others meanwhile, but never that an alert is over before it was told that it was raised.
"""

from collections.abc import Callable
from datetime import timedelta
from random import Random
from typing import Final

import structlog
import trio

from supervisor.actors.clock import Clock
from supervisor.alerts.sinks import NotDelivered, NoticeRefused, Sink, SinkName
from supervisor.journal.changes import JournalError, Told
from supervisor.journal.journal import Journal
from supervisor.journal.ledger import Delivery

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

GIVEN_UP_AFTER: Final = timedelta(days=1)
"""The age at which a notice that still cannot be delivered is dropped, with a line in the log."""
_FIRST: Final = 1.0
_MOST: Final = 300.0
_JITTER: Final = 0.25
_PAGE: Final = 100


class Deliverer:
    """Tells one sink. `sink` is asked each time: a reload may have changed it; None drops what is queued for it."""

    def __init__(
        self, name: SinkName, sink: Callable[[], Sink | None], journal: Journal, clock: Clock, random: Random
    ) -> None:
        self._name = name
        self._sink = sink
        self._journal = journal
        self._clock = clock
        self._random = random
        self._queued = trio.Event()
        self._after = 0
        self._refused: set[str] = set()
        self._silence: str | None = None

    def wake(self) -> None:
        """There is something in the queue."""
        self._queued.set()

    async def run(self) -> None:
        """Deliver until cancelled."""
        failures = 0
        while True:
            self._after, self._refused = 0, set()
            answers = await self._empty_queue()
            if answers and not self._refused:
                failures = 0
                await self._queued.wait()
                continue
            again_at = trio.current_time() + self._backoff(failures)
            failures += 1
            while answers and await self._more_came(again_at):
                answers = await self._empty_queue()
            await trio.sleep_until(again_at)

    async def _more_came(self, until: float) -> bool:
        """Wait for more in the queue: what was refused, and is behind us, holds up nothing that comes."""
        with trio.move_on_at(until):
            await self._queued.wait()
            return True
        return False

    def _backoff(self, failures: int) -> float:
        spread = 1 + _JITTER * (2 * self._random.random() - 1)
        return min(_MOST, _FIRST * 2.0 ** min(failures, 16)) * spread

    async def _empty_queue(self) -> bool:
        """Try each notice that is before us once; says whether the sink answers, and the journal."""
        await trio.lowlevel.checkpoint()
        self._queued, self._silence = trio.Event(), None
        try:
            while page := await self._journal.deliveries(self._name, self._after, _PAGE):
                for delivery in page:
                    if delivery.alert not in self._refused and not await self._deliver(delivery):
                        self._refused.add(delivery.alert)
                    self._after = delivery.number
        except NotDelivered:
            return False
        except JournalError as error:
            _log.warning("alerts.queue_not_kept", sink=self._name, error=str(error))
            return False
        return True

    async def _deliver(self, delivery: Delivery) -> bool:
        """Tell the sink and take the notice off the queue, or say that the sink has refused it.

        Raises:
            NotDelivered: the sink does not answer.
        """
        await trio.lowlevel.checkpoint()
        try:
            await self._tell(delivery)
        except NotDelivered as error:
            if not isinstance(error, NoticeRefused):
                self._silence = str(error)
            if not self._is_too_old(delivery, error):
                if isinstance(error, NoticeRefused):
                    return False
                raise
        await self._journal.commit(Told(delivery.number, self._clock.now()))
        return True

    async def _tell(self, delivery: Delivery) -> None:
        await trio.lowlevel.checkpoint()
        sink = self._sink()
        if sink is None:
            return
        if self._silence is not None:
            # It was asked just now, and that may have taken long: what is too old for another try goes at once.
            raise NotDelivered(self._silence)
        await sink.tell(delivery)

    def _is_too_old(self, delivery: Delivery, error: NotDelivered) -> bool:
        told = {"sink": self._name, "alert": delivery.alert, "state": delivery.state, "error": str(error)}
        if self._clock.now() - delivery.at < GIVEN_UP_AFTER:
            _log.warning("alert.not_delivered", **told)
            return False
        _log.error("alert.given_up", **told)
        return True
