"""Commands: who waits for them, who stops waiting, how many may wait, and what repeats of them do."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisor.actors.mailbox import MAILBOX_LIMIT
from supervisor.control.service import StartRequest
from supervisor.conversation.errors import (
    Busy,
    Conflict,
    ConversationdError,
    InvalidTransition,
    NotFound,
)
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import ConversationRecord
from tests.actors.test_force_stop import send
from tests.actors.test_life import ask, reach
from tests.world import C1, open_world, until

C2, C3 = ConversationId("c2"), ConversationId("c3")
NO_WAIT = StartRequest(wait=False)


@pytest.mark.parametrize("gate", ["wait_ready", "begin"])
async def test_stop_cancels_a_start_at_once(tmp_path: Path, autojump_clock: MockClock, gate: str) -> None:
    """A plain stop does not wait for the start's end, and the start's caller is answered."""
    async with open_world(tmp_path) as world:
        world.agent.close_gate(gate)
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, world, Command.START, errors)
            await trio.sleep(5)
            began = trio.current_time()
            assert (await world.supervisor.stop(C1, None, force=False)).was_running
            assert trio.current_time() - began < 1
        assert isinstance(errors[0], Conflict)
        assert await world.statuses() == ["STARTING", "STOPPED"]
        assert not world.engine.runs(C1)


@pytest.mark.parametrize(
    ("status", "command", "after"),
    [
        (Status.RUNNING, Command.PAUSE, Status.PAUSED),
        (Status.PAUSED, Command.RESUME, Status.RUNNING),
        (Status.RUNNING, Command.STOP, Status.STOPPED),
        (Status.STOPPED, Command.RESTART, Status.RUNNING),
        (Status.STOPPED, Command.ARCHIVE, Status.ARCHIVED),
    ],
)
async def test_caller_that_hangs_up_cancels_nothing(
    tmp_path: Path, autojump_clock: MockClock, status: Status, command: Command, after: Status
) -> None:
    """Whenever the caller goes away, its command is carried out."""
    for at in (0.0, 0.001, 0.005, 0.01, 0.03, 0.06, 0.1):
        directory = tmp_path / str(at)
        directory.mkdir()
        async with open_world(directory) as world:
            await reach(world, status)
            with trio.move_on_after(at):
                await ask(world, command)
            await trio.sleep(2)
            assert (await world.supervisor.get(C1)).status is after


@pytest.mark.parametrize("steps", range(0, 30, 2))
async def test_start_whose_caller_hangs_up_goes_on(tmp_path: Path, autojump_clock: MockClock, steps: int) -> None:
    """A start is carried out or never begun: nothing in between, and no id that is blocked for ever."""
    async with open_world(tmp_path) as world:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.start)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await trio.sleep(2)
        started = world.supervision.registry.find(C1) is not None
        assert started == bool(await world.kinds())
        with trio.fail_after(10):
            assert (await world.start()).status is Status.RUNNING
        assert world.engine.most_at_once[C1] == 1


async def test_start_without_waiting_answers_when_it_is_durable(tmp_path: Path, autojump_clock: MockClock) -> None:
    """`wait: false` answers STARTING at once; the record is committed, and the start goes on."""
    async with open_world(tmp_path) as world:
        began = trio.current_time()
        record = await world.start(request=NO_WAIT)
        assert (record.status, trio.current_time()) == (Status.STARTING, began)
        stored = await world.supervision.journal.record(C1)
        assert stored is not None
        await world.until_status(Status.RUNNING)


async def test_start_of_a_paused_one_without_waiting_answers_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is PAUSED still, and will be resumed."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.PAUSED)
        began = trio.current_time()
        record = await world.start(request=NO_WAIT)
        assert (record.status, trio.current_time()) == (Status.PAUSED, began)
        await world.until_status(Status.RUNNING)
        assert (await world.start(request=NO_WAIT)).status is Status.RUNNING


async def test_full_mailbox_is_busy_and_loses_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Beyond its bound the mailbox refuses at once; every command that it took is answered."""
    async with open_world(tmp_path) as world:
        await world.start()
        world.agent.close_gate("pause")
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, world, Command.PAUSE, errors)
            await trio.sleep(0.1)
            for _ in range(MAILBOX_LIMIT):
                nursery.start_soon(send, world, Command.PAUSE, errors)
            await trio.sleep(0.1)
            for _ in range(3):
                with pytest.raises(Busy):
                    await world.supervisor.pause(C1, None)
            assert errors == []
            world.agent.open_gate("pause")
        assert len(errors) == MAILBOX_LIMIT
        assert all(isinstance(error, InvalidTransition) for error in errors)
        assert world.record().status is Status.PAUSED


async def test_commands_are_taken_one_at_a_time_in_order(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What is sent while another command runs waits its turn and sees what that one left."""
    async with open_world(tmp_path) as world:
        await world.start()
        async with trio.open_nursery() as nursery:
            for command in (Command.PAUSE, Command.RESUME, Command.PAUSE, Command.STOP, Command.RESTART):
                nursery.start_soon(ask, world, command)
                await wait_all_tasks_blocked()
        assert await world.statuses() == [
            *("STARTING", "RUNNING", "PAUSED", "RUNNING", "PAUSED", "STOPPED", "STARTING", "RUNNING"),
        ]


async def test_concurrent_starts_of_one_id_make_one_conversation(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One of them creates it, the others find it there."""
    async with open_world(tmp_path) as world:
        answers: list[ConversationRecord] = []

        async def start() -> None:
            answers.append(await world.start())

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(start)
        assert len(answers) == 20
        assert (await world.kinds()).count("created") == 1
        assert world.engine.calls["launch"] == 1


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("command", [Command.STOP, Command.DELETE, Command.RESTART])
async def test_command_during_a_creation_makes_no_second_actor(
    tmp_path: Path, autojump_clock: MockClock, command: Command, force: bool
) -> None:
    """At whichever step of the creation another client's command comes, the conversation has one actor."""
    async with open_world(tmp_path) as world:
        for steps in range(30):
            conversation = ConversationId(f"c{steps}")
            errors: list[ConversationdError] = []

            async def act(conversation: ConversationId = conversation) -> None:
                await trio.lowlevel.checkpoint()
                try:
                    if command is Command.STOP:
                        await world.supervisor.stop(conversation, None, force=force)
                    elif command is Command.DELETE:
                        await world.supervisor.delete(conversation)
                    else:
                        await world.supervisor.restart(conversation, None, force=force)
                except (NotFound, InvalidTransition) as error:
                    errors.append(error)  # noqa: B023 - ended below, before it is bound anew

            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.start, conversation, NO_WAIT)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                nursery.start_soon(act)
            await trio.sleep(2)
            handles = list(world.supervision.registry.all())
            assert len(handles) == steps + 1
            census = world.supervision.registry.census
            for status in Status:
                assert census[status] == sum(handle.record.status is status for handle in handles)


@pytest.mark.parametrize("steps", range(12))
async def test_command_right_after_a_delete_finds_nothing(
    tmp_path: Path, autojump_clock: MockClock, steps: int
) -> None:
    """A deleted conversation cannot be started again by a command that comes in the same moment."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.STOPPED)
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def delete() -> None:
                await world.supervisor.delete(C1)
                await send(world, Command.RESTART, errors)

            await until(lambda: world.engine.calls["remove_workspace"] > 0)
            for _ in range(steps):
                await trio.lowlevel.checkpoint()
            nursery.start_soon(send, world, Command.RESTART, errors)
        await trio.sleep(5)
        assert [type(error) for error in errors] == [NotFound, NotFound]
        assert world.engine.sandboxes == {}
        assert (await world.kinds())[-1] == "deleted"


async def test_commands_that_wait_when_it_is_deleted_are_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Everyone who waited learns that the conversation is gone."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.STOPPED)
        errors: list[ConversationdError] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.supervisor.delete, C1)
            await wait_all_tasks_blocked()
            nursery.start_soon(send, world, Command.RESTART, errors)
        assert isinstance(errors[0], NotFound)


async def test_start_of_an_archived_id_is_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its record is kept, so its id is taken."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.ARCHIVED)
        with pytest.raises(InvalidTransition):
            await world.start()
        assert (await world.supervisor.get(C1)).status is Status.ARCHIVED
