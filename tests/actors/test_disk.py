"""A journal that cannot be written: nothing is announced, nothing is half done, and it goes on when it can."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisor.control.service import StartRequest
from supervisor.conversation.errors import InternalError, NotFound
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import ExecutionStatus
from supervisor.journal.changes import JournalError, Note
from supervisor.journal.journal import Journal
from supervisor.sandbox.port import SandboxState
from tests.actors.test_life import ask, reach
from tests.actors.test_restart import name_of
from tests.fakes.store import FaultyStore
from tests.world import C1, World, open_world, until

C2 = ConversationId("c2")


def disk(world: World) -> FaultyStore:
    """The world's store."""
    store = world.supervision.journal._store
    assert isinstance(store, FaultyStore)
    return store


async def test_start_on_a_full_disk_makes_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Neither a record nor a sandbox; its key and its id are free."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        await trio.sleep(1)
        disk(world).full = True
        with pytest.raises(JournalError):
            await world.start(request=StartRequest(idempotency_key="k"))
        await trio.sleep(10)
        assert (world.engine.sandboxes, world.supervision.registry.find(C1)) == ({}, None)
        disk(world).full = False
        assert (await world.start(request=StartRequest(idempotency_key="k"))).status is Status.RUNNING


@pytest.mark.parametrize(
    ("status", "command", "after"),
    [
        (Status.RUNNING, Command.PAUSE, Status.RUNNING),
        (Status.PAUSED, Command.RESUME, Status.PAUSED),
        (Status.RUNNING, Command.STOP, Status.RUNNING),
        (Status.STOPPED, Command.RESTART, Status.STOPPED),
        (Status.STOPPED, Command.ARCHIVE, Status.STOPPED),
    ],
)
async def test_command_on_a_full_disk_is_undone(
    tmp_path: Path, autojump_clock: MockClock, status: Status, command: Command, after: Status
) -> None:
    """The caller gets an error, nothing is announced, and once there is room the world is as the record says."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        await world.start(C2)
        await reach(world, status)
        seq = world.supervision.journal.last_seq
        disk(world).full = True
        with pytest.raises(InternalError):
            await ask(world, command)
        await trio.sleep(100)
        assert world.record().status is after
        assert (world.supervision.journal.last_seq, disk(world).refused > 0) == (seq, True)
        disk(world).full = False
        await trio.sleep(100)
        assert world.record().status is after
        assert world.engine.runs(C1) == (after is Status.RUNNING)
        assert world.record(C2).status is Status.RUNNING
        await ask(world, command)


async def test_actor_waits_for_room_on_the_disk(tmp_path: Path, autojump_clock: MockClock) -> None:
    """However long the disk is full: a sandbox that died is restarted afterwards, and no bug is seen in it."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        await world.start()
        disk(world).full = True
        world.engine.die(name_of(world))
        await trio.sleep(2000)
        assert world.record().status is Status.RUNNING
        disk(world).full = False
        await world.until_status(Status.STARTING)
        await world.until_status(Status.RUNNING)
        assert world.record().incarnation == 2


async def test_boot_on_a_full_disk_is_taken_up_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A start in the middle of which the disk got full: one sandbox, and it gets ready."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        world.engine.close_gate("launch")
        await world.start(request=StartRequest(wait=False))
        await trio.sleep(1)
        disk(world).full = True
        world.engine.open_gate("launch")
        await trio.sleep(100)
        assert world.record().status is Status.STARTING
        disk(world).full = False
        await world.until_status(Status.RUNNING)
        assert (world.record().incarnation, world.engine.most_at_once[C1]) == (1, 1)


async def test_actors_on_a_full_disk_try_ever_less_often_and_all_go_on_with_the_first(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """They keep neither the engine nor the log busy, and the first commit that succeeds ends the wait of all."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        world.engine.close_gate("launch")
        crowd = [ConversationId(f"x{number}") for number in range(10)]
        for conversation in crowd:
            await world.start(conversation, StartRequest(wait=False))
        await trio.sleep(1)
        disk(world).full = True
        world.engine.open_gate("launch")
        calls = world.engine.calls.total()
        await trio.sleep(300)
        assert 0 < len(world.incidents) < 20 * len(crowd)
        assert world.engine.calls.total() - calls < 40 * len(crowd)
        disk(world).full = False
        await world.supervision.journal.commit(Note(None, world.record(crowd[0]).created_at, ()))
        await trio.sleep(5)
        assert {world.record(conversation).status for conversation in crowd} == {Status.RUNNING}


async def test_forced_stop_ends_a_sandbox_on_a_full_disk(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While something is being done the kill needs no journal; the record follows when it can."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        await reach(world, Status.STARTING)
        disk(world).full = True
        with pytest.raises(InternalError):
            await world.stop(force=True)
        assert not world.engine.runs(C1)


async def test_commit_that_does_not_return_is_given_up_on_and_settled_later(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A start whose commit was given up on, and then succeeded: the conversation gets its actor when asked for."""
    async with open_world(tmp_path) as world:
        journal = world.supervision.journal
        await trio.sleep(1)
        async with journal._writing:
            with pytest.raises(JournalError, match="60 s"):
                await world.start()
        await trio.sleep(1)
        assert world.supervision.registry.find(C1) is None
        assert (await world.start()).status is Status.STARTING
        await world.until_status(Status.RUNNING)
        assert world.engine.most_at_once[C1] == 1


async def test_pause_that_is_recorded_after_it_was_given_up_on_is_a_pause(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The caller learns that it is not known; the record is what was announced, once the disk goes on."""
    async with open_world(tmp_path) as world, trio.open_nursery() as nursery:
        journal = await stall_pause(world, nursery)
        await trio.sleep(100)
        journal._writing.release_on_behalf_of("a disk that stalls")
        await trio.sleep(10)
        assert (await world.statuses())[-1] == world.record().status == Status.PAUSED
        assert await journal.record(C1) == world.record()
        assert world.engine.states() == {name_of(world): SandboxState.PAUSED}


async def test_forced_stop_waits_for_no_disk_that_stalls(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It comes while it is waited for what was given up on: the sandbox ends at once, and the record says so later."""
    async with open_world(tmp_path) as world, trio.open_nursery() as nursery:
        journal = await stall_pause(world, nursery)
        await trio.sleep(100)
        with trio.move_on_after(5):
            await world.stop(force=True)
        assert not world.engine.runs(C1)
        journal._writing.release_on_behalf_of("a disk that stalls")
        await world.until_status(Status.STOPPED)
        assert await journal.record(C1) == world.record()


async def stall_pause(world: World, nursery: trio.Nursery) -> Journal:
    """Pause a conversation on a disk that stalls just as that is recorded."""
    journal = world.supervision.journal
    await world.start()
    world.engine.close_gate("pause")
    nursery.start_soon(expect_stall, world)
    await until(lambda: world.engine.calls["pause"] > 0)
    await journal._writing.acquire_on_behalf_of("a disk that stalls")
    world.engine.open_gate("pause")
    return journal


async def expect_stall(world: World) -> None:
    """Pause, and hear that it is not known whether that succeeded."""
    with pytest.raises(InternalError, match="60 s"):
        await world.supervisor.pause(C1, 200)


async def test_command_that_reads_a_record_before_its_start_knows_of_it_makes_no_second_actor(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Whoever comes first has the conversation to itself: a stop of none finds none, and the start goes on after it."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        await trio.sleep(1)
        reading = world.supervision.journal._reading
        await reading.acquire_on_behalf_of("a disk that reads slowly")

        def read_at_last() -> None:
            disk(world).written = lambda: None
            reading.release_on_behalf_of("a disk that reads slowly")

        disk(world).written = read_at_last
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_none, world)
            await wait_all_tasks_blocked()
            nursery.start_soon(world.start)
            await wait_all_tasks_blocked()
            if world.supervision.registry.find(C1) is None:
                read_at_last()
        assert await world.statuses() == ["STARTING", "RUNNING"]


async def expect_none(world: World) -> None:
    """Stop a conversation that is not there."""
    with pytest.raises(NotFound):
        await world.stop()


async def test_poisonous_text_harms_nobody(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Text that no database takes is the trouble of whoever brought it, not of those in the same batch."""
    async with open_world(tmp_path) as world:
        await world.start(C2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_failure, world, StartRequest(idempotency_key="\ud800"))
            nursery.start_soon(world.start, C1)
            nursery.start_soon(world.supervisor.pause, C2, None)
        assert (world.record().status, world.record(C2).status) == (Status.RUNNING, Status.PAUSED)
        odd = StartRequest(labels={"a": "\ud800"}, request={"b": "\udfff"})
        record = await world.start(ConversationId("odd"), odd)
        assert await world.supervision.journal.record(record.id) == world.record(record.id)


async def expect_failure(world: World, request: StartRequest) -> None:
    """Start a conversation that cannot be written down."""
    with pytest.raises(UnicodeEncodeError):
        await world.start(ConversationId("poison"), request)


async def test_report_on_a_full_disk_is_made_up_for(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What the agent did meanwhile is in the record in the end."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        await world.start()
        await trio.sleep(1)
        disk(world).full = True
        world.agent.does(C1, ExecutionStatus.FINISHED)
        await trio.sleep(10)
        assert world.record().execution_status is ExecutionStatus.RUNNING
        with pytest.raises(JournalError):
            await world.supervision.journal.commit(Note(C1, world.record().created_at, ()))
        disk(world).full = False
        await world.until(lambda record: record.execution_status is ExecutionStatus.FINISHED)


async def test_failure_is_recorded_when_there_is_room(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Crashes that end in ERROR on a full disk: the record says so afterwards."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        await world.start()
        await trio.sleep(1)
        world.engine.fail_next("inspect", RuntimeError("a bug"), times=40)
        disk(world).full = True
        world.engine.tell(C1)
        await trio.sleep(300)
        assert world.record().status is Status.RUNNING
        disk(world).full = False
        await world.until_status(Status.ERROR)


async def test_record_that_cannot_be_read_is_one_conversations_trouble(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """After a crash it cannot be read for a while, whyever: nobody else knows of it, and the actor is back."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        await world.start()
        await world.start(C2)
        world.agent.fail_next("pause", RuntimeError("a bug"))
        disk(world).unreadable = ValueError("no record of ours")
        with pytest.raises(InternalError):
            await world.supervisor.pause(C1, None)
        await trio.sleep(10)
        disk(world).unreadable = None
        assert (await world.supervisor.pause(C1, None)).status is Status.PAUSED
        assert (await world.supervisor.pause(C2, None)).status is Status.PAUSED


async def test_pruning_that_fails_ends_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Not even with what nobody expects; it is tried again an hour later."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        disk(world).unprunable = ValueError("a bug")
        await world.start(request=StartRequest(idempotency_key="k"))
        await trio.sleep(24 * 3600 + 10)
        disk(world).unprunable = None
        assert len(await world.supervision.journal.keys()) == 1
        await trio.sleep(3600)
        assert await world.supervision.journal.keys() == ()


async def test_pruning_waits_for_room_on_the_disk(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A prune that fails is made up for an hour later."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        await world.start(request=StartRequest(idempotency_key="k"))
        await trio.sleep(24 * 3600 - 10)
        disk(world).full = True
        await trio.sleep(3600)
        assert disk(world).refused > 0
        assert len(await world.supervision.journal.keys()) == 1
        disk(world).full = False
        await trio.sleep(3600)
        assert await world.supervision.journal.keys() == ()
