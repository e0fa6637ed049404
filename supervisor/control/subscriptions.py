"""The subscriptions of one connection: each is a task that moves events or log lines into the outbox.

A subscription that replays waits for room in the outbox, so a slow reader slows only itself. Live events that come
faster than it reads overflow the service's own bounded buffer for it, which ends the connection with 1013.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeAlias

import attrs
import structlog
import trio
from outcome import Error, Outcome, Value

from supervisor.control import messages, views
from supervisor.control.methods import EMPTY, Reply
from supervisor.control.outbox import Closing, Outbox
from supervisor.control.service import ConversationService, SlowSubscriber, Subscription
from supervisor.conversation.errors import Busy, ConversationdError, NotFound
from supervisor.incidents import report_incident

GOING_AWAY: Final = Closing(1001, "daemon going away")
FAILED: Final = Closing(1011, "the events failed: resume with since")
TOO_SLOW: Final = Closing(1013, "consumer too slow: resume with since")

_log: Final = structlog.stdlib.get_logger("supervisor.control")


class _Opened:
    """How opening a subscription went: the result that announces it, or why there is none. Set once."""

    def __init__(self) -> None:
        self._outcome: Outcome[str] | None = None
        self._known = trio.Event()

    def set(self, outcome: Outcome[str]) -> bool:
        if self._outcome is not None:
            return False
        self._outcome = outcome
        self._known.set()
        return True

    async def get(self) -> str:
        await self._known.wait()
        if self._outcome is None:
            raise AssertionError("known and not set")
        return self._outcome.unwrap()


@attrs.frozen(eq=False)
class _Active:
    """A subscription's task. `opened` holds the result that announces it; `announced` says that it is queued."""

    id: str
    opened: _Opened = attrs.field(factory=_Opened)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    announced: trio.Event = attrs.field(factory=trio.Event)
    ended: trio.Event = attrs.field(factory=trio.Event)


_Pump: TypeAlias = Callable[[_Active], Awaitable[None]]
"""A subscription's work: opens it, reports the result that announces it, then moves what comes."""


class Subscriptions:
    """The `Session` of one connection. `nursery` is the connection's, where the subscriptions run."""

    def __init__(self, service: ConversationService, outbox: Outbox, nursery: trio.Nursery, most: int) -> None:
        self._service = service
        self._outbox = outbox
        self._nursery = nursery
        self._most = most
        self._active: dict[str, _Active] = {}
        self._opened = 0

    async def subscribe(self, params: messages.Subscribe) -> Reply:
        """Begin a subscription of events.

        Raises:
            Busy: this connection has as many as it may.
            HistoryGone: events after `since` are no longer kept.
        """
        ids = None if params.ids is None else frozenset(params.ids)

        async def pump(active: _Active) -> None:
            async with self._service.subscribe(params.since, ids, snapshot=params.snapshot) as subscription:
                active.opened.set(Value(await views.encode_opened(active.id, subscription)))
                await active.announced.wait()
                await self._forward_events(active, subscription)

        return await self._open(pump)

    async def follow_logs(self, params: messages.Logs) -> Reply:
        """Begin a subscription of log lines.

        Raises:
            Busy: this connection has as many as it may.
            ConversationdError: the lines cannot be had.
        """

        async def pump(active: _Active) -> None:
            async with self._service.follow_logs(params.id, params.tail) as lines:
                active.opened.set(Value(views.encode_log_opened(active.id)))
                await active.announced.wait()
                error = await self._forward_lines(active, lines)
            await self._outbox.put(views.encode_log_end(active.id, error))

        return await self._open(pump)

    async def unsubscribe(self, params: messages.Unsubscribe) -> Reply:
        """End a subscription; returns when nothing more of it can come.

        Raises:
            NotFound: this connection has none of that name.
        """
        active = self._active.get(params.subscription)
        if active is None:
            await trio.lowlevel.checkpoint()
            raise NotFound(f"this connection has no subscription {params.subscription!r}")
        active.scope.cancel()
        await active.ended.wait()
        return Reply(EMPTY)

    async def _open(self, pump: _Pump) -> Reply:
        if len(self._active) >= self._most:
            await trio.lowlevel.checkpoint()
            raise Busy(f"this connection has {self._most} subscriptions, which is all that it may have")
        self._opened += 1
        active = _Active(f"s{self._opened}")
        self._active[active.id] = active
        self._nursery.start_soon(self._run, active, pump)
        return Reply(await active.opened.get(), active.announced.set)

    async def _run(self, active: _Active, pump: _Pump) -> None:
        try:
            with active.scope:
                await pump(active)
            # Whoever guessed its name may have ended it while it was opening, and its opener still waits.
            active.opened.set(Error(NotFound(f"the subscription {active.id!r} was ended before it began")))
        except Exception as error:  # noqa: BLE001 - the boundary: whoever asked gets it, or the log
            if not active.opened.set(Error(error)):
                report_incident("control.subscription_failed", "subscription", subscription=active.id)
        finally:
            del self._active[active.id]
            active.ended.set()
        await trio.lowlevel.checkpoint()

    async def _forward_events(self, active: _Active, subscription: Subscription) -> None:
        closing = GOING_AWAY
        try:
            async for event in subscription:
                frame = views.encode_event_frame(active.id, event)
                if not self._outbox.offer(frame):
                    await self._outbox.put(frame)
        except SlowSubscriber:
            _log.warning("control.consumer_too_slow", subscription=active.id)
            closing = TOO_SLOW
        except Exception:  # noqa: BLE001 - the boundary: a bug in the events is this connection's only
            report_incident("control.events_failed", "events.subscribe", subscription=active.id)
            closing = FAILED
        await trio.lowlevel.checkpoint()
        # The service ends a subscription only with the daemon: whatever else ended it, the caller has to come back.
        self._end(closing)

    async def _forward_lines(self, active: _Active, lines: AsyncIterator[str]) -> ConversationdError | None:
        await trio.lowlevel.checkpoint()
        try:
            async for line in lines:
                await self._outbox.put(views.encode_log_line(active.id, line))
        except ConversationdError as error:
            return error
        except Exception:  # noqa: BLE001 - the boundary: a bug in the lines is this subscription's only
            return report_incident("control.log_lines_failed", "conversation.logs", subscription=active.id)
        return None

    def _end(self, closing: Closing) -> None:
        if closing is TOO_SLOW:
            self._outbox.cut(closing)
        else:
            self._outbox.finish(closing)
