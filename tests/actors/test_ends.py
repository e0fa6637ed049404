"""Stop, archive and delete: their deadlines, and how an end that was begun is reached."""

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.actors.settings import Health
from supervisor.control.service import StartRequest
from supervisor.conversation.errors import (
    AgentUnavailable,
    CommandTimeout,
    Conflict,
    ConversationdError,
    EngineUnavailable,
    NotFound,
    SandboxFailed,
)
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import Observed
from supervisor.sandbox.port import SandboxState
from tests.actors.test_deadlines import QUICK, TIMEOUTS, state
from tests.actors.test_force_stop import send
from tests.actors.test_life import ask, reach
from tests.fakes.engine import FakeEngine
from tests.world import C1, open_world, until


async def test_stop_escalates_to_a_kill(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A graceful stop that does not end in time is followed by SIGKILL, and the caller gets its answer."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.engine.close_gate("stop")
        began = trio.current_time()
        assert (await world.supervisor.stop(C1, None, force=False)).was_running
        assert trio.current_time() - began == pytest.approx(TIMEOUTS.stop, abs=2)
        assert (world.record().status, state(world)) == (Status.STOPPED, SandboxState.EXITED)
        assert world.engine.calls["kill"] == 1


async def test_stop_escalates_to_removal_by_force(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Something that even SIGKILL does not end is removed."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.engine.fail_next("stop", EngineUnavailable("not now"))
        world.engine.immortal = True
        assert (await world.supervisor.stop(C1, None, force=False)).was_running
        assert world.record().status is Status.STOPPED
        assert world.engine.sandboxes == {}


@pytest.mark.parametrize("hang", [FakeEngine.close_gate, FakeEngine.fill_lane], ids=["engine", "lane"])
async def test_sandbox_whose_kill_hangs_is_removed_by_force(
    tmp_path: Path, autojump_clock: MockClock, hang: Callable[[FakeEngine, str], None]
) -> None:
    """The kill has a part of a forced stop's time only."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        hang(world.engine, "kill")
        await world.stop(force=True)
        assert (world.record().status, world.engine.sandboxes) == (Status.STOPPED, {})


async def test_stop_that_is_refused_escalates(tmp_path: Path, autojump_clock: MockClock) -> None:
    """As one that is not answered does."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.engine.fail_next("stop", SandboxFailed("not permitted"))
        await world.stop()
        assert (world.record().status, state(world)) == (Status.STOPPED, SandboxState.EXITED)


@pytest.mark.parametrize("fault", ["hangs", "unavailable"])
async def test_stop_does_not_need_the_agent(tmp_path: Path, autojump_clock: MockClock, fault: str) -> None:
    """An agent that does not answer the interrupt delays a stop by seconds, and cannot prevent it."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        if fault == "hangs":
            world.agent.close_gate("interrupt")
        else:
            world.agent.fail_next("interrupt", AgentUnavailable("not now"))
        with trio.fail_after(6):
            await world.stop()
        assert world.engine.calls["stop"] == 1


@pytest.mark.parametrize("force", [False, True])
async def test_stop_that_an_engine_kept_from_ending_ends_later(
    tmp_path: Path, autojump_clock: MockClock, force: bool
) -> None:
    """Only an unreachable engine can keep a stop from ending; the intent is durable and carried out later."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.engine.go_down()
        await world.until(lambda record: record.observed is Observed.UNKNOWN)
        with pytest.raises(EngineUnavailable):
            await world.stop(force=force)
        assert world.record().status is Status.RUNNING
        world.engine.come_up()
        await world.until_status(Status.STOPPED)
        assert state(world) is SandboxState.EXITED


@pytest.mark.parametrize("force", [False, True])
async def test_stop_is_finished_although_no_event_says_when(
    tmp_path: Path, autojump_clock: MockClock, force: bool
) -> None:
    """The engine was never lost, only some calls failed: the minute's sweep finishes the stop."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.engine.fail_next("stop", EngineUnavailable("not now"))
        world.engine.fail_next("kill", EngineUnavailable("not now"), times=3)
        world.engine.fail_next("remove", EngineUnavailable("not now"), times=3)
        with pytest.raises(EngineUnavailable):
            await world.stop(force=force)
        with trio.fail_after(200):
            await world.until_status(Status.STOPPED)


async def test_forced_stop_on_a_hanging_engine_gives_up_and_is_finished_later(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What does not return has a deadline; the caller learns that it will be done."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        for call in ("kill", "remove"):
            world.engine.close_gate(call)
        with trio.fail_after(60), pytest.raises(EngineUnavailable, match="it will be ended"):
            await world.stop(force=True)
        for call in ("kill", "remove"):
            world.engine.open_gate(call)
        with trio.fail_after(100):
            await world.until_status(Status.STOPPED)


async def test_forced_stop_without_a_free_lane_has_a_deadline(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The caller does not wait for ever for a call that never gets to the engine."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.engine.fill_lane("kill")
        world.engine.fill_lane("remove")
        with trio.fail_after(40), pytest.raises(EngineUnavailable, match="did not end"):
            await world.stop(force=True)


async def test_slow_kill_ends_within_its_deadline(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Kill, look and removal together have the deadline of a forced stop."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        world.engine.immortal = True
        world.engine.latency = 29.0
        with trio.fail_after(120), pytest.raises(EngineUnavailable):
            await world.stop(force=True)


async def test_archive_that_takes_too_long_leaves_it_stopped(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A workspace whose export does not end: nothing was removed, and the caller gets `timeout`."""
    async with open_world(tmp_path, settings=attrs.evolve(QUICK, archive_to=tmp_path)) as world:
        await world.start()
        await world.stop()
        world.engine.close_gate("inspect")
        with pytest.raises((CommandTimeout, EngineUnavailable)):
            await world.supervisor.archive(C1, 8.0)
        assert world.record().status is Status.STOPPED
        assert len(world.engine.sandboxes) == 1


async def test_archive_without_a_free_lane_gets_its_timeout(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The removal never got to the engine: still STOPPED, and the caller gets `timeout`."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await reach(world, Status.STOPPED)
        world.engine.fill_lane("remove")
        with pytest.raises(CommandTimeout):
            await world.supervisor.archive(C1, 8.0)
        assert world.record().status is Status.STOPPED


@pytest.mark.parametrize("command", [Command.ARCHIVE, Command.DELETE])
async def test_conversation_without_a_sandbox_can_be_ended(
    tmp_path: Path, autojump_clock: MockClock, command: Command
) -> None:
    """After a start that was undone there is nothing to remove."""
    async with open_world(tmp_path, settings=QUICK) as world:
        world.agent.close_gate("wait_ready")
        with pytest.raises(CommandTimeout):
            await world.start(request=StartRequest(timeout=3.0))
        await world.stop()
        await ask(world, command)
        await until(lambda: world.supervision.registry.find(C1) is None)


@pytest.mark.parametrize(("call", "command"), [("remove", "archive"), ("remove_workspace", "delete")])
async def test_intent_is_finished_when_the_engine_answers(
    tmp_path: Path, autojump_clock: MockClock, call: str, command: str
) -> None:
    """An archive or delete that the engine interrupted is carried to its end by itself."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        await world.stop()
        world.engine.fail_next(call, EngineUnavailable("not now"), times=2)
        with pytest.raises(EngineUnavailable):
            await (world.supervisor.archive(C1, None) if command == "archive" else world.supervisor.delete(C1))
        began = trio.current_time()
        await until(lambda: world.supervision.registry.find(C1) is None)
        assert trio.current_time() - began < 100
        assert world.engine.sandboxes == {}


async def test_delete_that_comes_with_an_archive_is_finished_when_the_engine_answers(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The actor of what has just been archived ends only when nothing is left to be done."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await reach(world, Status.STOPPED)
        world.engine.fail_next("remove_workspace", EngineUnavailable("not now"), times=3)
        world.engine.close_gate("remove")
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, world, Command.ARCHIVE, errors)
            await until(lambda: world.engine.calls["remove"] > 0)
            nursery.start_soon(send, world, Command.DELETE, errors)
            await trio.sleep(1)
            world.engine.open_gate("remove")
        assert [error.message for error in errors] == ["not now"]
        await trio.sleep(200)
        assert world.engine.workspaces == set()
        with pytest.raises(NotFound):
            await world.supervisor.get(C1)


@pytest.mark.parametrize("call", ["remove", "remove_workspace"])
async def test_archive_that_was_cut_short_exports_once_and_leaves_no_workspace(
    tmp_path: Path, autojump_clock: MockClock, call: str
) -> None:
    """Neither the minute's sweep nor the next life looks for a sandbox to export from, or touches what was exported."""
    settings = attrs.evolve(QUICK, archive_to=tmp_path)
    async with open_world(tmp_path, settings=settings) as world:
        await reach(world, Status.STOPPED)
        world.engine.fail_next(call, EngineUnavailable("not now"), times=5)
        autojump_clock.autojump_threshold = 0.2  # a file is unlinked in a thread, of which the clock knows nothing
        with pytest.raises(EngineUnavailable):
            await world.supervisor.archive(C1, None)
        autojump_clock.autojump_threshold = 0
        await trio.sleep(100)
    async with open_world(tmp_path, settings=settings, engine=world.engine) as world:
        await until(lambda: world.supervision.registry.find(C1) is None)
        assert (await world.supervisor.get(C1)).status is Status.ARCHIVED
        assert (world.engine.sandboxes, world.engine.workspaces) == ({}, set())
        assert world.engine.calls["export_workspace"] == 1
        assert (tmp_path / "c1.tar").exists()


@pytest.mark.parametrize("status", [Status.PAUSED, Status.RUNNING])
async def test_command_fails_with_what_the_sandbox_says(
    tmp_path: Path, autojump_clock: MockClock, status: Status
) -> None:
    """A sandbox that refuses a pause or a resume: the caller gets the reason, the status stays what it was."""
    async with open_world(tmp_path, settings=QUICK) as world:
        await world.start()
        if status is Status.PAUSED:
            await world.supervisor.pause(C1, None)
            world.engine.fail_next("unpause", SandboxFailed("no"))
        else:
            world.engine.fail_next("pause", SandboxFailed("no"))
        with pytest.raises(SandboxFailed, match="no"):
            await (world.supervisor.resume(C1, None) if status is Status.PAUSED else world.supervisor.pause(C1, None))
        await trio.sleep(1)
        assert world.record().status is status
        assert state(world) is SandboxState[status.name]


ENDS = [
    (Status.STOPPED, Command.ARCHIVE, "remove", [Command.RESTART]),
    (Status.STOPPED, Command.DELETE, "remove_workspace", [Command.RESTART, Command.ARCHIVE]),
    (Status.RUNNING, Command.STOP, "kill", [Command.PAUSE]),
    (Status.PAUSED, Command.STOP, "kill", [Command.RESUME, Command.START]),
]


@pytest.mark.parametrize("end", ENDS, ids=lambda end: f"{end[0]}-{end[1]}")
async def test_end_that_was_begun_is_not_turned_round(
    tmp_path: Path, autojump_clock: MockClock, end: tuple[Status, Command, str, list[Command]]
) -> None:
    """What would bring the conversation back is refused until the end is reached, and then as the life cycle says."""
    status, command, call, refused = end
    async with open_world(tmp_path, settings=QUICK) as world:
        await reach(world, status)
        world.engine.fail_next("stop", EngineUnavailable("not now"))
        world.engine.fail_next(call, EngineUnavailable("not now"), times=3)
        if call == "kill":
            world.engine.fail_next("remove", EngineUnavailable("not now"), times=3)
        with pytest.raises(EngineUnavailable):
            await ask(world, command)
        for other in refused:
            with pytest.raises(Conflict, match="was begun"):
                await ask(world, other)
        await trio.sleep(200)
        assert world.engine.runs(C1) is False
        if command is Command.DELETE:
            with pytest.raises(NotFound):
                await world.supervisor.get(C1)
        else:
            expected = Status.ARCHIVED if command is Command.ARCHIVE else Status.STOPPED
            assert (await world.supervisor.get(C1)).status is expected


@pytest.mark.parametrize("ends", [True, False])
async def test_unhealthy_report_that_comes_after_a_stop_restarts_nothing(
    tmp_path: Path, autojump_clock: MockClock, ends: bool
) -> None:
    """The probes failed before the stop was taken up: it is carried on with, or has been, and nothing is restarted."""
    settings = attrs.evolve(QUICK, health=Health(interval=1.0))
    async with open_world(tmp_path, settings=settings) as world:
        await world.start()
        await trio.sleep(1)
        world.engine.close_gate("inspect")
        world.engine.tell(C1)
        world.agent.healthy = False
        if not ends:
            world.engine.fail_next("stop", EngineUnavailable("not now"))
            world.engine.fail_next("kill", EngineUnavailable("not now"))
            world.engine.fail_next("remove", EngineUnavailable("not now"))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, world, Command.STOP, [])
            await trio.sleep(8)
            world.engine.open_gate("inspect")
        await trio.sleep(5)
        assert await world.statuses() == ["STARTING", "RUNNING", "STOPPED"]
        assert await world.told("restart_scheduled") == []
