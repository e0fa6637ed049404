"""Boots: what is tried again, what fails at once, and what is seen of it."""

from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.actors.settings import Timeouts
from supervisor.control.service import StartRequest
from supervisor.conversation.errors import (
    AgentRefused,
    AgentUnavailable,
    CommandTimeout,
    Conflict,
    ConversationdError,
    EngineUnavailable,
    ImageUnavailable,
    SandboxFailed,
)
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import FailureCode, Intent
from supervisor.conversation.restart import RestartMode, RestartPolicy
from supervisor.conversation.spec import SpecOverrides
from supervisor.sandbox.port import SandboxPlan, SandboxState
from tests.actors.test_restart import crash, delays, name_of, policy
from tests.fakes.engine import FakeSandbox
from tests.world import C1, SETTINGS, SPEC, World, open_world


async def test_failed_boot_is_tried_again_within_the_start(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Real agent servers fail to boot now and then: the start goes on with the next incarnation."""
    async with open_world(tmp_path) as world:
        world.engine.exits_at_boot = [(1, False), (139, False)]
        record = await world.start()
        assert (record.status, record.incarnation, record.restarts) == (Status.RUNNING, 3, 2)
        assert await world.statuses() == ["STARTING", "RUNNING"]
        assert [told["exit_code"] for told in await world.told("restart_scheduled")] == [1, 139]
        assert world.engine.most_at_once[C1] == 1


async def test_failed_boots_end_with_the_start_deadline(tmp_path: Path, autojump_clock: MockClock) -> None:
    """However many are allowed: the deadline ends them."""
    settings = attrs.evolve(
        policy(RestartPolicy(jitter=0.0, max_restarts=1000, window=1e6)), timeouts=Timeouts(start=30.0)
    )
    async with open_world(tmp_path, settings=settings) as world:
        world.engine.exits_at_boot = [(1, False)] * 1000
        with pytest.raises(ConversationdError):
            await world.start()
        assert trio.current_time() < 35
        assert world.record().error is not None
        assert world.record().error.code is FailureCode.START_TIMEOUT  # type: ignore[union-attr]  # just seen


async def test_failed_boots_end_with_the_allowance(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The policy gives up before the deadline: ERROR, and the caller has code and last lines."""
    async with open_world(tmp_path, settings=policy(RestartPolicy(jitter=0.0, max_restarts=1))) as world:
        world.engine.greeting = ["import error"]
        world.engine.exits_at_boot = [(3, False), (4, False)]
        with pytest.raises(SandboxFailed) as caught:
            await world.start()
        assert (caught.value.exit_code, caught.value.log_tail) == (4, ("import error",))
        assert world.record().status is Status.ERROR


@pytest.mark.parametrize("code", [126, 127])
async def test_hopeless_exit_fails_the_start_at_once(tmp_path: Path, autojump_clock: MockClock, code: int) -> None:
    """Command not found, or not executable: no restart heals that."""
    async with open_world(tmp_path) as world:
        world.engine.exits_at_boot = [(code, False)]
        with pytest.raises(SandboxFailed) as caught:
            await world.start()
        assert (caught.value.exit_code, trio.current_time() < 1) == (code, True)
        assert await delays(world) == []


HOPELESS = [
    ("ensure_image", ImageUnavailable("it is not there"), FailureCode.IMAGE_UNAVAILABLE),
    ("launch", ImageUnavailable("it went away"), FailureCode.IMAGE_UNAVAILABLE),
    ("launch", SandboxFailed("bad command"), FailureCode.ENGINE_REFUSED),
    ("launch", Conflict("the name is taken"), FailureCode.ENGINE_REFUSED),
    ("wait_ready", AgentRefused("no", 401, "no"), FailureCode.AGENT_REFUSED),
    ("begin", AgentRefused("no", 422, "no"), FailureCode.AGENT_REFUSED),
]


@pytest.mark.parametrize(("call", "error", "code"), HOPELESS, ids=str)
async def test_what_cannot_heal_fails_the_start_at_once(
    tmp_path: Path, autojump_clock: MockClock, call: str, error: ConversationdError, code: FailureCode
) -> None:
    """The caller gets the reason there and then, and nothing of the sandbox runs."""
    async with open_world(tmp_path) as world:
        (world.engine if hasattr(world.engine, call) else world.agent).fail_next(call, error)
        with pytest.raises(type(error)) as caught:
            await world.start()
        assert caught.value is error
        assert trio.current_time() < 1
        record = world.record()
        assert (record.status, record.error and record.error.code) == (Status.ERROR, code)
        assert not world.engine.runs(C1)
        assert await delays(world) == []


@pytest.mark.parametrize("call", ["ensure_image", "launch"])
@pytest.mark.parametrize("kept", [False, True], ids=["removed", "removed_later"])
async def test_sandbox_that_may_start_late_is_removed_when_its_boot_fails(
    tmp_path: Path, autojump_clock: MockClock, call: str, kept: bool
) -> None:
    """Its start was not answered, and the next attempt cannot succeed: what it may still start must be gone."""
    async with open_world(tmp_path) as world:
        engine, plan = world.engine, SandboxPlan(C1, 1, SPEC, {})

        def leave_created(call_now: str) -> None:
            if call_now == "launch":
                engine.before = lambda _: None
                engine.sandboxes[engine.sandbox_name(C1, 1)] = FakeSandbox(plan, SandboxState.CREATED, 1)
                engine.fail_next(call, ImageUnavailable("it went away"))
                engine.fail_next("remove", EngineUnavailable("not now"), times=int(kept))

        engine.before = leave_created
        engine.fail_next("launch", EngineUnavailable("no answer"))
        with pytest.raises(ImageUnavailable):
            await world.start()
        assert world.record().status is Status.ERROR
        assert len(engine.sandboxes) == kept
        await trio.sleep(61)
        assert engine.sandboxes == {}
        assert (world.record().intent, world.record().sandbox) == (None, None)


async def test_restart_asks_again_for_what_a_start_has_left(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its create may be carried out still: by the same name there is one container, whichever comes first."""
    async with open_world(tmp_path) as world:
        world.engine.close_gate("launch")
        world.engine.fail_next("remove", EngineUnavailable("not now"), times=2)
        with pytest.raises(CommandTimeout):
            await world.start(request=StartRequest(timeout=3.0))
        assert (world.record().intent, world.record().incarnation) == (Intent.CREATE, 1)
        world.engine.open_gate("launch")
        await world.supervisor.restart(C1, None, force=False)
        assert (world.record().status, world.record().incarnation) == (Status.RUNNING, 1)
        assert list(world.engine.sandboxes) == [world.engine.sandbox_name(C1, 1)]


async def test_missing_image_fails_the_start_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An image that is nowhere."""
    async with open_world(tmp_path) as world:
        with pytest.raises(ImageUnavailable):
            await world.start(request=StartRequest(spec=SpecOverrides(image="nowhere")))
        assert trio.current_time() < 1


@pytest.mark.parametrize("call", ["wait_ready", "begin"])
async def test_agent_that_cannot_now_is_asked_again(tmp_path: Path, autojump_clock: MockClock, call: str) -> None:
    """No answer, a 429 or a 5xx may heal: the same sandbox is asked again."""
    async with open_world(tmp_path) as world:
        world.agent.fail_next(call, AgentUnavailable("full"), times=5)
        record = await world.start()
        assert (record.status, record.incarnation) == (Status.RUNNING, 1)


@pytest.mark.parametrize("gate", ["wait_ready", "begin"])
async def test_exit_while_booting_is_seen_at_once(tmp_path: Path, autojump_clock: MockClock, gate: str) -> None:
    """Not at the deadline: the event is enough, with code, OOM flag and the last lines."""
    async with open_world(tmp_path, settings=policy(RestartPolicy(jitter=0.0, mode=RestartMode.NEVER))) as world:
        world.agent.close_gate(gate)
        await world.start(request=StartRequest(wait=False))
        await trio.sleep(5)
        world.engine.sandboxes[name_of(world)].lines = ["last words"]
        world.engine.die(name_of(world), 137, oom=True)
        await trio.sleep(0.2)
        error = world.record().error
        assert error is not None
        assert (error.code, error.exit_code, error.oom_killed) == (FailureCode.OOM_KILLED, 137, True)
        assert error.log_tail == ("last words",)


async def test_exit_while_booting_without_an_event_is_found_by_the_sweep(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The event was lost: the minute's list tells, long before the phase's deadline."""
    timeouts = Timeouts(start=3000.0, boot=3000.0)
    async with open_world(tmp_path, settings=attrs.evolve(SETTINGS, timeouts=timeouts)) as world:
        world.agent.close_gate("wait_ready")
        await world.start(request=StartRequest(wait=False))
        await trio.sleep(5)
        world.engine.deaf = True
        world.engine.die(name_of(world), 1)
        world.agent.open_gate("wait_ready")
        await trio.sleep(70)
        assert (world.record().status, world.record().incarnation) == (Status.RUNNING, 2)


async def test_look_at_a_booting_sandbox_is_no_verdict(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Events of a sandbox that lives, and an engine that does not tell, end no boot."""
    async with open_world(tmp_path) as world:
        world.agent.close_gate("wait_ready")
        await world.start(request=StartRequest(wait=False))
        await trio.sleep(5)
        world.engine.tell(C1)
        await trio.sleep(1)
        world.engine.fail_next("inspect", EngineUnavailable("not now"))
        world.engine.tell(C1)
        await trio.sleep(1)
        world.agent.open_gate("wait_ready")
        await world.until_status(Status.RUNNING)
        assert world.record().incarnation == 1


async def test_last_lines_are_left_out_when_the_engine_does_not_tell_them(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The failure is told all the same."""
    async with open_world(tmp_path, settings=policy(RestartPolicy(jitter=0.0, mode=RestartMode.NEVER))) as world:
        await world.start()
        world.engine.fail_next("logs", EngineUnavailable("not now"))
        await crash(world)
        await world.until_status(Status.ERROR)
        assert world.record().error is not None
        assert world.record().error.log_tail == ()  # type: ignore[union-attr]  # just seen


async def test_failed_boot_whose_sandbox_cannot_be_ended_is_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The agent refuses for good and the engine does not end it: the caller gets the agent's word; it ends later."""
    async with open_world(tmp_path) as world:
        await fail_and_run_on(world)
        await trio.sleep(100)
        assert_failed_and_ended(world)


async def test_failed_boot_whose_sandbox_cannot_be_ended_ends_in_the_next_life(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What is left to do is in the record."""
    async with open_world(tmp_path) as world:
        await fail_and_run_on(world)
    async with open_world(tmp_path, engine=world.engine) as world:
        await trio.sleep(1)
        assert_failed_and_ended(world)


async def test_failed_boot_waits_for_no_engine_that_hangs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Who asked for the start is told; the sandbox is ended when the engine goes on."""
    async with open_world(tmp_path) as world:
        world.agent.fail_next("begin", AgentRefused("no", 422, "no"))
        world.engine.close_gate("kill")
        with trio.fail_after(20), pytest.raises(AgentRefused):
            await world.start()
        world.engine.open_gate("kill")
        await trio.sleep(61)
        assert_failed_and_ended(world)


async def fail_and_run_on(world: World) -> None:
    """Start C1, whose agent refuses and whose sandbox then does not end."""
    world.agent.fail_next("begin", AgentRefused("no", 422, "no"))
    world.engine.fail_next("kill", EngineUnavailable("not now"))
    with pytest.raises(AgentRefused):
        await world.start()
    assert world.record().status is Status.ERROR
    assert world.engine.runs(C1)


def assert_failed_and_ended(world: World) -> None:
    """C1 is in ERROR for the first cause, and its sandbox kept, with its output, and no longer runs."""
    record = world.record()
    assert (record.status, record.error and record.error.code) == (Status.ERROR, FailureCode.AGENT_REFUSED)
    assert record.intent is None
    assert list(world.engine.states().values()) == [SandboxState.EXITED]


async def test_cold_resume_that_fails_leaves_nothing_running(tmp_path: Path, autojump_clock: MockClock) -> None:
    """As any other boot that cannot succeed."""
    async with open_world(tmp_path) as world:
        await world.start()
        await world.supervisor.pause(C1, None)
        world.engine.vanish(name_of(world))
        world.agent.fail_next("begin", AgentRefused("no", 422, "no"))
        with pytest.raises(AgentRefused):
            await world.supervisor.resume(C1, None)
        assert_failed_and_ended(world)


async def test_boot_goes_on_with_a_sandbox_that_is_frozen(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Frozen by someone between two attempts: it is thawed, and if it dies of that the next one is made."""
    async with open_world(tmp_path) as world:
        world.agent.close_gate("wait_ready")
        await world.start(request=StartRequest(wait=False))
        await trio.sleep(1)
        world.engine.deaf = True
        world.engine.sandboxes[name_of(world)].state = SandboxState.PAUSED
        engine, agent = world.engine, world.agent
    engine.deaf = False
    agent.open_gate("wait_ready")
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        await world.until_status(Status.RUNNING)
        assert (world.record().incarnation, engine.calls["unpause"]) == (1, 1)


async def test_boot_makes_the_next_sandbox_when_a_frozen_one_is_lost(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The thawing is refused: it is no reason to give up."""
    async with open_world(tmp_path) as world:
        world.agent.close_gate("wait_ready")
        await world.start(request=StartRequest(wait=False))
        await trio.sleep(1)
        world.engine.sandboxes[name_of(world)].state = SandboxState.PAUSED
        engine, agent = world.engine, world.agent
    engine.fail_next("unpause", SandboxFailed("it does not run"))
    agent.open_gate("wait_ready")
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        await world.until(lambda record: record.status is not Status.STARTING)
        assert (world.record().status, world.record().incarnation) == (Status.RUNNING, 2)
