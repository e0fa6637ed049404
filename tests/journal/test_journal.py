"""The journal: durable before announced, in batches, and never half."""

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisor.conversation.events import RecordedEvent
from supervisor.conversation.ids import ConversationId
from supervisor.journal.changes import AlreadyExists, JournalError, Update
from supervisor.journal.journal import Journal, Offload
from supervisor.journal.store import Snapshot, Store
from supervisor.threads import NoThread, in_thread
from tests.fakes.store import FaultyStore
from tests.journal.samples import C1, C2, NOON, create, note, record
from tests.world import inline

_T = TypeVar("_T")


@attrs.define
class Desk:
    """A journal whose writer runs, and what it has announced."""

    journal: Journal
    store: FaultyStore
    heard: list[RecordedEvent]
    batches: list[int]

    @property
    def seqs(self) -> list[int]:
        """The numbers of the events that were announced."""
        return [event.seq for event in self.heard]


@asynccontextmanager
async def open_desk(directory: Path, offload: Offload = inline) -> AsyncIterator[Desk]:
    """Open a journal and let it write."""
    store, heard = FaultyStore(directory / "journal.db"), list[RecordedEvent]()
    batches: list[int] = []

    def announce(events: Sequence[RecordedEvent]) -> None:
        batches.append(len(events))
        heard.extend(events)

    journal = Journal(store, announce, offload)

    async def write() -> None:
        await journal.run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        yield Desk(journal, store, heard, batches)
        nursery.cancel_scope.cancel()
    store.close()


async def test_event_is_announced_after_its_commit(tmp_path: Path) -> None:
    """As it is announced, another connection finds it; and only then the commit returns."""
    store = Store(tmp_path / "journal.db")
    other = sqlite3.connect(tmp_path / "journal.db", check_same_thread=False)
    found: list[int] = []

    def announce(events: Sequence[RecordedEvent]) -> None:
        found.extend(other.execute("SELECT count(*) FROM events WHERE seq = ?", (events[-1].seq,)).fetchone())

    journal = Journal(store, announce)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(journal.run)
        await journal.commit(create(C1, events=3))
        assert (found, journal.last_seq) == ([1], 3)
        nursery.cancel_scope.cancel()
    other.close()
    store.close()


async def test_changes_that_wait_are_one_transaction(tmp_path: Path) -> None:
    """What comes while a transaction is being written waits for the next one, all of it together."""
    async with open_desk(tmp_path) as desk, trio.open_nursery() as nursery:
        for _ in range(1200):
            nursery.start_soon(desk.journal.commit, note())
        await wait_all_tasks_blocked()
        nursery.cancel_scope.shield = True
    assert desk.seqs == list(range(1, 1201))
    assert max(desk.batches) == 500
    assert len(desk.batches) < 6


async def test_refused_creation_leaves_the_others_alone(tmp_path: Path) -> None:
    """In one batch: one is refused, the others are written and announced."""
    async with open_desk(tmp_path) as desk:
        await desk.journal.commit(create(C1))
        refused: list[ConversationId] = []

        async def make(conversation: ConversationId) -> None:
            await trio.lowlevel.checkpoint()
            try:
                await desk.journal.commit(create(conversation))
            except AlreadyExists:
                refused.append(conversation)

        async with trio.open_nursery() as nursery:
            for conversation in (C2, C1, C2, ConversationId("c4")):
                nursery.start_soon(make, conversation)
        assert sorted(refused) == [C1, C2]
        assert desk.seqs == [1, 2, 3]


async def test_commit_cannot_be_cancelled_once_begun(tmp_path: Path) -> None:
    """A caller that is cancelled meanwhile still learns that it was written; one that was before writes nothing."""
    async with open_desk(tmp_path) as desk:
        with trio.CancelScope() as scope:
            desk.store.written = scope.cancel
            await desk.journal.commit(create(C1))
            assert desk.seqs == [1]
        assert not scope.cancelled_caught
        with trio.CancelScope() as late:
            late.cancel()
            await desk.journal.commit(create(C2))
        assert late.cancelled_caught
        assert await desk.journal.record(C2) is None


async def test_full_disk_announces_nothing(tmp_path: Path) -> None:
    """Everyone of the batch gets the error; afterwards the numbers go on without a gap."""
    async with open_desk(tmp_path) as desk:
        desk.store.full = True
        for _ in range(3):
            with pytest.raises(JournalError, match="full"):
                await desk.journal.commit(note())
        assert (desk.heard, desk.journal.last_seq) == ([], 0)
        desk.store.full = False
        await desk.journal.commit(note())
        assert desk.seqs == [1]


async def test_full_database_is_told_with_what_to_do(tmp_path: Path) -> None:
    """In words that a client may read: SQLite's own bound on pages stands in for the file system's."""
    async with open_desk(tmp_path) as desk:
        desk.store._writer.execute("PRAGMA max_page_count = 1")  # never less than there are
        with pytest.raises(JournalError, match="full: make room on the file system of the state_dir"):
            await desk.journal.commit(note(count=1000))


async def test_change_that_cannot_be_written_down_harms_no_other(tmp_path: Path) -> None:
    """A poisonous change in the middle of a batch: its author gets the error, the others are written."""
    async with open_desk(tmp_path) as desk:
        poisoned: list[str] = []

        async def poison() -> None:
            await trio.lowlevel.checkpoint()
            try:
                await desk.journal.commit(create(C2, key="\ud800"))
            except UnicodeEncodeError:
                poisoned.append("poisoned")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.journal.commit, create(C1))
            nursery.start_soon(poison)
            nursery.start_soon(desk.journal.commit, note())
        assert (poisoned, desk.seqs) == (["poisoned"], [1, 2])
        assert await desk.journal.record(C1) == record()


async def test_disk_that_stalls_is_given_up_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After a minute the caller learns that it is not known; the writer waits on, and nothing is lost."""
    async with open_desk(tmp_path) as desk:
        await desk.journal._writing.acquire_on_behalf_of("a disk that stalls")
        with pytest.raises(JournalError, match="60 s"):
            await desk.journal.commit(create(C1))
        assert trio.current_time() == 60
        desk.journal._writing.release_on_behalf_of("a disk that stalls")
        await desk.journal.probe()
        await wait_all_tasks_blocked()
        assert desk.seqs == [1]


async def test_commit_behind_one_that_stalls_is_withdrawn(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Only of the one that was begun it is not known whether it will be written."""
    async with open_desk(tmp_path) as desk:
        await desk.journal._writing.acquire_on_behalf_of("a disk that stalls")

        async def give_up_on(conversation: ConversationId) -> None:
            with pytest.raises(JournalError, match="60 s"):
                await desk.journal.commit(create(conversation))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(give_up_on, C1)
            await wait_all_tasks_blocked()
            nursery.start_soon(give_up_on, C2)
        desk.journal._writing.release_on_behalf_of("a disk that stalls")
        await desk.journal.probe()
        await wait_all_tasks_blocked()
        assert desk.seqs == [1]
        assert await desk.journal.record(C2) is None


async def test_host_without_a_thread_is_waited_for(tmp_path: Path) -> None:
    """Whatever needs one is a journal error, nothing of it is done, and the writer is there when there are some."""
    spare = False

    async def offload(call: Callable[[], _T], limiter: trio.CapacityLimiter) -> _T:
        await trio.lowlevel.checkpoint()
        if not spare:
            raise NoThread
        return await inline(call, limiter)

    async with open_desk(tmp_path, offload) as desk:
        with pytest.raises(JournalError, match="cannot be written: the host has no thread"):
            await desk.journal.commit(create(C1))
        with pytest.raises(JournalError, match="cannot be read: the host has no thread"):
            await desk.journal.record(C1)
        with pytest.raises(JournalError, match="cannot be pruned: the host has no thread"):
            await desk.journal.prune(NOON, NOON)
        await desk.journal.probe()
        spare = True
        await desk.journal.commit(create(C2))
        assert await desk.journal.record(C1) is None
        assert desk.seqs == [1]


async def test_probe_waits_for_the_writer(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It returns when the writer gets on, and not before."""
    async with open_desk(tmp_path) as desk:
        await desk.journal._writing.acquire_on_behalf_of("a disk that stalls")
        with trio.move_on_after(5) as scope:
            await desk.journal.probe()
        assert scope.cancelled_caught
        desk.journal._writing.release_on_behalf_of("a disk that stalls")
        await desk.journal.probe()


async def test_ending_the_writer_waits_for_its_batch(tmp_path: Path) -> None:
    """Cancelled in the middle, it finishes what it has begun."""
    async with open_desk(tmp_path, in_thread) as desk:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(desk.journal.commit, create(C1))
            await wait_all_tasks_blocked()
        heard = desk.heard
    assert [event.seq for event in heard] == [1]


async def test_reads_go_through(tmp_path: Path) -> None:
    """Each query answers what the store does."""
    async with open_desk(tmp_path) as desk:
        journal, store = desk.journal, desk.store
        await journal.commit(create(C1, key="k"))
        await journal.commit(Update(record(), ()))
        assert await journal.record(C1) == record()
        assert await journal.live_records() == (record(),)
        assert await journal.keys() == store.keys()
        for newest in (False, True):
            expected = store.page((), {}, 5, 0, newest_first=newest)
            assert await journal.page((), {}, 5, 0, newest_first=newest) == expected
        assert await journal.events(0, None, None, 5) == tuple(desk.heard)
        assert await journal.snapshot() == store.snapshot()
        assert len(journal.instance) == 32


async def test_no_other_read_waits_for_a_snapshot(tmp_path: Path) -> None:
    """It takes long where there are many conversations, and has a connection of its own."""
    async with open_desk(tmp_path) as desk:
        await desk.journal.commit(create(C1))
        await desk.journal._copying.acquire_on_behalf_of("a long snapshot")
        taken: list[Snapshot] = []

        async def take() -> None:
            taken.append(await desk.journal.snapshot())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(take)
            await wait_all_tasks_blocked()
            assert await desk.journal.record(C1) == record()
            assert not taken
            desk.journal._copying.release_on_behalf_of("a long snapshot")
        assert taken[0].records == (record(),)


async def test_pruning_tells_what_is_gone(tmp_path: Path) -> None:
    """Keys always, events when asked to; the number is known from then on."""
    async with open_desk(tmp_path) as desk:
        await desk.journal.commit(create(C1, key="k"))
        await desk.journal.commit(note(days=3))
        await desk.journal.prune(None, NOON + timedelta(days=1))
        assert (await desk.journal.keys(), desk.journal.pruned_through) == ((), 0)
        await desk.journal.prune(NOON + timedelta(days=1), NOON)
        assert desk.journal.pruned_through == 1


async def test_big_prune_holds_up_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits, and who looks for progress, have their turns in the middle of it, and what is kept is one piece."""
    monkeypatch.setattr("supervisor.journal.journal._MOST_IN_A_PRUNE", 100)
    async with open_desk(tmp_path) as desk:
        journal = desk.journal
        await journal.commit(note(count=5000))
        gone: set[int] = set()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(journal.prune, NOON + timedelta(days=1), NOON)
            while journal.pruned_through < 5000:
                await journal.commit(note(days=2))
                await journal.probe()
                kept = await journal.events(0, None, None, 10_000)
                assert [event.seq for event in kept] == [*range(journal.pruned_through + 1, journal.last_seq + 1)]
                gone.add(journal.pruned_through)
        assert len(gone) > 5


async def test_prune_that_is_broken_off_goes_on_where_it_was(tmp_path: Path) -> None:
    """What went is gone, and known to be; the next prune begins behind it."""
    async with open_desk(tmp_path) as desk:
        journal, store = desk.journal, desk.store
        await journal.commit(note(count=12_000))
        store.full_from = 10_000
        with pytest.raises(JournalError):
            await journal.prune(NOON + timedelta(days=1), NOON)
        assert journal.pruned_through == store.pruned_through() == 5000
        assert [event.seq for event in await journal.events(0, None, None, 1)] == [5001]
        store.full_from = None
        await journal.prune(NOON + timedelta(days=1), NOON)
        assert (journal.pruned_through, await journal.events(0, None, None, 1)) == (12_000, ())


async def test_database_that_cannot_be_used_is_a_journal_error(tmp_path: Path) -> None:
    """SQLite's errors do not leave the journal."""
    async with open_desk(tmp_path) as desk:
        desk.store._reader.execute("DROP TABLE events")
        desk.store._reader.execute("DROP TABLE idempotency_keys")
        with pytest.raises(JournalError, match="cannot be read"):
            await desk.journal.events(0, None, None, 5)
        with pytest.raises(JournalError, match="cannot be pruned"):
            await desk.journal.prune(NOON, NOON)
        with pytest.raises(JournalError, match="cannot be written"):
            await desk.journal.commit(note())
