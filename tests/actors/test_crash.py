"""Actors that raise, which is a bug of ours: replaced over the same record and sandbox, and nothing is lost."""

from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.control.service import StartRequest
from supervisor.conversation.errors import ConversationdError, InternalError
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import ExecutionStatus, FailureCode, Intent
from supervisor.incidents import Incident
from supervisor.journal.changes import Update
from supervisor.sandbox.port import SandboxState
from tests.actors.test_ending import fail_start
from tests.actors.test_force_stop import send
from tests.actors.test_life import ask, reach
from tests.actors.test_restart import name_of
from tests.world import C1, SETTINGS, World, open_world, until

C2 = ConversationId("c2")
BUG = RuntimeError("a bug of ours")

COMMANDS = [
    (Status.RUNNING, Command.PAUSE, "agent", "pause", Status.RUNNING),
    (Status.RUNNING, Command.PAUSE, "engine", "pause", Status.RUNNING),
    (Status.PAUSED, Command.RESUME, "engine", "inspect", Status.PAUSED),
    (Status.PAUSED, Command.RESUME, "engine", "unpause", Status.PAUSED),
    (Status.PAUSED, Command.RESUME, "agent", "wait_ready", Status.PAUSED),
    (Status.PAUSED, Command.RESUME, "agent", "run", Status.PAUSED),
    (Status.RUNNING, Command.STOP, "agent", "interrupt", Status.STOPPED),
    (Status.RUNNING, Command.STOP, "engine", "stop", Status.STOPPED),
    (Status.STOPPED, Command.ARCHIVE, "engine", "remove", Status.ARCHIVED),
    (Status.STOPPED, Command.RESTART, "engine", "inspect", Status.RUNNING),
    (Status.STOPPED, Command.RESTART, "engine", "ensure_image", Status.RUNNING),
    (Status.STOPPED, Command.RESTART, "engine", "remove", Status.RUNNING),
    (Status.STOPPED, Command.RESTART, "engine", "launch", Status.RUNNING),
    (Status.STOPPED, Command.RESTART, "agent", "wait_ready", Status.RUNNING),
    (Status.STOPPED, Command.RESTART, "agent", "begin", Status.RUNNING),
]


def break_next(world: World, where: str, call: str, times: int = 1) -> None:
    """Let the next calls of this name raise what nobody expects."""
    (world.agent if where == "agent" else world.engine).fail_next(call, BUG, times)


@attrs.frozen
class Crash:
    """A command that meets a bug, and where its conversation has to be in the end."""

    status: Status
    command: Command
    where: str
    call: str
    after: Status


@pytest.mark.parametrize("case", [Crash(*row) for row in COMMANDS], ids=lambda case: f"{case.command}-{case.call}")
async def test_command_of_an_actor_that_raises_is_answered(
    tmp_path: Path, autojump_clock: MockClock, case: Crash
) -> None:
    """The caller gets `internal` with an incident, who listens hears of it, the conversation ends where it should."""
    async with open_world(tmp_path) as world:
        await world.start(C2)
        await reach(world, case.status)
        incarnation = world.record().incarnation
        break_next(world, case.where, case.call)
        with pytest.raises(InternalError) as caught:
            await ask(world, case.command)
        await trio.sleep(5)
        record = await world.supervisor.get(C1)
        assert record.status is case.after
        if case.command is not Command.RESTART:
            assert record.incarnation == incarnation
        assert world.incidents == [Incident(caught.value.incident, "actor", C1)]
        assert "a bug of ours" not in str(caught.value)
        assert world.record(C2).status is Status.RUNNING
        assert world.engine.most_at_once[C1] == 1


@pytest.mark.parametrize(
    ("where", "call"),
    [("engine", "ensure_image"), ("engine", "launch"), ("agent", "wait_ready"), ("agent", "begin")],
)
async def test_start_of_an_actor_that_raises_is_answered_and_goes_on(
    tmp_path: Path, autojump_clock: MockClock, where: str, call: str
) -> None:
    """The caller gets `internal`; the next actor takes the start up where it was."""
    async with open_world(tmp_path) as world:
        break_next(world, where, call)
        with pytest.raises(InternalError):
            await world.start()
        await world.until_status(Status.RUNNING)
        assert world.record().incarnation == 1
        assert world.engine.calls["launch"] <= 2


@pytest.mark.parametrize(("where", "call"), [("agent", "probe"), ("engine", "inspect")])
async def test_actor_that_raises_on_its_own_is_replaced(
    tmp_path: Path, autojump_clock: MockClock, where: str, call: str
) -> None:
    """Nobody asked for anything: the sandbox is the same, and it is attended again."""
    async with open_world(tmp_path) as world:
        await world.start()
        name = name_of(world)
        break_next(world, where, call)
        world.engine.tell(C1)
        await trio.sleep(30)
        assert (world.record().status, name_of(world)) == (Status.RUNNING, name)
        assert len(world.incidents) == 1
        world.agent.does(C1, ExecutionStatus.FINISHED)
        await world.until(lambda record: record.execution_status is ExecutionStatus.FINISHED)


async def test_actor_that_raises_while_it_follows_is_replaced(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The same for a bug in the agent driver's stream."""
    async with open_world(tmp_path) as world:
        break_next(world, "agent", "follow")
        await world.start()
        await trio.sleep(5)
        assert (world.record().status, world.record().incarnation) == (Status.RUNNING, 1)
        assert len(world.incidents) == 1


async def test_messages_outlive_the_actor(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What waits in the mailbox is handled by the next actor, in order."""
    async with open_world(tmp_path) as world:
        await world.start()
        break_next(world, "agent", "pause")
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, world, Command.PAUSE, errors)
            await trio.lowlevel.checkpoint()
            for _ in range(3):
                nursery.start_soon(send, world, Command.STOP, errors)
        assert len(errors) == 1
        assert world.record().status is Status.STOPPED


async def test_actors_that_always_raise_end_in_error(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After five replacements in a row the conversation is ERROR `internal`; the others know nothing of it."""
    async with open_world(tmp_path) as world:
        await world.start()
        await world.start(C2)
        names = sorted(world.engine.sandboxes)
        break_next(world, "engine", "inspect", times=6)
        world.engine.tell(C1)
        await world.until_status(Status.ERROR)
        assert world.record().error is not None
        assert world.record().error.code is FailureCode.INTERNAL  # type: ignore[union-attr]  # just seen
        assert len(world.incidents) == 6
        assert sorted(world.engine.sandboxes) == names
        assert world.record(C2).status is Status.RUNNING
        assert (await world.supervisor.restart(C1, None, force=False)).status is Status.RUNNING


async def test_actors_that_raise_now_and_then_go_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Crashes that are far apart are not counted together."""
    async with open_world(tmp_path) as world:
        await world.start()
        for _ in range(8):
            await trio.sleep(601)
            break_next(world, "engine", "inspect")
            world.engine.tell(C1)
        await trio.sleep(10)
        assert len(world.incidents) == 8
        assert world.record().status is Status.RUNNING


async def test_stopped_conversation_whose_actors_raise_stays_stopped(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Where there is nothing to fail, it is tried ever more slowly, and works as soon as it can."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.STOPPED)
        break_next(world, "engine", "remove", times=8)
        with pytest.raises(InternalError):
            await world.supervisor.archive(C1, None)
        await until(lambda: world.supervision.registry.find(C1) is None)
        assert (await world.supervisor.get(C1)).status is Status.ARCHIVED


@pytest.mark.parametrize("call", ["kill", "inspect"])
async def test_forced_stop_whose_actor_raises_is_carried_out_by_the_next(
    tmp_path: Path, autojump_clock: MockClock, call: str
) -> None:
    """The caller gets `internal`, and the sandbox ends all the same."""
    async with open_world(tmp_path) as world:
        await world.start()
        await trio.sleep(1)
        break_next(world, "engine", call)
        with pytest.raises(InternalError):
            await world.stop(force=True)
        await world.until_status(Status.STOPPED)
        assert not world.engine.runs(C1)


async def test_forced_stop_whose_first_kill_raises(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The kill that comes before anything else meets the bug: the forced stop itself is not lost."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.STARTING)
        break_next(world, "engine", "kill")
        with suppress(InternalError):
            await world.stop(force=True)
        await trio.sleep(1)
        assert world.record().status is Status.STOPPED
        assert not world.engine.runs(C1)


async def test_forced_stop_does_not_wait_for_a_replacement(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The actor has crashed, while it booted, and the next one is half a minute away: it comes at once."""
    async with open_world(tmp_path) as world:
        break_next(world, "engine", "launch", times=5)
        await world.start(request=StartRequest(wait=False))
        await until(lambda: world.engine.calls["launch"] == 5)
        await trio.sleep(0.1)
        began = trio.current_time()
        assert (await world.stop(force=True)).status is Status.STOPPED
        assert trio.current_time() - began < 0.5


async def test_conversation_that_always_raises_holds_up_no_start_of_the_daemon(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The daemon serves the others although one conversation cannot be adopted."""
    async with open_world(tmp_path) as world:
        await world.start(C2)
        await reach(world, Status.STOPPED)
        record = attrs.evolve(world.record(), intent=Intent.DELETE)
        engine, agent = world.engine, world.agent
        await trio.sleep(1)
        await world.supervision.journal.commit(Update(record, ()))
    engine.fail_next("remove_workspace", BUG, times=10)
    began = trio.current_time()
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        assert trio.current_time() - began < 1
        assert (await world.supervisor.get(C2)).status is Status.RUNNING
        await until(lambda: world.supervision.registry.find(C1) is None)
        assert engine.workspaces == {C2}


async def test_ending_the_daemon_while_an_actor_is_replaced(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nothing hangs, and the next daemon finds the conversation as it was."""
    async with open_world(tmp_path) as world:
        await world.start()
        break_next(world, "engine", "inspect", times=3)
        world.engine.tell(C1)
        await until(lambda: world.engine.calls["inspect"] >= 4)
        engine, agent = world.engine, world.agent
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        await trio.sleep(1)
        assert (world.record().status, world.record().incarnation) == (Status.RUNNING, 1)
        assert engine.states() == {name_of(world): SandboxState.RUNNING}


async def test_start_that_fails_by_itself_while_the_actor_raises(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A crash beside a boot: the start's caller is answered, too."""
    async with open_world(tmp_path) as world:
        world.agent.close_gate("wait_ready")
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_start, world, C1, errors)
            await trio.sleep(1)
            break_next(world, "engine", "inspect")
            world.engine.tell(C1)
        assert isinstance(errors[0], InternalError)
        world.agent.open_gate("wait_ready")
        await world.until_status(Status.RUNNING)
        assert world.record().incarnation == 1


def test_settings_are_those_of_the_design() -> None:
    """The defaults that the tests above count on."""
    assert (SETTINGS.restart.max_restarts, SETTINGS.restart.window) == (5, 600.0)
