"""A whole supervision on simulated time: the real actors and journal over the fakes."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import TypeVar

import attrs
import trio

from supervisor.actors.settings import ActorSettings
from supervisor.actors.supervision import Parts, Supervision, supervise
from supervisor.actors.supervisor import Supervisor
from supervisor.agent.port import AgentDriver
from supervisor.control.service import StartRequest
from supervisor.conversation.events import RecordedEvent
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonValue
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord
from supervisor.conversation.restart import RestartPolicy
from supervisor.conversation.spec import Allowance, PullPolicy, SandboxSpec
from supervisor.incidents import Incident, IncidentListener, heard_by
from supervisor.journal.store import Store
from tests.fakes.agent import FakeAgent
from tests.fakes.engine import FakeEngine

_T = TypeVar("_T")

SPEC = SandboxSpec(
    provider="docker",
    image="image",
    pull=PullPolicy.MISSING,
    command=None,
    env={},
    port=8000,
    user=None,
    workspace="/workspace",
    memory=2**30,
    cpus=1.0,
    pids_limit=100,
    network="bridge",
    init=True,
)
SETTINGS = ActorSettings(sandbox=SPEC, allow=Allowance(), agent="v1", restart=RestartPolicy(jitter=0.0))
ANY_REQUEST = StartRequest()
C1 = ConversationId("c1")


class SimulatedWallClock:
    """A wall clock that goes with Trio's."""

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=trio.current_time())


async def inline(call: Callable[[], _T], limiter: trio.CapacityLimiter) -> _T:
    """Run a blocking call in place: the mock clock knows no threads."""
    async with limiter:
        return call()


@attrs.define(eq=False)
class World:
    """One daemon's worth of supervision, over an engine and an agent that outlive it."""

    engine: FakeEngine
    agent: FakeAgent
    supervision: Supervision
    incidents: list[Incident]

    @property
    def supervisor(self) -> Supervisor:
        """What clients talk to."""
        return self.supervision.supervisor

    async def start(self, conversation: ConversationId = C1, request: StartRequest = ANY_REQUEST) -> ConversationRecord:
        """Start a conversation."""
        return await self.supervisor.start(attrs.evolve(request, id=conversation))

    async def stop(self, conversation: ConversationId = C1, *, force: bool = False) -> ConversationRecord:
        """Stop a conversation."""
        return (await self.supervisor.stop(conversation, None, force=force)).record

    def record(self, conversation: ConversationId = C1) -> ConversationRecord:
        """The record that its actor holds."""
        handle = self.supervision.registry.find(conversation)
        assert handle is not None
        return handle.record

    async def until(self, condition: Callable[[ConversationRecord], bool], conversation: ConversationId = C1) -> None:
        """Let simulated time pass until the record fulfils a condition; an hour is too long."""
        await until(lambda: condition(self.record(conversation)))

    async def until_status(self, status: Status, conversation: ConversationId = C1) -> None:
        """Let simulated time pass until the conversation has a status."""
        await self.until(lambda record: record.status is status, conversation)

    async def events(self, conversation: ConversationId | None = C1) -> tuple[RecordedEvent, ...]:
        """The conversation's recorded events, or with None all there are."""
        return await self.supervision.journal.events(0, None, conversation, 100_000)

    async def kinds(self, conversation: ConversationId = C1) -> list[str]:
        """The kinds of the conversation's recorded events, in order."""
        return [event.kind for event in await self.events(conversation)]

    async def statuses(self, conversation: ConversationId = C1) -> list[str]:
        """The statuses that the conversation went through, in order."""
        return [json.loads(event.data)["to"] for event in await self.events(conversation) if event.kind == "status"]

    async def told(self, kind: str, conversation: ConversationId | None = C1) -> list[dict[str, JsonValue]]:
        """The data of the conversation's events of one kind, in order."""
        return [json.loads(event.data) for event in await self.events(conversation) if event.kind == kind]


@asynccontextmanager
async def open_world(
    directory: Path,
    *,
    settings: ActorSettings = SETTINGS,
    engine: FakeEngine | None = None,
    agent: FakeAgent | None = None,
    driver: AgentDriver | None = None,
    make_store: Callable[[Path], Store] = Store,
    retention: float = 0.0,
    other_engine: FakeEngine | None = None,
    listener: IncidentListener | None = None,
) -> AsyncIterator[World]:
    """Bring up a supervision in a state directory; leaving the context is like kill -9 of the daemon, but polite.

    With a `driver` that is what talks to agents, in place of the fake one.
    """
    engine, agent = engine or FakeEngine(), agent or FakeAgent()
    agent.runs = engine.runs
    store = make_store(directory / "journal.db")
    engine.owner = store.instance
    parts = Parts(
        store=store,
        providers={each.name: each for each in (engine, other_engine) if each is not None},
        drivers={"v1": driver or agent},
        settings=lambda: settings,
        clock=SimulatedWallClock(),
        random=Random(0),
        retention=retention,
        offload=inline,
    )
    incidents: list[Incident] = []
    try:
        with heard_by(listener or incidents.append):
            async with supervise(parts) as supervision:
                yield World(engine, agent, supervision, incidents)
    finally:
        store.close()


async def until(condition: Callable[[], bool]) -> None:
    """Let simulated time pass until a condition holds; an hour is too long."""
    with trio.fail_after(3600):
        await trio.lowlevel.checkpoint()
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await trio.sleep(0.01)


async def after(delay: float, work: Callable[[], Awaitable[_T]]) -> _T:
    """Do something later, on simulated time."""
    await trio.sleep(delay)
    return await work()
