"""Idempotency keys: a repeated start makes nothing new, for a day."""

from datetime import timedelta
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisor.control.service import StartRequest
from supervisor.conversation.errors import (
    InvalidTransition,
)
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.journal.changes import JournalError
from tests.actors.test_life import reach
from tests.world import C1, SimulatedWallClock, open_world


def keyed(key: str = "k") -> StartRequest:
    """A start of an id yet to be made, with a key."""
    return StartRequest(idempotency_key=key)


async def test_idempotency_key_repeats_the_first_answer(tmp_path: Path, autojump_clock: MockClock) -> None:
    """However often a start is repeated with its key, one conversation comes of it."""
    async with open_world(tmp_path) as world:
        first = await world.supervisor.start(keyed())
        again = await world.supervisor.start(keyed())
        other = await world.supervisor.start(keyed("other"))
        assert (again.id, other.id != first.id) == (first.id, True)
        assert len(world.engine.sandboxes) == 2


async def test_concurrent_starts_with_one_key_make_one_conversation(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Also when the first one has not been answered yet."""
    async with open_world(tmp_path) as world:
        ids: set[ConversationId] = set()

        async def start() -> None:
            ids.add((await world.supervisor.start(keyed())).id)

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(start)
        assert len(ids) == 1
        assert len(world.engine.sandboxes) == 1


@pytest.mark.parametrize("conversation", [None, C1])
async def test_key_of_a_start_that_was_given_up_on_finds_what_came_of_it(
    tmp_path: Path, autojump_clock: MockClock, conversation: ConversationId | None
) -> None:
    """Its commit stalled and then succeeded: who asks again gets that conversation, which boots, and no second one."""
    async with open_world(tmp_path) as world:
        await trio.sleep(1)
        request = attrs.evolve(keyed(), id=conversation)
        writing = world.supervision.journal._writing
        await writing.acquire_on_behalf_of("a disk that stalls")
        for _ in range(2):
            with pytest.raises(JournalError):
                await world.supervisor.start(request)
        writing.release_on_behalf_of("a disk that stalls")
        again = await world.supervisor.start(request)
        await world.until_status(Status.RUNNING, again.id)
        assert len((await world.supervisor.list((), {}, 10, None)).items) == len(world.engine.sandboxes) == 1
        assert (await world.supervisor.start(request)).id == again.id


async def test_key_of_a_start_that_was_not_written_makes_another_one(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It stood behind one that stalled: nothing came of it, so that its key is free."""
    async with open_world(tmp_path) as world:
        await trio.sleep(1)

        async def give_up_on(key: str) -> None:
            with pytest.raises(JournalError):
                await world.supervisor.start(keyed(key))

        async with world.supervision.journal._writing, trio.open_nursery() as nursery:
            for key in ("stalls", "waits"):
                nursery.start_soon(give_up_on, key)
                await wait_all_tasks_blocked()
        released = SimulatedWallClock().now()
        first, other = [await world.supervisor.start(keyed(key)) for key in ("stalls", "waits")]
        assert first.created_at < released <= other.created_at
        listed = (await world.supervisor.list((), {}, 10, None)).items
        assert {record.id for record in listed} == {first.id, other.id}


async def test_idempotency_key_survives_the_daemon(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The key is in the journal with the conversation that it made."""
    async with open_world(tmp_path) as world:
        first = await world.supervisor.start(keyed())
        engine, agent = world.engine, world.agent
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        assert (await world.supervisor.start(keyed())).id == first.id
        assert len(engine.sandboxes) == 1


@pytest.mark.parametrize("reopen", [False, True])
async def test_idempotency_key_ends_after_a_day(tmp_path: Path, autojump_clock: MockClock, reopen: bool) -> None:
    """After 24 hours the key makes another conversation, and is remembered no longer."""
    async with open_world(tmp_path) as world:
        first = await world.supervisor.start(keyed())
        await world.stop(first.id)
        await trio.sleep(timedelta(hours=23.9).total_seconds())
        assert (await world.supervisor.start(keyed())).id == first.id
        await trio.sleep(timedelta(hours=1.1).total_seconds())
        if not reopen:
            assert await world.supervision.journal.keys() == ()
            assert (await world.supervisor.start(keyed())).id != first.id
            return
    async with open_world(tmp_path) as world:
        assert (await world.supervisor.start(keyed())).id != first.id


async def test_idempotency_key_that_has_just_ended_counts_no_more(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The hour of the pruner makes no key live longer."""
    async with open_world(tmp_path) as world:
        await trio.sleep(1800)
        first = await world.supervisor.start(keyed())
        await trio.sleep(timedelta(hours=24).total_seconds() + 1)
        assert (await world.supervisor.start(keyed())).id != first.id


@pytest.mark.parametrize("successor", [False, True])
async def test_idempotency_key_of_a_deleted_conversation_counts_no_more(
    tmp_path: Path, autojump_clock: MockClock, successor: bool
) -> None:
    """The key went with its conversation; a successor of the same id is not its answer."""
    async with open_world(tmp_path) as world:
        request = attrs.evolve(keyed(), id=C1)
        await world.supervisor.start(request)
        await world.stop()
        await world.supervisor.delete(C1)
        if successor:
            await world.start()
        again = await world.supervisor.start(keyed())
        assert (again.id != C1) == successor or not successor
        assert again.status is Status.RUNNING
        assert await world.supervision.journal.record(again.id) == again


async def test_key_of_a_start_that_was_refused_is_free(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A refused start leaves nothing behind that its repetition would find."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.ARCHIVED)
        with pytest.raises(InvalidTransition):
            await world.supervisor.start(attrs.evolve(keyed(), id=C1))
        assert (await world.supervisor.start(keyed())).id != C1
