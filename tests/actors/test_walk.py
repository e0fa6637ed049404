"""Random walks: commands and faults over three conversations, whatever their order, keep every promise."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.actors.settings import Health, Timeouts
from supervisor.control.service import StartRequest
from supervisor.conversation.errors import ConversationdError, EngineUnavailable, InternalError
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status, is_legal
from supervisor.journal.changes import JournalError
from supervisor.sandbox.port import SandboxState
from tests.actors.test_killed import WANTED, PowerCut
from tests.fakes.agent import FakeAgent
from tests.fakes.engine import FakeEngine
from tests.fakes.store import FaultyStore
from tests.world import SETTINGS, World, open_world

IDS = tuple(ConversationId(name) for name in ("c1", "c2", "c3"))
SEEDS = 100
BOUND = 700.0
WALK = attrs.evolve(
    SETTINGS,
    timeouts=Timeouts(start=60.0, pause=10.0, resume=20.0, stop=10.0, archive=20.0, boot=20.0, agent=20.0),
    health=Health(interval=5.0),
)
ENGINE_CALLS = (
    "ensure_image",
    "launch",
    "inspect",
    "pause",
    "unpause",
    "stop",
    "kill",
    "remove",
    "logs",
    "list_owned",
    "list_workspaces",
)
AGENT_CALLS = ("wait_ready", "begin", "pause", "run", "interrupt", "probe")


@attrs.define
class Walk:
    """One walk: what it does next is the dice's."""

    random: Random
    engine: FakeEngine = attrs.field(factory=FakeEngine)
    agent: FakeAgent = attrs.field(factory=FakeAgent)
    closed: set[tuple[str, str]] = attrs.field(factory=set)
    asked: int = 0
    answered: int = 0

    async def command(self, world: World) -> None:
        """Send any command to any conversation; every one is answered within a bound."""
        await trio.lowlevel.checkpoint()
        conversation = self.random.choice(IDS)
        service, force = world.supervisor, self.random.random() < 0.3
        request = StartRequest(id=conversation, wait=self.random.random() < 0.5)
        commands: tuple[Callable[[], Awaitable[object]], ...] = (
            lambda: service.start(request),
            lambda: service.start(request),
            lambda: service.pause(conversation, None),
            lambda: service.resume(conversation, None),
            lambda: service.stop(conversation, None, force=force),
            lambda: service.restart(conversation, None, force=force),
            lambda: service.archive(conversation, None),
            lambda: service.delete(conversation),
        )
        choice = self.random.choice(commands)
        self.asked += 1
        try:
            with trio.fail_after(BOUND):
                await choice()
        except InternalError:
            raise AssertionError("a bug of ours") from None
        except (ConversationdError, JournalError):
            pass
        self.answered += 1

    def fault(self) -> None:
        """Do something to the engine, the agent or a sandbox."""
        dice = self.random
        running = [name for name, box in self.engine.sandboxes.items() if box.state is not SandboxState.EXITED]
        faults: tuple[Callable[[], None], ...] = (
            lambda: self.engine.fail_next(
                dice.choice(ENGINE_CALLS), EngineUnavailable("not now"), dice.randrange(1, 4)
            ),
            lambda: self.close("engine", dice.choice(ENGINE_CALLS)),
            lambda: self.close("agent", dice.choice(AGENT_CALLS)),
            self.open_all,
            self.engine.go_down,
            self.engine.come_up,
            self.engine.come_up,
            lambda: setattr(self.engine, "deaf", not self.engine.deaf),
            lambda: setattr(self.agent, "healthy", dice.random() < 0.7),
            lambda: self.engine.exits_at_boot.append((dice.choice((1, 127, 139)), dice.random() < 0.2)),
            lambda: self.harm(dice.choice(running)) if running else None,
        )
        dice.choice(faults)()

    def harm(self, name: str) -> None:
        """Kill, remove or freeze a sandbox behind everyone's back."""
        how = self.random.randrange(3)
        if how == 0:
            self.engine.die(name, 1)
        elif how == 1:
            self.engine.vanish(name)
        else:
            self.engine.sandboxes[name].state = SandboxState.PAUSED

    def close(self, where: str, call: str) -> None:
        """Let calls of a kind hang."""
        if (where, call) not in self.closed:
            self.closed.add((where, call))
            (self.engine if where == "engine" else self.agent).close_gate(call)

    def open_all(self) -> None:
        """Let all calls through again."""
        for where, call in self.closed:
            (self.engine if where == "engine" else self.agent).open_gate(call)
        self.closed.clear()

    def heal(self) -> None:
        """End every fault."""
        self.open_all()
        self.engine.come_up()
        self.engine.deaf, self.agent.healthy = False, True
        self.engine.exits_at_boot.clear()
        self.engine._failures.clear()
        self.agent._failures.clear()


async def go(walk: Walk, world: World) -> None:
    """Take some steps, each after a while."""
    async with trio.open_nursery() as nursery:
        for _ in range(walk.random.randrange(8, 20)):
            if walk.random.random() < 0.6:
                nursery.start_soon(walk.command, world)
            else:
                walk.fault()
            await trio.sleep(walk.random.choice((0.0, 0.005, 0.02, 0.1, 1.0, 10.0, 65.0)))
        walk.heal()


async def assert_sound(walk: Walk, world: World) -> None:
    """Everything has settled, fits together, and was told as the life cycle allows."""
    events = await world.events(None)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    at: dict[ConversationId | None, Status | None] = {}
    for event in events:
        if event.kind == "status":
            change = json.loads(event.data)
            before = Status(change["from"]) if change["from"] else None
            assert at.get(event.conversation) is before
            assert is_legal(before, Status(change["to"]))
            at[event.conversation] = Status(change["to"])
        elif event.kind == "deleted":
            at[event.conversation] = None
    assert all(most == 1 for most in walk.engine.most_at_once.values())
    boxes = dict(walk.engine.sandboxes)
    for record in (await world.supervisor.list((), {}, 10, None)).items:
        assert at[record.id] is record.status
        box = boxes.pop(record.sandbox.name, None) if record.sandbox is not None else None
        if record.status in WANTED and (box is not None or record.status is Status.RUNNING):
            assert box is not None
            assert box.state in WANTED[record.status]
    assert boxes == {}
    assert world.incidents == []


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_walk_keeps_every_promise(tmp_path: Path, autojump_clock: MockClock, seed: int) -> None:
    """Every command is answered within a bound, transitions are legal, one sandbox at most, nothing left over."""
    walk = Walk(Random(seed))
    async with open_world(tmp_path, settings=WALK, engine=walk.engine, agent=walk.agent) as world:
        await go(walk, world)
        assert walk.answered == walk.asked
        await trio.sleep(400)
        await assert_sound(walk, world)


@pytest.mark.parametrize("seed", range(SEEDS // 4))
async def test_walk_with_daemons_that_are_killed(tmp_path: Path, autojump_clock: MockClock, seed: int) -> None:
    """The same over several lives of the daemon, each killed at a moment of the dice's."""
    walk = Walk(Random(1000 + seed))
    for _ in range(3):
        cut = PowerCut(walk.random.randrange(1, 60))
        with cut.scope:
            async with open_world(
                tmp_path, settings=WALK, engine=walk.engine, agent=walk.agent, make_store=FaultyStore
            ) as world:
                cut.watch(world)
                await go(walk, world)
        walk.engine.before = walk.engine.done = lambda call: None
        walk.heal()
    async with open_world(tmp_path, settings=WALK, engine=walk.engine, agent=walk.agent) as world:
        await trio.sleep(400)
        await assert_sound(walk, world)
