"""Every deadline of the actor, with its outcome."""

from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.actors.settings import Timeouts
from supervisor.control.service import StartRequest
from supervisor.conversation.errors import (
    AgentUnavailable,
    CommandTimeout,
    EngineUnavailable,
    ImageUnavailable,
    SandboxFailed,
)
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ExecutionStatus, FailureCode, Observed
from supervisor.sandbox.port import PullProgress, SandboxState
from tests.actors.test_life import reach
from tests.fakes.agent import FakeAgent
from tests.fakes.engine import FakeEngine
from tests.world import C1, SETTINGS, World, open_world

TIMEOUTS = Timeouts(
    start=100.0, pause=20.0, resume=30.0, stop=15.0, archive=40.0, grace=5.0, pull_stall=10.0, create=12.0
)
QUICK = attrs.evolve(SETTINGS, timeouts=TIMEOUTS)


def state(world: World) -> SandboxState:
    """What the only sandbox does."""
    (only,) = world.engine.states().values()
    return only


@pytest.mark.parametrize("gate", ["wait_ready", "begin"])
async def test_start_that_takes_too_long_is_undone(tmp_path: Path, autojump_clock: MockClock, gate: str) -> None:
    """At its deadline a start ends in ERROR `start_timeout`, and the half-made sandbox is removed."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.agent.close_gate(gate)
        began = trio.current_time()
        with pytest.raises(CommandTimeout):
            await world.start()
        assert trio.current_time() - began == pytest.approx(TIMEOUTS.start, abs=2)
        record = world.record()
        assert (record.status, record.error and record.error.code) == (Status.ERROR, FailureCode.START_TIMEOUT)
        assert (record.sandbox, record.phase, record.intent) == (None, None, None)
        assert world.engine.sandboxes == {}
        await trio.sleep(0.1)
        (failed,) = await world.told("command")
        assert (failed["command"], failed["outcome"], failed["error"]) == ("start", "failed", "timeout")


@pytest.mark.parametrize(("asked", "effective"), [(7.0, 7.0), (1e6, 100.0)])
async def test_start_deadline_is_the_requests_capped_by_the_config(
    tmp_path: Path, autojump_clock: MockClock, asked: float, effective: float
) -> None:
    """A request may ask for less time than the config allows, never for more."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.agent.close_gate("wait_ready")
        began = trio.current_time()
        with pytest.raises(CommandTimeout):
            await world.start(request=StartRequest(timeout=asked))
        assert trio.current_time() - began == pytest.approx(effective, abs=2)


async def test_start_timeout_leaves_no_orphan_behind_an_engine_that_went_away(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What could not be removed at the deadline is removed when the engine answers again."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.agent.close_gate("wait_ready")
        await world.start(request=StartRequest(wait=False))
        await trio.sleep(50)
        world.engine.go_down()
        await world.until_status(Status.ERROR)
        assert len(world.engine.sandboxes) == 1
        world.engine.come_up()
        await trio.sleep(1)
        assert world.engine.sandboxes == {}


async def test_restart_right_after_a_start_timeout_makes_no_second_sandbox(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A sandbox that the record let go of still makes room before the next one is made."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.agent.close_gate("wait_ready")
        await world.start(request=StartRequest(wait=False))
        await world.until(lambda record: record.phase == "boot")
        world.engine.fail_next("remove", EngineUnavailable("not now"))
        await world.until_status(Status.ERROR)
        world.agent.open_gate("wait_ready")
        await world.supervisor.restart(C1, None, force=False)
        assert world.engine.most_at_once[C1] == 1


async def test_pull_has_a_stall_deadline_and_no_other(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A pull may take longer than the start's deadline as long as bytes come, and its bytes are told."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.engine.pull_script = [(9.0, PullProgress(step, 30)) for step in range(1, 31)]
        record = await world.start()
        assert record.status is Status.RUNNING
        told = await world.told("progress")
        assert told[-1] == {"phase": "image", "current": 30, "total": 30}
        assert len(told) == 30


async def test_pull_ends_with_the_deadline_that_the_request_asked_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A caller who gives the start a time means the pull, too, however it advances."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.engine.pull_script = [(9.0, PullProgress(step, 30)) for step in range(1, 31)]
        with pytest.raises(CommandTimeout):
            await world.start(request=StartRequest(timeout=20.0))
        assert trio.current_time() == pytest.approx(20, abs=1)


async def test_pull_that_stalls_fails_the_start_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """No byte for the stall deadline: `image_unavailable`, without waiting for the start's deadline."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.engine.pull_script = [(1.0, PullProgress(1, 2)), (1e6, PullProgress(2, 2))]
        began = trio.current_time()
        with pytest.raises(ImageUnavailable):
            await world.start()
        assert trio.current_time() - began == pytest.approx(11, abs=0.5)
        assert world.record().error.code is FailureCode.IMAGE_UNAVAILABLE  # type: ignore[union-attr]  # it failed


async def test_create_that_takes_too_long_is_asked_for_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The phase `create` has a deadline; the same launch is repeated, by its name."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.engine.close_gate("launch")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.start)
            await trio.sleep(30)
            assert world.record().observed is Observed.UNKNOWN
            world.engine.open_gate("launch")
        assert (world.record().status, world.record().incarnation) == (Status.RUNNING, 1)
        assert world.engine.most_at_once[C1] == 1


async def test_create_that_finds_no_free_lane_is_waited_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A call that never got to the engine has the phase's deadline, too; the start has its own, and does not count."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.engine.fill_lane("launch")
        with pytest.raises(CommandTimeout):
            await world.start()
        assert world.engine.calls["launch"] > 3
        assert world.record().incarnation == 0


async def test_create_that_ends_after_its_own_deadline_still_counts(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A launch is never abandoned: one that succeeds a moment too late is taken as it is."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.engine.latency = 0.1
        await world.start()
        await world.stop()
        world.engine.latency = TIMEOUTS.create + 0.5
        assert (await world.supervisor.restart(C1, None, force=False)).incarnation == 2


@pytest.mark.parametrize("phase", ["boot", "agent"])
async def test_boot_phase_that_takes_too_long_is_tried_again(
    tmp_path: Path, autojump_clock: MockClock, phase: str
) -> None:
    """The phases `boot` and `agent` have deadlines; past them the next incarnation is tried."""
    timeouts = attrs.evolve(TIMEOUTS, boot=8.0, agent=8.0)
    async with open_world(tmp_path, settings=attrs.evolve(SETTINGS, timeouts=timeouts)) as world:
        gate = {"boot": "wait_ready", "agent": "begin"}[phase]
        world.agent.close_gate(gate)
        await world.start(request=StartRequest(wait=False))
        await world.until(lambda record: record.next_restart_at is not None)
        world.agent.open_gate(gate)
        await world.until_status(Status.RUNNING)
        assert world.record().incarnation == 2
        (told,) = await world.told("restart_scheduled")
        assert told["cause"] == "unhealthy"
        assert phase in str(told["message"])


@pytest.mark.parametrize("gate", ["agent", "engine"])
async def test_pause_that_takes_too_long_is_undone(tmp_path: Path, autojump_clock: MockClock, gate: str) -> None:
    """At its deadline a pause is undone: thawed, the agent told to run, RUNNING, and the caller gets its error."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        fake = world.agent if gate == "agent" else world.engine
        fake.close_gate("pause")
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def expect_timeout() -> None:
                with pytest.raises((CommandTimeout, EngineUnavailable)):
                    await world.supervisor.pause(C1, None)
                assert trio.current_time() - began < TIMEOUTS.pause + 8

            await trio.sleep(TIMEOUTS.pause + 7)
            fake.open_gate("pause")
        assert world.record().status is Status.RUNNING
        assert state(world) is SandboxState.RUNNING
        assert world.agent.conversations[C1].status is ExecutionStatus.RUNNING
        assert world.agent.calls.count("run") == 1
        assert await world.statuses() == ["STARTING", "RUNNING"]


async def test_pause_that_freezes_too_late_is_thawed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The engine froze it just after the deadline: it does not stay frozen."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.engine.close_gate("pause")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def expect_timeout() -> None:
                with pytest.raises(CommandTimeout):
                    await world.supervisor.pause(C1, 5.0)

            await trio.sleep(5.5)
            world.engine.open_gate("pause")
        await trio.sleep(1)
        assert (world.record().status, state(world)) == (Status.RUNNING, SandboxState.RUNNING)
        assert world.agent.conversations[C1].status is ExecutionStatus.RUNNING


async def test_pause_without_an_engine_leaves_the_agent_running(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The agent paused and the engine cannot freeze it: the agent is told to run again."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.engine.fail_next("pause", EngineUnavailable("not now"))
        world.engine.fail_next("unpause", EngineUnavailable("not now"))
        with pytest.raises(EngineUnavailable):
            await world.supervisor.pause(C1, None)
        await trio.sleep(1)
        assert world.agent.conversations[C1].status is ExecutionStatus.RUNNING
        assert (world.record().status, state(world)) == (Status.RUNNING, SandboxState.RUNNING)


async def test_pause_that_fails_tells_no_idle_agent_to_run(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What did not run before is not made to run by the undoing."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.agent.does(C1, ExecutionStatus.IDLE)
        await world.until(lambda record: record.execution_status is ExecutionStatus.IDLE)
        world.engine.fail_next("pause", SandboxFailed("no"))
        with pytest.raises(SandboxFailed):
            await world.supervisor.pause(C1, None)
        assert "run" not in world.agent.calls


async def test_pause_whose_answer_is_lost_lets_an_agent_go_on_that_nobody_saw_running(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The record says that it is idle, its server knew better: it does not stay paused."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.agent.does(C1, ExecutionStatus.IDLE)
        await world.until(lambda record: record.execution_status is ExecutionStatus.IDLE)
        world.agent.conversations[C1].status = ExecutionStatus.RUNNING
        world.agent.fail_next("pause", AgentUnavailable("the connection broke"))
        with pytest.raises(AgentUnavailable):
            await world.supervisor.pause(C1, None)
        await trio.sleep(1)
        assert "run" in world.agent.calls


async def test_pause_whose_undoing_hangs_answers_all_the_same(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An agent that neither pauses nor runs keeps the caller waiting for a bounded time only."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.agent.close_gate("pause")
        world.agent.close_gate("run")
        with trio.fail_after(TIMEOUTS.pause + 10), pytest.raises(CommandTimeout):
            await world.supervisor.pause(C1, None)
        assert world.record().status is Status.RUNNING
        with trio.fail_after(20):
            assert (await world.stop()).status is Status.STOPPED


async def test_agent_that_a_pause_has_stopped_is_told_to_go_on_until_it_does(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """However long that takes; it is told so once, and a pause meanwhile knows that it was at work."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.engine.fail_next("pause", SandboxFailed("no"))
        world.agent.fail_next("run", AgentUnavailable("busy with its last step"), times=100)
        with pytest.raises(SandboxFailed):
            await world.supervisor.pause(C1, None)
        await trio.sleep(50)
        assert world.agent.conversations[C1].status is ExecutionStatus.PAUSED
        assert (await world.supervisor.pause(C1, None)).run_on_resume
        assert (await world.supervisor.resume(C1, None)).status is Status.RUNNING
        await trio.sleep(50)
        assert world.agent.conversations[C1].status is ExecutionStatus.RUNNING
        assert not world.record().run_on_resume
        runs = world.agent.calls.count("run")
        await trio.sleep(50)
        assert world.agent.calls.count("run") == runs


async def test_agent_goes_on_if_the_daemon_is_killed_before_its_sandbox_is_frozen(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The agent had paused already, and nobody else would tell it."""
    engine, agent = FakeEngine(), FakeAgent()
    async with open_world(tmp_path, engine=engine, agent=agent) as world, trio.open_nursery() as nursery:
        await world.start()
        engine.close_gate("pause")
        nursery.start_soon(world.supervisor.pause, C1, None)
        await trio.sleep(1)
        assert agent.conversations[C1].status is ExecutionStatus.PAUSED
        nursery.cancel_scope.cancel()
    engine.open_gate("pause")
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        await trio.sleep(5)
        assert (world.record().status, state(world)) == (Status.RUNNING, SandboxState.RUNNING)
        assert agent.conversations[C1].status is ExecutionStatus.RUNNING
        assert not world.record().run_on_resume


@pytest.mark.parametrize("gate", ["run", "wait_ready"])
async def test_resume_that_takes_too_long_ends_in_error(tmp_path: Path, autojump_clock: MockClock, gate: str) -> None:
    """At its deadline a resume ends in ERROR `resume_timeout`; the sandbox is kept for diagnosis."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        await world.supervisor.pause(C1, None)
        world.agent.close_gate(gate)
        began = trio.current_time()
        with pytest.raises(CommandTimeout):
            await world.supervisor.resume(C1, None)
        assert trio.current_time() - began == pytest.approx(TIMEOUTS.resume, abs=2)
        record = world.record()
        assert (record.status, record.error and record.error.code) == (Status.ERROR, FailureCode.RESUME_TIMEOUT)
        assert record.sandbox is not None
        assert list(world.engine.sandboxes) == [record.sandbox.name]


async def test_restart_after_a_resume_timeout_boots_afresh(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The sandbox that was kept for diagnosis is not taken for the new one."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await reach(world, Status.PAUSED)
        world.agent.close_gate("run")
        with pytest.raises(CommandTimeout):
            await world.supervisor.resume(C1, None)
        again = await world.supervisor.restart(C1, None, force=False)
        assert (again.status, again.incarnation, world.engine.most_at_once[C1]) == (Status.RUNNING, 2, 1)


async def test_resume_without_an_engine_stays_paused(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Unknown is not dead: the deadline passes because the engine does not answer, and nothing is lost."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        await world.supervisor.pause(C1, None)
        world.engine.go_down()
        with pytest.raises(EngineUnavailable):
            await world.supervisor.resume(C1, None)
        world.engine.come_up()
        await world.until(lambda record: record.observed is Observed.LIVE)
        assert (world.record().status, state(world)) == (Status.PAUSED, SandboxState.PAUSED)
        assert (await world.supervisor.resume(C1, None)).status is Status.RUNNING


async def test_cold_resume_without_an_engine_stays_paused(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The same while a cold sandbox is being booted again; the next resume takes up what that one began."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        await world.supervisor.pause(C1, None)
        world.engine.die(world.record().sandbox.name, 137)  # type: ignore[union-attr]  # it is paused
        await world.until(lambda record: record.observed is Observed.COLD)
        world.agent.close_gate("wait_ready")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def expect_unavailable() -> None:
                with pytest.raises(EngineUnavailable):
                    await world.supervisor.resume(C1, None)

            await world.until(lambda record: record.phase == "boot")
            world.engine.go_down()
        world.engine.come_up()
        world.agent.open_gate("wait_ready")
        await world.until(lambda record: record.observed is Observed.LIVE)
        assert world.record().status is Status.PAUSED
        begun = world.agent.conversations[C1].begun
        assert (await world.supervisor.resume(C1, None)).status is Status.RUNNING
        assert world.agent.conversations[C1].begun == begun + 1
        assert world.engine.most_at_once[C1] == 1
