"""The restart policy, obeyed to the number; what heals and what does not; causes told apart."""

from pathlib import Path
from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.actors.settings import ActorSettings, Health
from supervisor.conversation.errors import (
    AgentUnavailable,
    Conflict,
    EngineUnavailable,
    SandboxFailed,
)
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ExecutionStatus, FailureCode, Observed
from supervisor.conversation.restart import Cause, RestartMode, RestartPolicy
from supervisor.sandbox.port import SandboxState
from tests.world import C1, SETTINGS, World, open_world

C2 = ConversationId("c2")


def policy(restart: RestartPolicy) -> ActorSettings:
    """Settings with another restart policy."""
    return attrs.evolve(SETTINGS, restart=restart)


def name_of(world: World, conversation: ConversationId = C1) -> str:
    """The name of a conversation's sandbox."""
    sandbox = world.record(conversation).sandbox
    assert sandbox is not None
    return sandbox.name


async def crash(world: World, conversation: ConversationId = C1, *, code: int = 1, oom: bool = False) -> None:
    """Let the sandbox die, and wait until that has been seen."""
    world.engine.die(name_of(world, conversation), code, oom=oom)
    await world.until(lambda record: record.status is not Status.RUNNING, conversation)


async def delays(world: World) -> list[float]:
    """The backoffs that were told of, in seconds."""
    return [cast("float", told["delay"]) for told in await world.told("restart_scheduled")]


async def test_backoff_doubles_up_to_its_limit(tmp_path: Path, autojump_clock: MockClock) -> None:
    """1 s, doubling, at most 60 s, and each restart comes when it was told."""
    async with open_world(tmp_path, settings=policy(RestartPolicy(jitter=0.0, max_restarts=9, window=1e6))) as world:
        await world.start()
        for _ in range(8):
            await crash(world)
            due = world.record().next_restart_at
            await world.until(lambda record: record.phase == "image")
            assert due is not None
            assert abs((world.record().updated_at - due).total_seconds()) < 0.1
            await world.until_status(Status.RUNNING)
        assert await delays(world) == [1, 2, 4, 8, 16, 32, 60, 60]
        assert (world.record().restarts, world.record().incarnation) == (8, 9)
        assert world.engine.most_at_once[C1] == 1


async def test_backoff_is_spread_by_the_jitter(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A quarter to either side, and not always the same."""
    async with open_world(
        tmp_path, settings=policy(RestartPolicy(max_restarts=9, backoff_max=1.0, jitter=0.25))
    ) as world:
        await world.start()
        for _ in range(8):
            await crash(world)
            await world.until_status(Status.RUNNING)
        spread = await delays(world)
        assert all(0.75 <= delay <= 1.25 for delay in spread)
        assert len(set(spread)) > 4


async def test_restarts_end_at_the_limit(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Five restarts in the window; the sixth death is ERROR with the last cause, its code and its last words."""
    async with open_world(tmp_path) as world:
        await world.start()
        for _ in range(5):
            await crash(world)
            await world.until_status(Status.RUNNING)
        world.engine.sandboxes[name_of(world)].lines = [f"line {number}" for number in range(30)]
        await crash(world, code=42)
        record = world.record()
        assert record.status is Status.ERROR
        assert record.error is not None
        assert (record.error.code, record.error.exit_code, record.error.oom_killed) == (FailureCode.EXITED, 42, False)
        assert record.error.log_tail == tuple(f"line {number}" for number in range(10, 30))
        assert "max_restarts" in record.error.message
        assert record.restarts == 5
        await trio.sleep(3600)
        assert world.record().status is Status.ERROR


async def test_restarts_count_in_their_window_only(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A run that stays healthy for as long as the window starts the count and the backoff over."""
    async with open_world(tmp_path, settings=policy(RestartPolicy(jitter=0.0, max_restarts=2, window=100.0))) as world:
        await world.start()
        for _ in range(3):
            for _ in range(2):
                await crash(world)
                await world.until_status(Status.RUNNING)
            await trio.sleep(101)
        assert await delays(world) == [1, 2, 1, 2, 1, 2]


async def test_allowance_is_never_shared(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A conversation that fails for ever does not spend what another one has."""
    async with open_world(tmp_path, settings=policy(RestartPolicy(jitter=0.0, max_restarts=2))) as world:
        await world.start()
        await world.start(C2)
        for _ in range(2):
            await crash(world)
            await world.until_status(Status.RUNNING)
        await crash(world)
        assert world.record().status is Status.ERROR
        await crash(world, C2)
        await world.until_status(Status.RUNNING, C2)
        assert (world.record(C2).restarts, await delays(world)) == (1, [1, 2])


async def test_mode_never_restarts_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The first death is ERROR."""
    async with open_world(tmp_path, settings=policy(RestartPolicy(jitter=0.0, mode=RestartMode.NEVER))) as world:
        await world.start()
        await crash(world)
        assert world.record().status is Status.ERROR
        assert await delays(world) == []


@pytest.mark.parametrize(("allowed", "restarts"), [(1, 1), (3, 3), (0, 0)])
async def test_out_of_memory_is_restarted_at_most_once(
    tmp_path: Path, autojump_clock: MockClock, allowed: int, restarts: int
) -> None:
    """A cause of its own, with an allowance of its own: once, unless the config says otherwise."""
    async with open_world(tmp_path, settings=policy(RestartPolicy(jitter=0.0, max_oom_restarts=allowed))) as world:
        await world.start()
        for _ in range(restarts):
            await crash(world, code=137, oom=True)
            await world.until_status(Status.RUNNING)
        await crash(world, code=137, oom=True)
        record = world.record()
        assert (record.status, record.error and record.error.code) == (Status.ERROR, FailureCode.OOM_KILLED)
        assert record.error is not None
        assert record.error.oom_killed
        assert record.restarts == restarts


async def test_causes_are_told_apart(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Exited, out of memory, removed by someone else, unhealthy: each is told by its name."""
    async with open_world(tmp_path) as world:
        await world.start()
        await crash(world, code=3)
        await world.until_status(Status.RUNNING)
        await crash(world, code=137, oom=True)
        await world.until_status(Status.RUNNING)
        world.engine.vanish(name_of(world))
        await world.until_status(Status.STARTING)
        await world.until_status(Status.RUNNING)
        world.agent.healthy = False
        await world.until_status(Status.STARTING)
        world.agent.healthy = True
        await world.until_status(Status.RUNNING)
        causes = [told["cause"] for told in await world.told("restart_scheduled")]
        assert causes == [Cause.EXITED, Cause.OOM_KILLED, Cause.REMOVED, Cause.UNHEALTHY]
        reasons = [told["reason"] for told in await world.told("status") if told["from"] == "RUNNING"]
        assert reasons == causes


async def test_agent_goes_on_after_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An agent that ran when its sandbox died is told to run again; one that was done is not."""
    async with open_world(tmp_path) as world:
        await world.start()
        await crash(world)
        await world.until_status(Status.RUNNING)
        assert world.agent.conversations[C1].told_to_go_on == 1
        world.agent.does(C1, ExecutionStatus.FINISHED)
        await world.until(lambda record: record.execution_status is ExecutionStatus.FINISHED)
        await crash(world)
        await world.until_status(Status.RUNNING)
        assert world.agent.conversations[C1].told_to_go_on == 1


# Health.


async def test_unhealthy_after_so_many_probes_in_a_row(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Three failures in a row end the sandbox; two do not, however often."""
    async with open_world(tmp_path) as world:
        await world.start()
        for _ in range(4):
            world.agent.fail_next("probe", AgentUnavailable("not well"), times=2)
            await trio.sleep(35)
        assert await delays(world) == []
        world.agent.fail_next("probe", AgentUnavailable("not well"), times=3)
        await world.until_status(Status.STARTING)
        (told,) = await world.told("restart_scheduled")
        assert "3 liveness probes in a row failed: not well" in str(told["message"])
        await world.until_status(Status.RUNNING)
        assert world.record().incarnation == 2


async def test_what_its_engine_heals_is_not_ended_for_our_probes(tmp_path: Path, autojump_clock: MockClock) -> None:
    """That engine probes itself, and our cure could cost the workspace; a death that it shows is one all the same."""
    async with open_world(tmp_path) as world:
        world.engine.heals_itself = True
        await world.start()
        world.agent.healthy = False
        await trio.sleep(1000)
        assert (world.record().status, world.record().incarnation) == (Status.RUNNING, 1)
        world.engine.die(world.engine.sandbox_name(C1, 1))
        await world.until(lambda record: record.incarnation == 2)


async def test_probe_that_does_not_return_counts_as_failed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A probe has a time limit."""
    health = Health(interval=10.0, timeout=2.0, failures=2)
    async with open_world(tmp_path, settings=attrs.evolve(SETTINGS, health=health)) as world:
        await world.start()
        world.agent.close_gate("probe")
        began = trio.current_time()
        await world.until_status(Status.STARTING)
        assert trio.current_time() - began < 10 + 2 + 10 + 2 + 1
        (told,) = await world.told("restart_scheduled")
        assert "no answer within 2 s" in str(told["message"])


async def test_sandbox_without_a_port_is_not_probed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Where there is nothing to connect to, the engine's word alone counts."""
    async with open_world(
        tmp_path, settings=attrs.evolve(SETTINGS, sandbox=attrs.evolve(SETTINGS.sandbox, port=None))
    ) as world:
        await world.start()
        await trio.sleep(100)
        assert "probe" not in world.agent.calls
        assert world.record().status is Status.RUNNING


@pytest.mark.parametrize("fault", ["inspect", "kill"])
async def test_unhealthy_sandbox_of_an_engine_that_does_not_answer_is_left_alone(
    tmp_path: Path, autojump_clock: MockClock, fault: str
) -> None:
    """Unknown is never dead: it is probed again, and ended when the engine answers."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.agent.healthy = False
        world.engine.fail_next(fault, EngineUnavailable("not now"))
        await world.until(lambda record: record.observed is Observed.UNKNOWN)
        assert world.record().status is Status.RUNNING
        await world.until_status(Status.STARTING)


async def test_unhealthy_because_it_was_frozen_is_thawed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Somebody paused it behind our back and no event told: its probes do, and it is not restarted."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.engine.deaf = True
        world.engine.sandboxes[name_of(world)].state = SandboxState.PAUSED
        await trio.sleep(50)
        assert (world.record().status, world.record().incarnation) == (Status.RUNNING, 1)
        assert world.engine.runs(C1)


async def test_unhealthy_sandbox_that_cannot_be_thawed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An engine that refuses the thawing is asked again, and the actor goes on."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.engine.deaf = True
        world.engine.sandboxes[name_of(world)].state = SandboxState.PAUSED
        world.engine.fail_next("unpause", SandboxFailed("no"), times=2)
        await trio.sleep(200)
        assert world.engine.runs(C1)
        assert world.incidents == []


async def test_unhealthy_report_of_an_earlier_life_is_ignored(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Probes of a sandbox that is gone say nothing about the next one."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.agent.close_gate("pause")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def restart() -> None:
                with pytest.raises(Conflict):
                    await world.supervisor.pause(C1, None)

            await trio.sleep(1)
            await world.stop(force=True)
        await world.supervisor.restart(C1, None, force=False)
        assert world.record().incarnation == 2


@pytest.mark.parametrize(("doing", "goes_on"), [(ExecutionStatus.IDLE, 1), (ExecutionStatus.FINISHED, 0)])
async def test_a_sandbox_that_dies_before_its_agent_was_seen_at_work_goes_on(
    tmp_path: Path, autojump_clock: MockClock, doing: ExecutionStatus, goes_on: int
) -> None:
    """An agent that was idle may have been about to begin, so it is told to go on; one that had finished is not."""
    async with open_world(tmp_path) as world:
        record = await world.start()
        world.agent.does(C1, doing)
        await world.until(lambda record: record.execution_status is doing)
        assert record.sandbox is not None
        world.engine.die(record.sandbox.name)
        await world.until_status(Status.STARTING)
        await world.until_status(Status.RUNNING)
        assert world.agent.conversations[C1].told_to_go_on == goes_on
