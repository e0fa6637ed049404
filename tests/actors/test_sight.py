"""Unknown is never dead; and what happens behind our back is found, by an event or by the minute's list."""

from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.actors.settings import Timeouts
from supervisor.control.service import StartRequest
from supervisor.conversation.errors import EngineUnavailable, InvalidTransition, SandboxFailed
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ExecutionStatus, FailureCode, Observed
from supervisor.sandbox.port import SandboxState
from tests.actors.test_life import NO_RESTARTS, reach
from tests.actors.test_restart import name_of
from tests.world import C1, SETTINGS, World, open_world, until

C2 = ConversationId("c2")


def state(world: World) -> SandboxState:
    """What C1's sandbox does."""
    return world.engine.sandboxes[name_of(world)].state


@pytest.mark.parametrize("status", [Status.RUNNING, Status.PAUSED])
async def test_lost_engine_changes_no_status(tmp_path: Path, autojump_clock: MockClock, status: Status) -> None:
    """Statuses stay, marked unknown, for as long as it takes; and are reconciled when the engine answers."""
    async with open_world(tmp_path) as world:
        await reach(world, status)
        world.engine.go_down()
        await world.until(lambda record: record.observed is Observed.UNKNOWN)
        await trio.sleep(5000)
        assert world.record().status is status
        world.engine.come_up()
        await world.until(lambda record: record.observed is Observed.LIVE)
        assert (world.record().status, world.record().incarnation) == (status, 1)
        assert [told["observed"] for told in await world.told("health")] == ["unknown", "live"]
        assert [told["what"] for told in await world.told("daemon", None)] == [
            *("engine_connected", "engine_lost", "engine_connected"),
        ]


async def test_engine_that_lost_the_sandbox_has_it_restarted(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The engine comes back and the sandbox does not: only then it is dead."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.engine.go_down()
        await world.until(lambda record: record.observed is Observed.UNKNOWN)
        world.engine.sandboxes[name_of(world)].state = SandboxState.EXITED
        await trio.sleep(100)
        assert world.record().status is Status.RUNNING
        world.engine.come_up()
        await world.until_status(Status.STARTING)
        await world.until_status(Status.RUNNING)
        assert world.record().incarnation == 2


async def test_start_waits_for_an_engine_that_went_away(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An engine that is lost in the middle of a start is waited for within the start's deadline."""
    async with open_world(tmp_path) as world:
        world.engine.close_gate("ensure_image")
        await world.start(request=StartRequest(wait=False))
        await trio.sleep(1)
        world.engine.go_down()
        world.engine.open_gate("ensure_image")
        await world.until(lambda record: record.observed is Observed.UNKNOWN)
        await trio.sleep(60)
        assert world.record().status is Status.STARTING
        world.engine.come_up()
        await world.until_status(Status.RUNNING)
        assert world.record().incarnation == 1


@pytest.mark.parametrize("down", [299.0, 1000.0, 5000.0])
async def test_supervisors_restart_waits_for_the_engine_as_long_as_it_takes(
    tmp_path: Path, autojump_clock: MockClock, down: float
) -> None:
    """Nobody asked for this start, so no deadline passes while the engine is away: it loses no conversation."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.agent.boot_time = 20.0
        world.engine.die(name_of(world))
        await world.until_status(Status.STARTING)
        world.engine.go_down()
        await trio.sleep(down)
        assert world.record().status is Status.STARTING
        world.engine.come_up()
        await world.until(lambda record: record.status is not Status.STARTING)
        assert world.record().status is Status.RUNNING


async def test_supervisors_restart_has_a_deadline_with_an_engine_that_answers(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """With the engine there, a boot that does not get ready ends in `start_timeout`."""
    settings = attrs.evolve(SETTINGS, timeouts=Timeouts(start=50.0))
    async with open_world(tmp_path, settings=settings) as world:
        await world.start()
        world.agent.close_gate("wait_ready")
        world.engine.die(name_of(world))
        await world.until_status(Status.ERROR)
        assert world.record().error is not None
        assert world.record().error.code is FailureCode.START_TIMEOUT  # type: ignore[union-attr]  # just seen


async def test_restart_waits_for_an_engine_whose_calls_hang(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The engine takes the calls and does not return them: that is waiting for it, too."""
    settings = attrs.evolve(SETTINGS, timeouts=Timeouts(start=30.0))
    async with open_world(tmp_path, settings=settings) as world:
        await world.start()
        world.engine.close_gate("launch")
        world.engine.die(name_of(world))
        await world.until_status(Status.STARTING)
        await trio.sleep(5)
        world.engine.go_down()
        await trio.sleep(300)
        assert world.record().status is Status.STARTING
        world.engine.open_gate("launch")
        world.engine.come_up()
        await world.until_status(Status.RUNNING)


# Behind our back.


@pytest.mark.parametrize("deaf", [False, True])
async def test_sandbox_frozen_behind_our_back_is_thawed(tmp_path: Path, autojump_clock: MockClock, deaf: bool) -> None:
    """A RUNNING conversation runs: by an event or by the minute's list it is found and thawed; its agent never knew."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.engine.deaf = deaf
        world.agent.runs = lambda conversation: True
        world.engine.sandboxes[name_of(world)].state = SandboxState.PAUSED
        world.engine.tell(C1)
        await trio.sleep(61 if deaf else 1)
        assert state(world) is SandboxState.RUNNING
        assert "run" not in world.agent.calls
        assert await world.statuses() == ["STARTING", "RUNNING"]


async def test_sandbox_frozen_behind_an_idle_agents_back_is_only_thawed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nobody tells an agent to run that did not."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.agent.does(C1, ExecutionStatus.IDLE)
        await world.until(lambda record: record.execution_status is ExecutionStatus.IDLE)
        world.engine.sandboxes[name_of(world)].state = SandboxState.PAUSED
        world.engine.tell(C1)
        await trio.sleep(1)
        assert (state(world), "run" in world.agent.calls) == (SandboxState.RUNNING, False)


@pytest.mark.parametrize("deaf", [False, True])
async def test_paused_sandbox_thawed_behind_our_back_is_frozen(
    tmp_path: Path, autojump_clock: MockClock, deaf: bool
) -> None:
    """PAUSED is PAUSED."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.PAUSED)
        world.engine.deaf = deaf
        world.engine.sandboxes[name_of(world)].state = SandboxState.RUNNING
        world.engine.tell(C1)
        await trio.sleep(61 if deaf else 1)
        assert (state(world), world.record().status) == (SandboxState.PAUSED, Status.PAUSED)


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("how", ["killed", "removed"])
async def test_paused_sandbox_that_ended_stays_paused_and_cold(
    tmp_path: Path, autojump_clock: MockClock, how: str, deaf: bool
) -> None:
    """PAUSED with a cold sandbox, and the record says so; resume boots it again and the agent goes on."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.PAUSED)
        world.engine.deaf = deaf
        if how == "killed":
            world.engine.die(name_of(world), 137)
        else:
            world.engine.vanish(name_of(world))
        await trio.sleep(61 if deaf else 1)
        assert (world.record().status, world.record().observed) == (Status.PAUSED, Observed.COLD)
        assert "memory is lost" in str((await world.told("health"))[-1]["message"])
        world.engine.deaf = False
        resumed = await world.supervisor.resume(C1, None)
        assert (resumed.status, resumed.incarnation) == (Status.RUNNING, 2)
        assert resumed.execution_status is ExecutionStatus.RUNNING
        assert world.agent.conversations[C1].told_to_go_on == 1
        assert await world.statuses() == ["STARTING", "RUNNING", "PAUSED", "RUNNING"]
        assert world.engine.most_at_once[C1] == 1


async def test_cold_resume_that_cannot_heal_ends_in_error(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A cold sandbox whose image is gone: the caller gets the reason, and the status is ERROR."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.PAUSED)
        world.engine.vanish(name_of(world))
        world.engine.fail_next("launch", SandboxFailed("bad command"))
        with pytest.raises(SandboxFailed, match="bad command"):
            await world.supervisor.resume(C1, None)
        assert world.record().error is not None
        assert world.record().error.code is FailureCode.ENGINE_REFUSED  # type: ignore[union-attr]  # just seen


async def test_sandbox_that_dies_of_its_thawing_is_booted_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Thawed and at once gone: the resume does not wait for its deadline, it boots."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.PAUSED)
        world.agent.close_gate("wait_ready")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.supervisor.resume, C1, None)
            await until(lambda: world.engine.runs(C1))
            await trio.sleep(1)
            world.engine.die(name_of(world), 137)
            world.agent.open_gate("wait_ready")
        assert (world.record().status, world.record().incarnation) == (Status.RUNNING, 2)
        assert trio.current_time() < 10


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("how", ["killed", "removed"])
async def test_running_sandbox_that_ended_is_restarted(
    tmp_path: Path, autojump_clock: MockClock, how: str, deaf: bool
) -> None:
    """Killed or removed by someone: started again, also when its event was lost."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.engine.deaf = deaf
        world.agent.runs = lambda conversation: True
        if how == "killed":
            world.engine.die(name_of(world), 137)
        else:
            world.engine.vanish(name_of(world))
        await trio.sleep(65 if deaf else 5)
        assert (world.record().status, world.record().incarnation) == (Status.RUNNING, 2)


@pytest.mark.parametrize("deaf", [False, True])
async def test_stopped_sandbox_that_someone_started_is_ended(
    tmp_path: Path, autojump_clock: MockClock, deaf: bool
) -> None:
    """STOPPED runs nothing."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.STOPPED)
        world.engine.deaf = deaf
        world.engine.sandboxes[name_of(world)].state = SandboxState.RUNNING
        world.engine.tell(C1)
        await trio.sleep(61 if deaf else 1)
        assert (state(world), world.record().status) == (SandboxState.EXITED, Status.STOPPED)


async def test_failed_sandbox_that_someone_started_is_seen(tmp_path: Path, autojump_clock: MockClock) -> None:
    """ERROR is left to people; what is seen of its sandbox is in the record."""
    async with open_world(tmp_path, settings=NO_RESTARTS) as world:
        await reach(world, Status.ERROR)
        world.engine.sandboxes[name_of(world)].state = SandboxState.RUNNING
        world.engine.tell(C1)
        await trio.sleep(1)
        assert (world.record().status, world.record().observed) == (Status.ERROR, Observed.LIVE)


async def test_sandbox_that_moved_to_another_port_is_found_there(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Someone restarted it: the record, and whoever connects, has the new address."""
    async with open_world(tmp_path) as world:
        old = (await world.start()).sandbox
        assert old is not None
        world.engine.sandboxes[old.name].port = 50000
        world.engine.tell(C1)
        await trio.sleep(1)
        assert (await world.supervisor.connect(C1)).url == "http://127.0.0.1:50000"
        assert world.agent.calls.count("follow") == 2
        assert world.record().incarnation == 1


async def test_one_look_that_failed_is_made_up_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The engine was never lost, one call failed: the minute's sweep looks again."""
    async with open_world(tmp_path) as world:
        await world.start()
        await trio.sleep(1)
        world.engine.fail_next("inspect", EngineUnavailable("not now"))
        world.engine.tell(C1)
        await world.until(lambda record: record.observed is Observed.UNKNOWN)
        await trio.sleep(61)
        assert world.record().observed is Observed.LIVE


@pytest.mark.parametrize("error", [SandboxFailed("no"), EngineUnavailable("not now")])
async def test_thawing_that_fails_is_tried_again(
    tmp_path: Path, autojump_clock: MockClock, error: SandboxFailed | EngineUnavailable
) -> None:
    """What cannot be settled now is settled at the next look."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.agent.runs = lambda conversation: True
        world.engine.fail_next("unpause", error)
        world.engine.sandboxes[name_of(world)].state = SandboxState.PAUSED
        world.engine.tell(C1)
        await trio.sleep(61)
        assert world.engine.runs(C1)


async def test_command_on_a_sandbox_that_died_unseen_is_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After a start of the daemon without an engine: a pause finds it dead, is refused, and it is restarted."""
    async with open_world(tmp_path) as world:
        await world.start()
        engine, agent = world.engine, world.agent
    engine.go_down()
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        assert (world.record().status, world.record().observed) == (Status.RUNNING, Observed.UNKNOWN)
        with pytest.raises(EngineUnavailable):
            await world.supervisor.pause(C1, None)
        engine.sandboxes[name_of(world)].state = SandboxState.EXITED
        engine.deaf = True
        async with trio.open_nursery() as nursery:
            for look in range(2):
                nursery.start_soon(pause_refused, world, look)
            engine.come_up()
        await world.until_status(Status.RUNNING)
        assert world.record().incarnation == 2
        assert world.incidents == []


async def pause_refused(world: World, delay: float) -> None:
    """Ask for a pause that is refused, because the status or the engine does not allow it."""
    await trio.sleep(delay / 100)
    with pytest.raises((InvalidTransition, EngineUnavailable)):
        await world.supervisor.pause(C1, None)


async def test_first_command_after_the_engine_came_back_sees_the_sandbox(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A pause that comes before the look looks for itself."""
    async with open_world(tmp_path) as world:
        await world.start()
        engine, agent = world.engine, world.agent
    engine.go_down()
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        sight = world.supervision.engines["docker"]
        sight.answers = True  # the moment between the engine's first word and the look that follows it
        engine.come_up()
        assert (await world.supervisor.pause(C1, None)).status is Status.PAUSED


async def test_first_command_after_the_engine_came_back_sees_that_it_is_dead(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The same with a sandbox that has died: the pause is refused, and the restart goes on undisturbed."""
    async with open_world(tmp_path) as world:
        await world.start()
        engine, agent = world.engine, world.agent
    engine.go_down()
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        engine.sandboxes[name_of(world)].state = SandboxState.EXITED
        world.supervision.engines["docker"].answers = True
        engine.come_up()
        with pytest.raises(InvalidTransition):
            await world.supervisor.pause(C1, None)
        await world.until_status(Status.RUNNING)
        assert world.record().incarnation == 2
