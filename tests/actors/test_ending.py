"""The end of the daemon: what it still takes, whom it waits for, and who is answered."""

from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from supervisor.actors.mailbox import MAILBOX_LIMIT
from supervisor.conversation.errors import Busy, ConversationdError, EngineUnavailable, ShuttingDown
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Command, Status
from tests.actors.test_commands import C2, C3
from tests.actors.test_force_stop import send
from tests.actors.test_life import ask
from tests.world import C1, World, open_world


async def test_closed_supervisor_takes_no_commands_but_ends_what_runs(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """After `close` everything is refused but a forced stop; queries go on."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.supervisor.close()
        for command in (Command.START, Command.PAUSE, Command.STOP, Command.RESTART, Command.DELETE):
            with pytest.raises(ShuttingDown):
                await ask(world, command)
        await world.supervisor.settle(5)
        assert (await world.supervisor.get(C1)).status is Status.RUNNING
        assert (await world.stop(force=True)).status is Status.STOPPED


async def test_settle_waits_for_commands_under_way(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Until the last one has been answered, or the time is up."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.agent.close_gate("pause")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.supervisor.pause, C1, None)
            await trio.sleep(1)
            world.supervisor.close()
            began = trio.current_time()
            await world.supervisor.settle(5)
            assert trio.current_time() - began == 5
            world.agent.open_gate("pause")
            await world.supervisor.settle(5)
            assert trio.current_time() - began < 6


@pytest.mark.parametrize("command", [Command.PAUSE, Command.STOP])
async def test_winding_down_reaches_all_that_run(tmp_path: Path, autojump_clock: MockClock, command: Command) -> None:
    """Pausing or stopping all, a failure of one does not keep the others from it."""
    async with open_world(tmp_path) as world:
        for conversation in (C1, C2, C3):
            await world.start(conversation)
        await world.stop(C3)
        world.engine.fail_next(str(command), EngineUnavailable("not now"))
        if command is Command.STOP:
            world.engine.fail_next("kill", EngineUnavailable("not now"))
        world.supervisor.close()
        await world.supervisor.wind_down(command)
        after = Status.PAUSED if command is Command.PAUSE else Status.STOPPED
        assert after in (world.record(C1).status, world.record(C2).status)
        assert world.record(C3).status is Status.STOPPED


async def test_winding_down_passes_a_full_mailbox(tmp_path: Path, autojump_clock: MockClock) -> None:
    """However many commands wait for a conversation, it is stopped after them, and so are all others."""
    errors: list[ConversationdError] = []
    async with open_world(tmp_path) as world, trio.open_nursery() as callers:
        for conversation in (C1, C2):
            await world.start(conversation)
        world.agent.close_gate("pause")
        callers.start_soon(send, world, Command.PAUSE, errors)
        await trio.sleep(1)
        for _ in range(MAILBOX_LIMIT + 1):
            callers.start_soon(send, world, Command.PAUSE, errors)
        await trio.sleep(1)
        assert [type(error) for error in errors] == [Busy]
        world.supervisor.close()
        await world.supervisor.wind_down(Command.STOP)
        assert [world.record(one).status for one in (C1, C2)] == [Status.STOPPED] * 2


async def test_callers_are_answered_when_the_daemon_ends(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Whoever still waits, for a command that runs, one that is queued or a start, is told that the daemon ends."""
    errors: list[ConversationdError] = []
    async with trio.open_nursery() as callers, AsyncExitStack() as daemon:
        world = await daemon.enter_async_context(open_world(tmp_path))
        await world.start()
        world.agent.close_gate("pause")
        world.agent.close_gate("wait_ready")
        callers.start_soon(send, world, Command.PAUSE, errors)
        await trio.sleep(1)
        callers.start_soon(send, world, Command.STOP, errors)
        callers.start_soon(fail_start, world, C2, errors)
        await trio.sleep(1)
    assert [type(error) for error in errors] == [ShuttingDown] * 3


async def fail_start(world: World, conversation: ConversationId, errors: list[ConversationdError]) -> None:
    """Start a conversation and remember how that failed."""
    await trio.lowlevel.checkpoint()
    try:
        await world.start(conversation)
    except ConversationdError as error:
        errors.append(error)
