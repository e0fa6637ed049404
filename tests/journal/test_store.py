"""The SQLite store, synchronously: all or nothing, in order, durable, and kept for as long as it was asked to."""

import shutil
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import attrs
import pytest

from supervisor.conversation.events import Deleted, StatusChanged
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import Intent
from supervisor.journal.changes import AlreadyExists, Delete, JudgedBefore, Update
from supervisor.journal.store import Store, Written
from tests.journal.samples import C1, C2, C3, NOON, create, note, record


@attrs.frozen
class Room:
    """So many bytes are free."""

    free: int


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store."""
    store = Store(tmp_path / "journal.db")
    yield store
    store.close()


def seqs(outcomes: list[Written | AlreadyExists | JudgedBefore]) -> list[list[int] | None]:
    """The sequence numbers of each change; None for one that was refused."""
    return [[event.seq for event in outcome.events] if isinstance(outcome, Written) else None for outcome in outcomes]


def test_store_is_as_durable_as_it_says(store: Store, tmp_path: Path) -> None:
    """Write-ahead log with FULL synchronisation."""
    assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)


def test_store_fills_its_log_at_once(store: Store, tmp_path: Path) -> None:
    """What is written from then on overwrites the log and makes it no longer; what was written before is kept."""
    log = tmp_path / "journal.db-wal"
    store.write([create(C1)])
    store.fill_log()
    full = log.stat().st_size
    assert full >= 4 * 1024**2
    for _ in range(50):
        store.write([note(C1)])
    assert log.stat().st_size == full
    assert (store.record(C1), store.last_seq()) == (record(C1), 51)


def test_store_leaves_a_disk_alone_that_has_little_room(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last megabytes are for what has to be written."""
    monkeypatch.setattr(shutil, "disk_usage", lambda where: Room(63 * 1024**2) if where == tmp_path else None)
    store.fill_log()
    assert (tmp_path / "journal.db-wal").stat().st_size < 1024**2


def test_store_numbers_events_without_a_gap(store: Store) -> None:
    """One global sequence, over batches, changes and conversations."""
    assert seqs(store.write([create(C1, events=2), create(C2), note(None, count=3)])) == [[1, 2], [3], [4, 5, 6]]
    assert seqs(store.write([note(C2)])) == [[7]]
    assert store.last_seq() == 7


def test_store_never_gives_a_number_twice(store: Store) -> None:
    """Also when everything was pruned, and in the next life."""
    store.write([create(events=5)])
    store.prune(store.newest_before(NOON + timedelta(days=1)))
    assert store.pruned_through() == 5
    assert seqs(store.write([note()])) == [[6]]


def test_store_refuses_a_taken_id_and_nothing_else(store: Store) -> None:
    """A creation that is refused leaves the others of its batch alone, and no event and no key."""
    store.write([create(C1)])
    outcomes = store.write([create(C2), create(C1, key="k"), note(C3), create(C2, key="l")])
    assert seqs(outcomes) == [[2], None, [3], None]
    assert isinstance(outcomes[1], AlreadyExists)
    assert (store.record(C2), store.keys()) == (record(C2), ())


def test_store_writes_a_batch_wholly_or_not_at_all(store: Store) -> None:
    """An error in the middle leaves nothing of the batch, and the store goes on."""
    broken = create(C2, key="\ud800")
    with pytest.raises(UnicodeEncodeError):
        store.write([create(C1), broken])
    assert (store.record(C1), store.last_seq()) == (None, 0)
    store.write([create(C1)])
    assert store.last_seq() == 1


def test_store_updates_and_deletes(store: Store) -> None:
    """The current record; its end takes its key along and leaves its events."""
    store.write([create(C1, key="k")])
    paused = attrs.evolve(record(), status=Status.PAUSED)
    store.write([Update(paused, (StatusChanged(Status.RUNNING, Status.PAUSED, "pause"),))])
    assert store.record(C1) == paused
    store.write([Delete(C1, NOON, ())])
    assert (store.record(C1), store.keys()) == (None, ())
    assert len(store.events(0, None, C1, 10)) == 2


def test_deleted_are_those_that_are_written_to_be(store: Store) -> None:
    """Neither one that was made anew, nor one that the journal has never known."""
    store.write([create(C1), create(C2)])
    store.write([Delete(C1, NOON, (Deleted(),)), Delete(C2, NOON, (Deleted(),)), create(C2)])
    assert store.deleted((C1, C2, C3), NOON) == {C1}
    assert store.deleted((C1, C2, C3), NOON + timedelta(seconds=1)) == frozenset()
    assert store.deleted((), NOON) == frozenset()


def test_store_keeps_its_id_and_contents(tmp_path: Path) -> None:
    """Opened again it is the same, under the same id."""
    store = Store(tmp_path / "journal.db")
    store.write([create(C1, key="k")])
    instance, keys = store.instance, store.keys()
    store.close()
    again = Store(tmp_path / "journal.db")
    assert (again.instance, again.record(C1), again.keys()) == (instance, record(), keys)
    assert (keys[0].conversation, keys[0].at) == (C1, NOON)
    again.close()


def test_live_records_are_those_that_need_an_actor(store: Store) -> None:
    """All but archived ones, and archived ones whose deletion was begun."""
    store.write([create(C1), create(C2), create(C3)])
    archived = attrs.evolve(record(C2), status=Status.ARCHIVED)
    store.write([Update(archived, ())])
    assert [live.id for live in store.live_records()] == [C1, C3]
    store.write([Update(attrs.evolve(archived, intent=Intent.DELETE), ())])
    assert [live.id for live in store.live_records()] == [C1, C2, C3]


def test_events_are_selected_by_number_and_conversation(store: Store) -> None:
    """After one number, up to another, of one conversation or of all, so many."""
    store.write([create(C1), create(C2), note(C1), note(None)])
    assert [event.seq for event in store.events(1, None, None, 10)] == [2, 3, 4]
    assert [event.seq for event in store.events(0, 3, None, 2)] == [1, 2]
    assert [event.seq for event in store.events(0, 3, C1, 10)] == [1, 3]
    (last,) = store.events(3, None, None, 10)
    assert (last.conversation, last.kind, last.at) == (None, "progress", NOON)
    assert last.data == '{"phase":"image","current":1,"total":2}'


def test_pruning_leaves_no_hole(store: Store) -> None:
    """A clock that was stepped back wrote old times after new ones: what is kept is one piece."""
    store.write([create(C1), note(days=5), note(days=1), note(days=9)])
    store.prune(store.newest_before(NOON + timedelta(days=2)))
    assert [event.seq for event in store.events(0, None, None, 10)] == [4]
    assert store.pruned_through() == 3
    assert store.newest_before(NOON) == 0


def test_keys_are_pruned_by_their_age(store: Store) -> None:
    """Old ones go, younger ones stay."""
    store.write([create(C1, key="old"), create(C2, key="new", at=NOON + timedelta(days=1))])
    store.prune_keys(NOON + timedelta(hours=1))
    (known,) = store.keys()
    assert known.key == "new"


def test_key_is_taken_over_by_a_later_start(store: Store) -> None:
    """A key that has ended may be used again while it is still recorded."""
    store.write([create(C1, key="k"), create(C2, key="k")])
    (known,) = store.keys()
    assert known.conversation == C2


def test_page_can_end_exactly(store: Store) -> None:
    """The last page says that it is the last, also when it is full."""
    store.write([create(C1), create(C2)])
    assert store.page((), {}, 2, 0).next_after is None
    first = store.page((), {}, 1, 0)
    assert first.next_after is not None
    assert [item.id for item in store.page((), {}, 1, first.next_after).records] == [C2]


def test_page_can_begin_with_the_newest(store: Store) -> None:
    """The same records the other way round, page after page, filtered alike."""
    store.write([create(C1), create(C2), create(C3)])
    first = store.page((), {}, 2, 0, newest_first=True)
    assert [item.id for item in first.records] == [C3, C2]
    assert first.next_after is not None
    last = store.page((), {}, 2, first.next_after, newest_first=True)
    assert ([item.id for item in last.records], last.next_after) == ([C1], None)
    assert store.page((Status.STOPPED,), {}, 2, 0, newest_first=True).records == ()


def test_label_filter_takes_no_part_of_a_name(store: Store) -> None:
    """Names and values are compared whole, whatever is in them."""
    odd = attrs.evolve(create(C1), record=attrs.evolve(record(), labels={"a.b'\"%": "x y", "n": "1"}))
    store.write([odd, create(C2)])
    assert [item.id for item in store.page((), {"a.b'\"%": "x y"}, 9, 0).records] == [C1]
    assert store.page((), {"a.b": "x y"}, 9, 0).records == ()
    assert store.page((), {"n": "1", "a.b'\"%": "x"}, 9, 0).records == ()


def test_snapshot_has_everything_and_its_number(store: Store) -> None:
    """In the order of creation."""
    store.write([create(C2), create(C1), note()])
    snapshot = store.snapshot()
    assert (snapshot.seq, [item.id for item in snapshot.records]) == (3, [C2, C1])


def test_snapshot_of_some_has_those_that_are_there(store: Store) -> None:
    """In the order of creation, too; none is not all, and any number can be asked for."""
    store.write([create(C3), create(C2), create(C1)])
    many = [ConversationId(f"x{number}") for number in range(50_000)]
    for ids, there in (((), []), ((C1, C3, "no'ne"), [C3, C1]), ((*many, C2), [C2])):
        snapshot = store.snapshot(frozenset(map(ConversationId, ids)))
        assert (snapshot.seq, [item.id for item in snapshot.records]) == (3, there)


@pytest.mark.parametrize("text", [b"this is no database, and long enough to be read as a header" * 20])
def test_file_that_is_no_database_is_refused(tmp_path: Path, text: bytes) -> None:
    """And it is left as it was."""
    path = tmp_path / "journal.db"
    path.write_bytes(text)
    with pytest.raises(sqlite3.DatabaseError):
        Store(path)
    assert path.read_bytes() == text


def test_second_connection_that_fails_closes_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is left behind by a store that could not be opened."""
    opened: list[sqlite3.Connection] = []
    connect = sqlite3.connect

    def second_fails(*args: object, **options: object) -> sqlite3.Connection:
        if opened:
            raise sqlite3.OperationalError("too many open files")
        opened.append(connect(tmp_path / "journal.db", isolation_level=None))
        return opened[0]

    monkeypatch.setattr(sqlite3, "connect", second_fails)
    with pytest.raises(sqlite3.OperationalError):
        Store(tmp_path / "journal.db")
    with pytest.raises(sqlite3.ProgrammingError):
        opened[0].execute("SELECT 1")
