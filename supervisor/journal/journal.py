"""The journal: what happened, durable before anyone hears of it.

One task writes. It takes whatever is waiting as one transaction, commits it in a worker thread, announces the events in
the order of their sequence numbers and only then answers those who asked. Reads have a connection of their own.
"""

import sqlite3
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Protocol, TypeVar

import attrs
import trio

from supervisor.conversation.events import RecordedEvent
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord
from supervisor.journal.changes import Change, JournalError
from supervisor.journal.ledger import Delivery, Judgement
from supervisor.journal.store import KnownKey, RecordPage, Snapshot, Store, Written
from supervisor.threads import NoThread, in_thread

_T = TypeVar("_T")

# A disk that takes longer than this for one commit is a failed disk; the writer itself waits on.
_STALLED_AFTER = 60.0
_MOST_IN_A_BATCH = 500
_MOST_IN_A_PRUNE = 5000


class Offload(Protocol):
    """How a blocking call is run: in a worker thread; inline in simulations, whose clock knows no threads."""

    def __call__(self, call: Callable[[], _T], limiter: trio.CapacityLimiter) -> Awaitable[_T]:
        """Run the call and wait for what it returns; never abandoned, so that a connection has one user at a time.

        Raises:
            NoThread: the call was not begun.
        """


def _remedy(error: sqlite3.Error) -> str:
    full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL  # absent where the module itself raises
    return ": make room on the file system of the state_dir" if full else ""


@attrs.define(eq=False)
class _Waiting:
    change: Change
    done: trio.Event = attrs.field(factory=trio.Event)
    outcome: Written | Exception | None = None


class Journal:
    """The only way to the database. `announce` hears every event once, in order, after its commit."""

    def __init__(
        self, store: Store, announce: Callable[[Sequence[RecordedEvent]], None], offload: Offload = in_thread
    ) -> None:
        self._store = store
        self._announce = announce
        self._offload = offload
        self._writing = trio.CapacityLimiter(1)
        self._reading = trio.CapacityLimiter(1)
        self._copying = trio.CapacityLimiter(1)
        self._waiting: list[_Waiting] = []
        self._wakeup = trio.Event()
        self._written = trio.Event()
        self.last_seq = store.last_seq()
        self.pruned_through = store.pruned_through()

    @property
    def instance(self) -> str:
        """The id of this state directory, 32 hex digits; sandboxes carry it as their owner."""
        return self._store.instance

    async def commit(self, change: Change) -> None:
        """Record a change; when this returns it is durable and announced. Not cancellable once begun.

        Raises:
            AlreadyExists: a `Create` of an id that is taken.
            JudgedBefore: a `Judged` that does not go on from the last one.
            JournalError: it could not be written; nothing of it was. After a stall of the disk it may still be, until
                `probe` returns.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        waiting = _Waiting(change)
        self._waiting.append(waiting)
        self._wakeup.set()
        with trio.move_on_after(_STALLED_AFTER, shield=True):
            await waiting.done.wait()
        match waiting.outcome:
            case None:
                if waiting in self._waiting:
                    self._waiting.remove(waiting)  # behind the one that stalls: it will not be written any more
                raise JournalError(
                    f"a commit did not return in {_STALLED_AFTER:g} s: is the disk of the state_dir well?"
                )
            case Written():
                return
            case error:
                raise error

    async def run(self) -> None:
        """The writer; runs until it is cancelled, which waits for the batch under way."""
        while True:
            await self._wakeup.wait()
            self._wakeup = trio.Event()
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST_IN_A_BATCH], self._waiting[_MOST_IN_A_BATCH:]
                with trio.CancelScope(shield=True):  # bounded by SQLite's own busy time limit
                    await self._write(batch)

    async def probe(self) -> None:
        """Return when what is being written is: a sign of progress, and the end of doubt about what was given up on."""
        async with self._writing:
            pass

    async def next_success(self) -> None:
        """Wait until a commit succeeds, whoever's: for those whose own did not."""
        await self._written.wait()

    async def prune(self, events_before: datetime | None, keys_before: datetime) -> None:
        """Forget events (None: none of them) and idempotency keys of before these times.

        However many there are, they hold up no commit: they go a few at a time, and the writer has turns in between.

        Raises:
            JournalError: the database could not be written.
        """
        try:
            await self._offload(partial(self._store.prune_keys, keys_before), self._writing)
            if events_before is not None:
                await self._prune_events(events_before)
        except (sqlite3.Error, NoThread) as error:
            raise JournalError(f"the journal cannot be pruned: {error}") from error

    async def record(self, conversation: ConversationId) -> ConversationRecord | None:
        """One conversation's record as it was last committed."""
        return await self._read(partial(self._store.record, conversation))

    async def deleted(self, ids: Collection[ConversationId], since: datetime) -> frozenset[ConversationId]:
        """Which of these conversations have no record, and an event since a time that says that they were deleted."""
        return await self._read(partial(self._store.deleted, ids, since))

    async def live_records(self) -> tuple[ConversationRecord, ...]:
        """Every record that needs an actor."""
        return await self._read(self._store.live_records)

    async def keys(self) -> tuple[KnownKey, ...]:
        """Every idempotency key that is kept."""
        return await self._read(self._store.keys)

    async def page(
        self,
        statuses: Sequence[Status],
        labels: Mapping[str, str],
        limit: int,
        after: int,
        *,
        newest_first: bool = False,
    ) -> RecordPage:
        """Records in the order of their creation, or the other way round, after an ordinal; 0 for the first page."""
        return await self._read(partial(self._store.page, statuses, labels, limit, after, newest_first=newest_first))

    async def events(
        self, after: int, through: int | None, conversation: ConversationId | None, limit: int
    ) -> tuple[RecordedEvent, ...]:
        """Recorded events with `after < seq <= through`, oldest first, at most `limit`."""
        return await self._read(partial(self._store.events, after, through, conversation, limit))

    async def snapshot(self, ids: Collection[ConversationId] | None = None) -> Snapshot:
        """All conversations, or those of these ids, consistent with a sequence number; no other read waits for it."""
        return await self._query(partial(self._store.snapshot, ids), self._copying)

    async def judgement(self) -> Judgement:
        """How far the rules of the alerts have come, and which alerts are not over."""
        return await self._read(self._store.judgement)

    async def deliveries(self, sink: str, after: int, limit: int) -> tuple[Delivery, ...]:
        """What a sink has still to be told, oldest first, after one delivery's number; at most `limit`."""
        return await self._read(partial(self._store.deliveries, sink, after, limit))

    async def _prune_events(self, before: datetime) -> None:
        through = await self._offload(partial(self._store.newest_before, before), self._writing)
        while self.pruned_through < through:
            step = min(through, self.pruned_through + _MOST_IN_A_PRUNE)
            await self._offload(partial(self._store.prune, step), self._writing)
            self.pruned_through = step

    async def _write(self, batch: list[_Waiting]) -> None:
        outcomes = await self._try(tuple(waiting.change for waiting in batch))
        self._tell([event for outcome in outcomes if isinstance(outcome, Written) for event in outcome.events])
        await trio.lowlevel.checkpoint()  # those who listen get it while those who asked are still waking up
        if any(isinstance(outcome, Written) for outcome in outcomes):
            self._written.set()
            self._written = trio.Event()
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.outcome = outcome
            waiting.done.set()

    async def _try(self, changes: Sequence[Change]) -> Sequence[Written | Exception]:
        try:
            return await self._offload(partial(self._attempt, changes), self._writing)
        except NoThread as error:
            await trio.lowlevel.checkpoint()
            return [JournalError(f"the journal cannot be written: {error}") for _ in changes]

    def _attempt(self, changes: Sequence[Change]) -> Sequence[Written | Exception]:
        try:
            return self._store.write(changes)
        except sqlite3.Error as error:
            return [JournalError(f"the journal cannot be written: {error}{_remedy(error)}") for _ in changes]
        except Exception as error:  # noqa: BLE001 - a change that cannot be written down harms nobody else's
            if len(changes) == 1:
                return [error]
            return [outcome for change in changes for outcome in self._attempt([change])]

    def _tell(self, events: Sequence[RecordedEvent]) -> None:
        if events:
            self.last_seq = events[-1].seq
            self._announce(events)

    async def _read(self, query: Callable[[], _T]) -> _T:
        return await self._query(query, self._reading)

    async def _query(self, query: Callable[[], _T], connection: trio.CapacityLimiter) -> _T:
        try:
            return await self._offload(query, connection)
        except (sqlite3.Error, NoThread) as error:
            raise JournalError(f"the journal cannot be read: {error}") from error
