"""The alerts, running: what is recorded, met, seen and past is judged, and the sinks are told."""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from random import Random
from typing import Final, TypeAlias

import attrs
import structlog
import trio

from supervisor.actors.clock import Clock
from supervisor.alerts.delivery import Deliverer
from supervisor.alerts.ledger import AlertLedger, Standing
from supervisor.alerts.rules import (
    JUDGED_EVENTS,
    DiskSpace,
    Outcome,
    judge_disk,
    judge_event,
    judge_incident,
    judge_time,
)
from supervisor.alerts.settings import AlertSettings
from supervisor.alerts.sinks import Sink, SinkName
from supervisor.control.service import SlowSubscriber, Subscription
from supervisor.conversation.errors import HistoryGone
from supervisor.conversation.events import RecordedEvent
from supervisor.incidents import Incident
from supervisor.journal.changes import JournalError
from supervisor.journal.codec import decode_event
from supervisor.journal.journal import Journal

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_LOOK_EVERY: Final = 60.0
_LOOK_AT_CLOCK_EVERY: Final = 60.0
_AGAIN_AFTER: Final = 5.0

Subscribe: TypeAlias = Callable[[int], AbstractAsyncContextManager[Subscription]]
"""Everything that is recorded after an event's number."""


def _random_id() -> str:
    return secrets.token_hex(8)


class IncidentBox:
    """Incidents that are not judged yet; `put` is their listener. One of each place and conversation is enough."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str | None], Incident] = {}
        self._arrived = trio.Event()

    def put(self, incident: Incident) -> None:
        """Remember an incident."""
        self._waiting[incident.where, incident.conversation] = incident
        self._arrived.set()

    async def take(self) -> Incident:
        """Wait for the next one."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._waiting:
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._waiting.pop(next(iter(self._waiting)))


@attrs.frozen(eq=False)
class AlertParts:
    """What the alerts are made of. `look` tells of the disks that are watched; `sinks` are asked at each notice."""

    journal: Journal
    subscribe: Subscribe
    clock: Clock
    random: Random
    settings: Callable[[], AlertSettings]
    incidents: IncidentBox
    look: Callable[[], Awaitable[Sequence[DiskSpace]]]
    sinks: Mapping[SinkName, Callable[[], Sink | None]]
    new_id: Callable[[], str] = _random_id


async def run_alerts(parts: AlertParts) -> None:
    """Judge and tell until cancelled; what has happened since the last time is caught up with first.

    Nothing that fails in here ends anything else.
    """
    deliverers = [Deliverer(name, sink, parts.journal, parts.clock, parts.random) for name, sink in parts.sinks.items()]

    def wake() -> None:
        for deliverer in deliverers:
            deliverer.wake()

    alerts = _Alerts(parts, AlertLedger(parts.journal, parts.clock, parts.settings, parts.new_id, wake))
    await _succeed(alerts.ledger.load)
    async with trio.open_nursery() as nursery:
        for deliverer in deliverers:
            nursery.start_soon(_keep_at, deliverer.run)
        for work in (alerts.follow_events, alerts.take_incidents, alerts.watch_disks, alerts.watch_time):
            nursery.start_soon(_keep_at, work)


async def _keep_at(work: Callable[[], Awaitable[None]]) -> None:
    """Begin again what should never end."""
    while True:
        await _succeed(work)


async def _succeed(work: Callable[[], Awaitable[None]]) -> None:
    """Do what a bug in the alerts must not keep from being done, nor end what they watch over."""
    while True:
        try:
            return await work()
        except Exception:  # noqa: BLE001 - whatever it was, it is in the log and tried again
            _log.exception("alerts.failed")
        await trio.sleep(_AGAIN_AFTER)


@attrs.frozen(eq=False)
class _Alerts:
    parts: AlertParts
    ledger: AlertLedger

    async def follow_events(self) -> None:
        """Judge every recorded event once, in order."""
        while True:
            await trio.lowlevel.checkpoint()
            # What is no longer kept cannot be judged any more.
            since = max(self.ledger.through, self.parts.journal.pruned_through)
            try:
                async with self.parts.subscribe(since) as events:
                    async for event in events:
                        await self._judge_event(event)
            except (SlowSubscriber, HistoryGone) as reason:
                _log.info("alerts.catch_up", since=since, reason=type(reason).__name__)
            except JournalError as error:
                _log.warning("alerts.events_not_read", error=str(error))
                await trio.sleep(_AGAIN_AFTER)

    async def take_incidents(self) -> None:
        """Judge every incident."""
        while True:
            outcomes = tuple(judge_incident(await self.parts.incidents.take(), self.parts.clock.now()))
            await self.ledger.judge(partial(_as_it_is, outcomes))

    async def watch_disks(self) -> None:
        """Look at the disks from time to time."""
        while True:
            for disk in await self.parts.look():
                outcomes = tuple(judge_disk(disk, self.parts.settings().disk_free))
                await self.ledger.judge(partial(_as_it_is, outcomes))
            await trio.sleep(_LOOK_EVERY)

    async def watch_time(self) -> None:
        """End what ends by itself."""
        while True:
            now = self.parts.clock.now()
            ends = {alert.cause: alert.over_at for alert in self.ledger.standing if alert.over_at is not None}
            for cause in [cause for cause, end in ends.items() if end <= now]:
                await self.ledger.judge(partial(judge_time, now, cause))
            wait = min(((end - now).total_seconds() for end in ends.values() if end > now), default=float("inf"))
            # The wall clock may be stepped meanwhile.
            with trio.move_on_after(min(wait, _LOOK_AT_CLOCK_EVERY)):
                await self.ledger.changes()

    async def _judge_event(self, event: RecordedEvent) -> None:
        if event.kind not in JUDGED_EVENTS:
            await self.ledger.pass_by(event.seq)
            return
        try:
            decoded = decode_event(event)
        except Exception:  # noqa: BLE001 - an event that nobody understands must not keep the next ones from being judged
            _log.exception("alerts.event_not_understood", seq=event.seq)
            await self.ledger.pass_by(event.seq)
            return
        allowance = self.parts.settings().allowance
        await self.ledger.judge(partial(judge_event, decoded, event.at, event.conversation, allowance), event.seq)


def _as_it_is(outcomes: Sequence[Outcome], _: Standing) -> Sequence[Outcome]:
    """A judgement that does not depend on what stands already."""
    return outcomes
