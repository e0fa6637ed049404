"""The simulated host: a state directory, an engine, its agents, a wall clock, and one daemon's life after another."""

import sqlite3
import types
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, TypeVar
from unittest import mock

import attrs
import trio
from requests.exceptions import ConnectionError as ConnectionBroke

from supervisor.actors.settings import ActorSettings, Health, Timeouts
from supervisor.actors.supervision import Parts, Supervision, supervise
from supervisor.alerts import AlertParts, AlertSettings, IncidentBox, run_alerts
from supervisor.alerts.rules import DiskSpace
from supervisor.alerts.sinks import NotDelivered, SinkName
from supervisor.conversation.record import ConversationRecord
from supervisor.conversation.restart import RestartPolicy
from supervisor.conversation.spec import Allowance
from supervisor.incidents import Incident, heard_by
from supervisor.journal.changes import AlreadyExists, Change, Create, Delete, JudgedBefore, Update
from supervisor.journal.ledger import Delivery
from supervisor.journal.store import Store, Written
from supervisor.sandbox.docker import DockerProvider, Lanes, containers, events, limits
from tests.simulation.agent import Agents, SimulatedDriver
from tests.simulation.calls import Call
from tests.simulation.docker import Engine
from tests.simulation.lane import SimulatedLane, wait_for
from tests.world import SPEC

_T = TypeVar("_T")

SETTINGS: Final = ActorSettings(
    sandbox=SPEC,
    allow=Allowance(),
    agent="v1",
    timeouts=Timeouts(
        start=60.0,
        pause=10.0,
        resume=20.0,
        stop=10.0,
        archive=20.0,
        grace=3.0,
        pull_stall=10.0,
        create=20.0,
        boot=20.0,
        agent=20.0,
    ),
    restart=RestartPolicy(max_restarts=3, window=120.0, backoff_initial=0.5, backoff_max=8.0, jitter=0.25),
    health=Health(interval=10.0, timeout=2.0, failures=3),
)
_EPOCH: Final = datetime(2026, 1, 1, tzinfo=UTC)
_DOWN_FOR: Final = 0.3
_DISK_TAKES: Final = (0.0, 0.0001, 0.0002, 0.003, 0.02)


class WallClock:
    """The host's: it goes with Trio's, and may be stepped."""

    def __init__(self) -> None:
        self.step = 0.0

    def now(self) -> datetime:
        """The time, in UTC."""
        return _EPOCH + timedelta(seconds=trio.current_time() + self.step)

    def seconds(self) -> float:
        """The same as a number."""
        return self.now().timestamp()


async def _nobody(life: "Life") -> None:
    """Nobody reads."""


class Disk(Store):
    """The real database on a disk that can be full, written by one life of the daemon."""

    def __init__(self, path: Path, life: "Life") -> None:
        super().__init__(path)
        self._life = life
        # What the disk keeps is not the simulator's question, and the file is in memory.
        self._writer.execute("PRAGMA synchronous = OFF")

    def write(self, batch: Sequence[Change]) -> list[Written | AlreadyExists | JudgedBefore]:
        """As the store does, or not at all."""
        self._life.moment("commit")
        self._require_room()
        outcome = super().write(batch)
        self._life.host.committed(batch, outcome)
        self._life.moment("committed")
        return outcome

    def prune_keys(self, before: datetime) -> None:
        """As the store does, or not at all."""
        self._require_room()
        super().prune_keys(before)

    def _require_room(self) -> None:
        if self._life.dead or trio.current_time() < self._life.host.disk_full_until:
            raise sqlite3.OperationalError("database or disk is full")


class Host:
    """See the module.

    `on_change` is told of each change as it becomes durable; `records` are what is durable now, `versions` all that
    ever were.
    """

    def __init__(self, directory: Path, random: Random, nursery: trio.Nursery) -> None:
        self.path = directory / "journal.db"
        self.nursery = nursery
        self.wall = WallClock()
        self.engine = Engine(random, nursery, self.wall.seconds)
        self.agents = Agents(random, self.engine, nursery)
        self.random = random
        self.disk_full_until = -1.0
        self.kill_in = 0
        self.kills = 0
        self.instance = ""
        self.life: Life | None = None
        self.records: dict[str, ConversationRecord] = {}
        self.versions: dict[tuple[str, datetime], list[ConversationRecord]] = {}
        self.known_ids: set[str | None] = set()
        self.last_seq = 0
        self.changed_at = 0.0
        self.incidents: list[Incident] = []
        self.receiver_deafness = 0.3
        self.received: list[str] = []
        self.on_change: Callable[[Change], None] = lambda change: None
        self.reader: Callable[[Life], Awaitable[None]] = _nobody

    def committed(self, batch: Sequence[Change], outcome: Sequence[Written | AlreadyExists | JudgedBefore]) -> None:
        """Remember what is durable now."""
        self.changed_at = trio.current_time()
        for change, result in zip(batch, outcome, strict=True):
            if isinstance(result, Written):
                self.last_seq = max([self.last_seq, *(event.seq for event in result.events)])
                if isinstance(change, Create | Update):
                    self.records[change.record.id] = change.record
                    self.versions.setdefault((change.record.id, change.record.updated_at), []).append(change.record)
                    self.known_ids.add(change.record.sandbox.id if change.record.sandbox is not None else None)
                elif isinstance(change, Delete):
                    del self.records[change.conversation]
                    self.engine.deleted[change.conversation] = trio.current_time()
                self.on_change(change)

    async def run(self) -> None:
        """One life of the daemon after the other."""
        while True:
            life = Life(self)
            await life.run()
            self.life = None
            await trio.sleep(_DOWN_FOR)

    def kill(self) -> None:
        """End the daemon by kill -9, if it runs."""
        if self.life is not None and not self.life.dead:
            self.kills += 1
            self.life.die()

    def restart_daemon(self) -> None:
        """End the daemon in order; it comes again."""
        if self.life is not None and not self.life.dead:
            self.life.scope.cancel()


class Life:
    """One daemon's. It satisfies `Line`: once it is dead nothing that it does reaches the engine or the disk."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.engine = host.engine
        self.dead = False
        self.scope = trio.CancelScope()
        self.supervision: Supervision | None = None
        self.connections: trio.Nursery | None = None
        self._calls: list[Call] = []
        self._incidents = IncidentBox()

    async def _offload(self, call: Callable[[], _T], limiter: trio.CapacityLimiter) -> _T:
        """A thread that reads or writes: it takes a while, what it does is done at once somewhere in it."""
        async with limiter:
            with trio.CancelScope(shield=True):  # nobody leaves a thread
                await trio.sleep(self.host.random.choice(_DISK_TAKES))
                outcome = call()
                await trio.sleep(self.host.random.choice(_DISK_TAKES))
        return outcome

    async def run(self) -> None:
        """Live until killed or restarted."""
        await trio.lowlevel.checkpoint()
        try:
            disk = Disk(self.host.path, self)
        except sqlite3.OperationalError:  # as it fills up: systemd would try again, too
            return
        self.host.instance = disk.instance
        provider = DockerProvider(None, disk.instance, Lanes(), lambda _, size: SimulatedLane(self, size))
        parts = Parts(
            store=disk,
            providers={"docker": provider},
            drivers={"v1": SimulatedDriver(self.host.agents, lambda: self.dead)},
            settings=lambda: SETTINGS,
            clock=self.host.wall,
            random=Random(self.host.random.random()),
            offload=self._offload,
        )
        try:
            with self.scope, heard_by(self._hear):
                async with supervise(parts) as self.supervision, trio.open_nursery() as self.connections:
                    self.host.life = self
                    self.connections.start_soon(self.host.reader, self)
                    self.connections.start_soon(run_alerts, self._alert_parts(self.supervision))
                    await trio.sleep_forever()
        except* Exception:
            if not self.dead:
                raise
            # The disk takes nothing of what a dead daemon would write, and nobody is there to hear of that.
        finally:
            disk.close()

    def _hear(self, incident: Incident) -> None:
        if not self.dead:  # what fails in a dead daemon is no bug
            self.host.incidents.append(incident)
            self._incidents.put(incident)

    def _alert_parts(self, supervision: Supervision) -> AlertParts:
        return AlertParts(
            journal=supervision.journal,
            subscribe=lambda since: supervision.supervisor.subscribe(since, None, snapshot=False),
            clock=self.host.wall,
            random=Random(self.host.random.random()),
            settings=AlertSettings,
            incidents=self._incidents,
            look=_no_disk,
            sinks={SinkName.LOG: lambda: Receiver(self)},
            new_id=lambda: f"{self.host.random.getrandbits(64):016x}",
        )

    def die(self) -> None:
        """From now on nothing that this daemon does has an effect."""
        self.dead = True
        for call in self._calls:
            call.settle(None, ConnectionBroke("the daemon is dead"))
        self.scope.cancel()

    def moment(self, what: str) -> None:
        """A moment at which the daemon could be killed, and is if the script says so."""
        if self.host.kill_in and not self.dead:
            self.host.kill_in -= 1
            if not self.host.kill_in:
                self.host.kill()

    async def mutate(
        self, op: str, effect: Callable[[], Awaitable[object]], limit: float, name: str | None = None
    ) -> object:
        """Ask the engine; a daemon that dies meanwhile hears no answer, and the engine does it all the same."""
        self.moment(f"ask {op}")
        if self.dead:
            raise ConnectionBroke("the daemon is dead")
        call = Call()
        self._calls.append(call)
        try:
            return await self.engine.mutate(call, op, effect, limit, name)
        finally:
            self._calls.remove(call)
            self.moment(f"asked {op}")

    async def look(self, op: str, effect: Callable[[], object], limit: float) -> object:
        """Ask the engine for something."""
        self.moment(f"look {op}")
        if self.dead:
            raise ConnectionBroke("the daemon is dead")
        return await self.engine.look(op, effect, limit)


@attrs.frozen(eq=False)
class Receiver:
    """Hears of alerts, as a life tells them, mostly."""

    life: Life

    async def tell(self, delivery: Delivery) -> None:
        """As the port says."""
        await trio.sleep(0.05)
        host = self.life.host
        self.life.moment("tell")
        if self.life.dead or host.random.random() < host.receiver_deafness:
            raise NotDelivered("the receiver is deaf")
        host.received.append(f"{delivery.alert} {delivery.state}")
        self.life.moment("told")


async def _no_disk() -> tuple[DiskSpace, ...]:
    await trio.lowlevel.checkpoint()
    return ()


@contextmanager
def simulated_time(wall: WallClock) -> Iterator[None]:
    """Let the Docker provider's blocking code see simulated time."""

    def sleep(seconds: float) -> None:
        wait_for(partial(trio.sleep, seconds))

    clock = types.SimpleNamespace(monotonic=trio.current_time, time=wall.seconds, sleep=sleep)
    with (
        mock.patch.object(limits, "time", clock),
        mock.patch.object(containers, "time", clock),
        mock.patch.object(events, "time", clock),
    ):
        yield
