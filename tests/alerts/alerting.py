"""A whole supervision with its alerts, on simulated time, over a sink that remembers."""

import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import attrs
import trio

from supervisor.actors.settings import ActorSettings
from supervisor.alerts import AlertParts, AlertSettings, IncidentBox, run_alerts
from supervisor.alerts.rules import DiskSpace
from supervisor.alerts.sinks import NotDelivered, SinkName
from supervisor.control.service import Subscription
from supervisor.conversation.ids import ConversationId
from supervisor.journal.ledger import Delivery
from supervisor.journal.store import Store
from tests.fakes.agent import FakeAgent
from tests.fakes.engine import FakeEngine
from tests.world import C1, SETTINGS, SimulatedWallClock, World, open_world


@attrs.define(eq=False)
class FakeSink:
    """Satisfies `Sink`: remembers what it was told, and when; fails as long as it has a `failure`."""

    failure: NotDelivered | None = None
    fails: Callable[[Delivery], NotDelivered | None] = lambda _: None
    tried: list[tuple[float, str]] = attrs.field(factory=list)
    bodies: list[dict[str, Any]] = attrs.field(factory=list)

    async def tell(self, delivery: Delivery) -> None:
        """As the port says."""
        await trio.lowlevel.checkpoint()
        self.tried.append((trio.current_time(), f"{delivery.alert} {delivery.state}"))
        failure = self.failure or self.fails(delivery)
        if failure is not None:
            raise failure
        self.bodies.append(json.loads(delivery.body))

    @property
    def told(self) -> list[str]:
        """What was taken, as cause and state, in order."""
        return [f"{body['data']['cause']} {body['data']['state']}" for body in self.bodies]


@attrs.define(eq=False)
class Alerting:
    """A world whose alerts are on."""

    world: World
    sink: FakeSink
    box: IncidentBox
    settings: AlertSettings
    free: int = 2**40
    look_failures: list[Exception] = attrs.field(factory=list)
    subscribe_failures: list[Exception] = attrs.field(factory=list)

    async def events(self, conversation: ConversationId | None = C1) -> list[dict[str, Any]]:
        """The data of the alert events of a conversation, or of the daemon."""
        events = await self.world.events(None)
        return [
            json.loads(event.data) for event in events if (event.kind, event.conversation) == ("alert", conversation)
        ]

    async def look(self) -> Sequence[DiskSpace]:
        """What the disk has free."""
        await trio.lowlevel.checkpoint()
        if self.look_failures:
            raise self.look_failures.pop()
        return (DiskSpace(Path("/state"), self.free),)

    def subscribe(self, since: int) -> AbstractAsyncContextManager[Subscription]:
        """What is recorded."""
        if self.subscribe_failures:
            raise self.subscribe_failures.pop()
        return self.world.supervisor.subscribe(since, None, snapshot=False)

    async def live(self, ids: str = "a") -> None:
        """Let the alerts run."""
        numbers = itertools.count(1)
        await run_alerts(
            AlertParts(
                journal=self.world.supervision.journal,
                subscribe=self.subscribe,
                clock=SimulatedWallClock(),
                random=Random(0),
                settings=lambda: self.settings,
                incidents=self.box,
                look=self.look,
                sinks={SinkName.LOG: lambda: self.sink if self.settings.log else None},
                new_id=lambda: f"{ids}{next(numbers)}",
            )
        )


@asynccontextmanager
async def open_alerting(
    directory: Path,
    *,
    settings: ActorSettings = SETTINGS,
    engine: FakeEngine | None = None,
    agent: FakeAgent | None = None,
    sink: FakeSink | None = None,
    alerts: AlertSettings | None = None,
    make_store: Callable[[Path], Store] = Store,
    ids: str = "a",
    failures: Sequence[Exception] = (),
) -> AsyncIterator[Alerting]:
    """Bring up a world and its alerts; leaving is like kill -9, but polite."""
    box = IncidentBox()
    async with (
        open_world(
            directory, settings=settings, engine=engine, agent=agent, make_store=make_store, listener=box.put
        ) as world,
        trio.open_nursery() as nursery,
    ):
        alerting = Alerting(world, sink or FakeSink(), box, alerts or AlertSettings())
        alerting.subscribe_failures = list(failures)
        nursery.start_soon(alerting.live, ids)
        yield alerting
        nursery.cancel_scope.cancel()
