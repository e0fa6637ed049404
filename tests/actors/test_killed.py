"""The daemon is killed at any moment and started again: nothing is lost, made twice or left over."""

import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.control.service import StartRequest
from supervisor.conversation.errors import NotFound
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import ConversationRecord, ExecutionStatus, Intent, Observed
from supervisor.sandbox.port import SandboxState
from tests.actors.test_life import ask, reach
from tests.actors.test_restart import name_of
from tests.fakes.agent import FakeAgent
from tests.fakes.engine import FakeEngine
from tests.fakes.store import FaultyStore
from tests.world import C1, SETTINGS, World, open_world

C2 = ConversationId("c2")


class PowerCut:
    """Ends the daemon at its n-th tick: as it asks the engine, as the engine has done it, as a commit is durable."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.ticks = 0
        self.scope = trio.CancelScope()
        self.store: FaultyStore | None = None

    def watch(self, world: World) -> None:
        """Count from now on."""
        store = world.supervision.journal._store
        assert isinstance(store, FaultyStore)
        self.store, store.written = store, self.tick
        world.engine.before = world.engine.done = self.tick

    def tick(self, call: str = "") -> None:
        """One more moment at which the daemon could be killed."""
        self.ticks += 1
        if self.ticks == self.at and self.store is not None:
            self.scope.cancel()
            self.store.full = True


@attrs.frozen
class Play:
    """What is going on when the daemon is killed, and where the conversation may be afterwards (None: nowhere)."""

    name: str
    prepare: Callable[[World], Awaitable[None]]
    act: Callable[[World], Awaitable[object]]
    outcomes: frozenset[Status | None]


async def cut_world(directory: Path, cut: PowerCut, engine: FakeEngine, agent: FakeAgent, play: Play) -> bool:
    """Play in a world until the power is cut; says whether it was."""
    with cut.scope:
        async with open_world(directory, engine=engine, agent=agent, make_store=FaultyStore) as world:
            await play.prepare(world)
            cut.watch(world)
            await play.act(world)
            await trio.sleep(3)
    engine.before = engine.done = lambda call: None
    return cut.scope.cancelled_caught


def reaching(status: Status) -> Callable[[World], Awaitable[None]]:
    """Prepare by bringing C1 into a status."""
    return lambda world: reach(world, status)


def asking(command: Command, *, force: bool = False) -> Callable[[World], Awaitable[object]]:
    """Act by a command to C1."""
    return lambda world: ask(world, command, force=force)


async def nothing(world: World) -> None:
    """Prepare nothing."""
    await trio.sleep(0.1)


async def go_cold(world: World) -> None:
    """Prepare a paused conversation whose sandbox has ended."""
    await reach(world, Status.PAUSED)
    world.engine.die(name_of(world), 137)
    await world.until(lambda record: record.observed is Observed.COLD)


async def die(world: World) -> None:
    """Act by the death of C1's sandbox."""
    world.engine.die(name_of(world), 1)
    await trio.sleep(1)


async def fail_to_boot(world: World) -> None:
    """Act by a start that needs three attempts."""
    world.engine.exits_at_boot = [(1, False), (1, False)]
    await world.start()


PLAYS = [
    Play("start", nothing, asking(Command.START), frozenset({None, Status.RUNNING})),
    Play("start in three attempts", nothing, fail_to_boot, frozenset({None, Status.RUNNING})),
    Play("pause", reaching(Status.RUNNING), asking(Command.PAUSE), frozenset({Status.RUNNING, Status.PAUSED})),
    Play("resume", reaching(Status.PAUSED), asking(Command.RESUME), frozenset({Status.RUNNING, Status.PAUSED})),
    Play("cold resume", go_cold, asking(Command.RESUME), frozenset({Status.RUNNING, Status.PAUSED})),
    Play("stop", reaching(Status.RUNNING), asking(Command.STOP), frozenset({Status.RUNNING, Status.STOPPED})),
    Play(
        "forced stop",
        reaching(Status.RUNNING),
        asking(Command.STOP, force=True),
        frozenset({Status.RUNNING, Status.STOPPED}),
    ),
    Play("restart", reaching(Status.STOPPED), asking(Command.RESTART), frozenset({Status.STOPPED, Status.RUNNING})),
    Play(
        "forced restart",
        reaching(Status.RUNNING),
        asking(Command.RESTART, force=True),
        frozenset({Status.RUNNING, Status.STOPPED}),
    ),
    Play("restart by the supervisor", reaching(Status.RUNNING), die, frozenset({Status.RUNNING})),
    Play("archive", reaching(Status.STOPPED), asking(Command.ARCHIVE), frozenset({Status.STOPPED, Status.ARCHIVED})),
    Play("delete", reaching(Status.STOPPED), asking(Command.DELETE), frozenset({Status.STOPPED, None})),
    Play("delete archived", reaching(Status.ARCHIVED), asking(Command.DELETE), frozenset({Status.ARCHIVED, None})),
]

WANTED = {
    Status.RUNNING: {SandboxState.RUNNING},
    Status.PAUSED: {SandboxState.PAUSED, SandboxState.EXITED},
    Status.STOPPED: {SandboxState.EXITED},
}


async def find(world: World, conversation: ConversationId = C1) -> ConversationRecord | None:
    """The conversation as it is; None if there is none."""
    await trio.lowlevel.checkpoint()
    try:
        return await world.supervisor.get(conversation)
    except NotFound:
        return None


async def assert_whole(world: World) -> ConversationRecord | None:
    """C1, its sandbox and the events fit together; answers with the record."""
    await trio.lowlevel.checkpoint()
    record = await find(world)
    mine = {name: box for name, box in world.engine.sandboxes.items() if box.plan.conversation == C1}
    assert world.engine.most_at_once[C1] <= 1
    if record is None or record.status is Status.ARCHIVED:
        assert mine == {}
    else:
        # A cold resume that was cut short is gone on with by the next one.
        assert record.intent is None or (record.status, record.intent) == (Status.PAUSED, Intent.CREATE)
        wanted = {record.sandbox.name} if record.sandbox is not None else set()
        assert set(mine) <= wanted
        assert {box.state for box in mine.values()} <= WANTED[record.status]
        assert mine or record.status is not Status.RUNNING
    if record is None:
        assert C1 not in world.engine.workspaces
    seqs = [event.seq for event in await world.events(None)]
    assert seqs == list(range(1, len(seqs) + 1))
    return record


async def finish(world: World) -> None:
    """The conversation can still be used to its end."""
    await trio.lowlevel.checkpoint()
    if await find(world) is None:
        await world.start()
    record = await find(world)
    if record is not None and record.status is Status.PAUSED:
        record = await world.supervisor.resume(C1, None)
        assert record.status is Status.RUNNING
    if record is not None and record.status is not Status.ARCHIVED:
        await world.stop()
    await world.supervisor.delete(C1)
    assert C1 not in world.engine.workspaces


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.name)
async def test_killed_daemon_finds_everything_again(tmp_path: Path, autojump_clock: MockClock, play: Play) -> None:
    """Killed at every moment of a command: afterwards it is wholly done or wholly not, and can be used to its end."""
    await trio.lowlevel.checkpoint()
    for at in itertools.count(1):
        directory = tmp_path / str(at)
        directory.mkdir()
        engine, agent = FakeEngine(), FakeAgent()
        was_cut = await cut_world(directory, PowerCut(at), engine, agent, play)
        async with open_world(directory, engine=engine, agent=agent) as world:
            await trio.sleep(70)
            record = await assert_whole(world)
            assert (record and record.status) in play.outcomes, at
            await finish(world)
        if not was_cut:
            break
    assert at > 3


@pytest.mark.parametrize("play", PLAYS[::3], ids=lambda play: play.name)
async def test_daemon_killed_while_it_recovers(tmp_path: Path, autojump_clock: MockClock, play: Play) -> None:
    """Killed again, at every second moment of its recovery from the first time."""
    await trio.lowlevel.checkpoint()
    recovery = attrs.evolve(play, prepare=nothing, act=nothing)
    for first, second in itertools.product(range(3, 18, 5), range(1, 12, 2)):
        directory = tmp_path / f"{first}-{second}"
        directory.mkdir()
        engine, agent = FakeEngine(), FakeAgent()
        await cut_world(directory, PowerCut(first), engine, agent, play)
        cut = PowerCut(second)
        engine.before = engine.done = cut.tick
        await cut_world(directory, cut, engine, agent, recovery)
        async with open_world(directory, engine=engine, agent=agent) as world:
            await trio.sleep(70)
            record = await assert_whole(world)
            assert (record and record.status) in play.outcomes


@pytest.mark.parametrize("status", [Status.RUNNING, Status.PAUSED, Status.STOPPED, Status.ARCHIVED])
async def test_started_again_daemon_leaves_everything_as_it_was(
    tmp_path: Path, autojump_clock: MockClock, status: Status
) -> None:
    """Sandboxes are undisturbed: no call changes them, no status is told."""
    async with open_world(tmp_path) as world:
        await reach(world, status)
        before, told = await world.supervisor.get(C1), await world.statuses()
        engine, agent = world.engine, world.agent
    engine.calls.clear()
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        await trio.sleep(100)
        assert await world.supervisor.get(C1) == before
        assert await world.statuses() == told
        assert set(engine.calls) <= {"watch", "engine", "list_owned", "list_workspaces", "inspect"}
        await world.start(C2)


async def test_started_again_daemon_attends_what_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What it adopted is followed and probed as before."""
    async with open_world(tmp_path) as world:
        await world.start()
        engine, agent = world.engine, world.agent
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        agent.does(C1, ExecutionStatus.STUCK)
        await world.until(lambda record: record.execution_status is ExecutionStatus.STUCK)
        agent.healthy = False
        await world.until_status(Status.STARTING)


async def test_host_that_rebooted_loses_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Everything was killed: what ran is started again, what was paused is paused and cold, what was stopped is."""
    stopped = ConversationId("c3")
    async with open_world(tmp_path) as world:
        await reach(world, Status.PAUSED)
        await world.start(C2)
        await world.start(stopped)
        await world.stop(stopped)
        engine, agent = world.engine, world.agent
    for sandbox in engine.sandboxes.values():
        sandbox.state = SandboxState.EXITED
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        await world.until_status(Status.RUNNING, C2)
        assert (world.record().status, world.record().observed) == (Status.PAUSED, Observed.COLD)
        assert world.record(stopped).status is Status.STOPPED
        assert (await world.supervisor.resume(C1, None)).status is Status.RUNNING


async def test_restart_backoff_goes_on_where_it_was(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The time of the next restart is in the record: a new daemon neither hurries nor begins anew."""
    policy = attrs.evolve(SETTINGS.restart, backoff_initial=50.0)
    settings = attrs.evolve(SETTINGS, restart=policy)
    async with open_world(tmp_path, settings=settings) as world:
        await world.start()
        world.engine.die(name_of(world))
        await world.until_status(Status.STARTING)
        due = world.record().next_restart_at
        await trio.sleep(20)
        engine, agent = world.engine, world.agent
    async with open_world(tmp_path, settings=settings, engine=engine, agent=agent) as world:
        await world.until_status(Status.RUNNING)
        assert due is not None
        assert 0 <= (world.record().updated_at - due).total_seconds() < 1
        assert world.record().restarts == 1


async def test_start_that_nobody_waits_for_any_more_goes_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A start that was interrupted by the daemon's end is finished by the next one, without its caller."""
    async with open_world(tmp_path) as world:
        world.engine.close_gate("ensure_image")
        await world.start(request=StartRequest(wait=False, timeout=5.0))
        await trio.sleep(1)
        engine, agent = world.engine, world.agent
    engine.open_gate("ensure_image")
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        await world.until_status(Status.RUNNING)
        assert world.record().incarnation == 1


async def test_two_daemons_of_two_directories_leave_each_other_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Names carry their owner: each state directory has an id of its own."""
    instances = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        async with open_world(tmp_path / name) as world:
            instances.add((await world.supervisor.info()).instance)
            await world.start()
            assert name_of(world).startswith(world.engine.owner[:8])
    assert len(instances) == 2
