"""A forced stop preempts anything, at any moment, and cannot queue behind anything."""

from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.control.service import StartRequest, Stopped
from supervisor.conversation.errors import (
    AgentUnavailable,
    Conflict,
    ConversationdError,
    EngineUnavailable,
    SandboxFailed,
)
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.restart import RestartPolicy
from supervisor.sandbox.port import SandboxState
from tests.actors.test_life import ask
from tests.fakes.engine import FakeEngine
from tests.world import C1, SETTINGS, World, after, open_world, until

BOOTING = [
    ("agent", "wait_ready"),
    ("agent", "begin"),
    ("engine", "ensure_image"),
    ("engine", "launch"),
]


async def send(world: World, command: Command, errors: list[ConversationdError], *, force: bool = False) -> None:
    """Send a command and remember how it failed, if it did."""
    await trio.lowlevel.checkpoint()
    try:
        await ask(world, command, force=force)
    except ConversationdError as error:
        errors.append(error)


def assert_ended(world: World) -> None:
    """C1 is STOPPED and nothing of it runs."""
    assert world.record().status is Status.STOPPED
    assert set(world.engine.states().values()) <= {SandboxState.EXITED}
    assert world.record().intent is None


@pytest.mark.parametrize(("where", "call"), BOOTING)
async def test_forced_stop_preempts_a_start(tmp_path: Path, autojump_clock: MockClock, where: str, call: str) -> None:
    """Wherever a start hangs: the sandbox is killed at once, both callers are answered, nothing runs."""
    async with open_world(tmp_path) as world:
        fake = world.agent if where == "agent" else world.engine
        fake.close_gate(call)
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, world, Command.START, errors)
            await trio.sleep(5)
            with trio.fail_after(70):
                assert (await world.supervisor.stop(C1, None, force=True)).was_running
        assert isinstance(errors[0], Conflict)
        fake.open_gate(call)
        assert_ended(world)
        assert await world.statuses() == ["STARTING", "STOPPED"]


async def test_forced_stop_kills_while_a_launch_hangs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The kill does not wait for the engine call under way; what that call makes afterwards is ended, too."""
    async with open_world(tmp_path) as world:
        world.engine.close_gate("launch")
        await world.start(request=StartRequest(wait=False))
        await trio.sleep(5)
        kills = world.engine.calls["kill"]
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def stop() -> None:
                await world.supervisor.stop(C1, None, force=True)

            await trio.sleep(1)
            assert world.engine.calls["kill"] == kills + 1
            world.engine.open_gate("launch")
        assert_ended(world)


RUNNING = [
    (Command.PAUSE, "agent", "pause"),
    (Command.PAUSE, "engine", "pause"),
    (Command.STOP, "engine", "stop"),
    (Command.STOP, "agent", "interrupt"),
    (Command.RESTART, "engine", "stop"),
]


@pytest.mark.parametrize(("command", "where", "call"), RUNNING)
async def test_forced_stop_preempts_a_command(
    tmp_path: Path, autojump_clock: MockClock, command: Command, where: str, call: str
) -> None:
    """Wherever a command of a running conversation hangs, it is cut short and its caller is answered."""
    async with open_world(tmp_path) as world:
        await world.start()
        fake = world.agent if where == "agent" else world.engine
        fake.close_gate(call)
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: send(world, command, errors, force=command is Command.RESTART))
            await trio.sleep(1)
            with trio.fail_after(61):
                await world.supervisor.stop(C1, None, force=True)
        assert isinstance(errors[0], Conflict)
        assert_ended(world)
        assert world.engine.calls["kill"] >= 2  # at once, and again when the command had been cut short


RESUMING = [("engine", "unpause"), ("engine", "inspect"), ("agent", "run"), ("agent", "wait_ready")]


@pytest.mark.parametrize(("where", "call"), RESUMING)
async def test_forced_stop_preempts_a_resume(tmp_path: Path, autojump_clock: MockClock, where: str, call: str) -> None:
    """Wherever a resume hangs."""
    async with open_world(tmp_path) as world:
        await world.start()
        await world.supervisor.pause(C1, None)
        await trio.sleep(1)
        fake = world.agent if where == "agent" else world.engine
        fake.close_gate(call)
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, world, Command.RESUME, errors)
            await trio.sleep(1)
            if call == "inspect":
                nursery.start_soon(open_after, 3, world.engine, call)
            with trio.fail_after(100):
                await world.supervisor.stop(C1, None, force=True)
        assert isinstance(errors[0], (Conflict, EngineUnavailable))
        assert_ended(world)


async def open_after(delay: float, engine: FakeEngine, call: str) -> None:
    """Let the engine's calls through a moment later."""
    await trio.sleep(delay)
    engine.open_gate(call)


@pytest.mark.parametrize("call", ["remove", "export_workspace", "inspect"])
async def test_forced_stop_preempts_an_archive(tmp_path: Path, autojump_clock: MockClock, call: str) -> None:
    """An archive that hangs is given up; what it had begun to remove is removed later, what not stays."""
    async with open_world(tmp_path, settings=attrs.evolve(SETTINGS, archive_to=tmp_path)) as world:
        autojump_clock.autojump_threshold = 0.01  # a file is unlinked in a thread, of which the clock knows nothing
        await world.start()
        await world.stop()
        await trio.sleep(1)
        world.engine.close_gate(call)
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, world, Command.ARCHIVE, errors)
            await trio.sleep(1)
            with trio.fail_after(70):
                assert not (await world.supervisor.stop(C1, None, force=True)).was_running
            world.engine.open_gate(call)
        assert isinstance(errors[0], (Conflict, EngineUnavailable))
        await trio.sleep(100)
        expected = Status.ARCHIVED if call == "remove" else Status.STOPPED
        assert (await world.supervisor.get(C1)).status is expected


async def test_forced_stop_preempts_a_restart_backoff(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While the next restart is waited for, a forced stop ends the waiting for good."""
    policy = RestartPolicy(backoff_initial=50.0, jitter=0.0)
    async with open_world(tmp_path, settings=attrs.evolve(SETTINGS, restart=policy)) as world:
        await world.start()
        world.engine.die(f"{world.engine.owner[:8]}-c1-1")
        await world.until_status(Status.STARTING)
        began = trio.current_time()
        await world.supervisor.stop(C1, None, force=True)
        assert trio.current_time() - began < 1
        await trio.sleep(200)
        assert_ended(world)
        assert world.record().next_restart_at is None


@pytest.mark.parametrize("call", ["inspect", "kill", "logs"])
async def test_forced_stop_preempts_what_the_actor_does_on_its_own(
    tmp_path: Path, autojump_clock: MockClock, call: str
) -> None:
    """A look at a sandbox, the end of an unhealthy one, the reading of its last lines: all can be cut short."""
    policy = RestartPolicy(max_restarts=0)
    async with open_world(tmp_path, settings=attrs.evolve(SETTINGS, restart=policy)) as world:
        await world.start()
        world.engine.close_gate(call)
        if call == "kill":
            world.agent.healthy = False
            await until(lambda: world.engine.calls["kill"] > 0)
        else:
            world.engine.die(f"{world.engine.owner[:8]}-c1-1")
            await until(lambda: world.engine.calls[call] > 1 or (call == "logs" and world.engine.calls[call] > 0))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_after, 1, world.engine, call)
            with trio.fail_after(10):
                await world.supervisor.stop(C1, None, force=True)
        assert_ended(world)


async def test_forced_stop_during_adoption(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A conversation can be ended before its actor has taken its first step."""
    async with open_world(tmp_path) as world:
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, world, Command.START, errors)
            await until(lambda: world.supervision.registry.find(C1) is not None)
            handle = world.supervision.registry.find(C1)
            assert handle is not None
            await handle.force_stop().wait()
        assert isinstance(errors[0], Conflict)
        assert_ended(world)


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_forced_stop_wins_whenever_it_comes(tmp_path: Path, autojump_clock: MockClock, steps: int) -> None:
    """However many steps a stream of other commands has got: the forced stop is not put behind them."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.agent.close_gate("pause")
        world.engine.close_gate("stop")
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:
            for command in (Command.PAUSE, Command.PAUSE, Command.STOP, Command.PAUSE):
                nursery.start_soon(send, world, command, errors)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(lambda: send(world, Command.STOP, errors, force=True))
            await trio.sleep(0.1)
            assert not world.engine.runs(C1)
            world.engine.open_gate("stop")
        assert_ended(world)
        assert trio.current_time() < 5


async def test_forced_stop_between_a_message_and_its_work_is_not_put_behind_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The narrowest gap: the actor has taken a command and not begun with it."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.agent.close_gate("pause")
        handle = world.supervision.registry.find(C1)
        assert handle is not None
        errors: list[ConversationdError] = []
        for steps in range(8):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, world, Command.PAUSE, errors)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                began = trio.current_time()
                await handle.force_stop().wait()
                assert trio.current_time() - began < 1
            await world.supervisor.restart(C1, None, force=False)


async def test_many_forced_stops_at_once_are_all_answered(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Everyone who asked is answered, during a start and during a graceful stop."""
    async with open_world(tmp_path) as world:
        world.agent.close_gate("wait_ready")
        answers: list[Stopped] = []

        async def stop() -> None:
            answers.append(await world.supervisor.stop(C1, None, force=True))

        await world.start(request=StartRequest(wait=False))
        await trio.sleep(1)
        async with trio.open_nursery() as nursery:
            for delay in (0.0, 0.0, 0.0, 0.005, 0.01, 0.015, 0.02, 0.03):
                nursery.start_soon(after, delay, stop)
        assert len(answers) == 8
        assert {answer.record.status for answer in answers} == {Status.STOPPED}
        assert any(answer.was_running for answer in answers)
        assert_ended(world)


async def test_forced_stop_outlives_an_engine_that_fails_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An end that fails, twice, is tried again; the answer says that it will be done, and it is."""
    async with open_world(tmp_path) as world:
        world.agent.close_gate("wait_ready")
        await world.start(request=StartRequest(wait=False))
        await trio.sleep(1)
        world.engine.fail_next("kill", EngineUnavailable("not now"), times=2)
        world.engine.fail_next("remove", EngineUnavailable("not now"), times=2)
        with pytest.raises(EngineUnavailable):
            await world.stop(force=True)
        await world.until_status(Status.STOPPED)
        assert_ended(world)


async def test_forced_stop_of_a_running_conversation_ends_its_probes(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nothing of a conversation goes on after its end."""
    async with open_world(tmp_path) as world:
        await world.start()
        await world.stop(force=True)
        await trio.sleep(1)
        calls = len(world.agent.calls)
        await trio.sleep(300)
        assert len(world.agent.calls) == calls


async def test_forced_stop_while_probes_fail(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An agent that cannot be followed does not disturb the end."""
    async with open_world(tmp_path) as world:
        world.agent.fail_next("follow", AgentUnavailable("not now"), times=3)
        await world.start()
        await trio.sleep(20)
        assert world.agent.calls.count("follow") == 4
        await world.stop(force=True)
        assert_ended(world)


async def test_forced_stop_removes_what_the_engine_cannot_kill(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Docker can fail a kill and still be able to remove."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.engine.fail_next("kill", SandboxFailed("did not receive an exit event"))
        assert (await world.stop(force=True)).status is Status.STOPPED
        assert world.engine.sandboxes == {}
