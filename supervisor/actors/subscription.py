"""A subscription: first what the journal holds, then what the bus brings, with no gap and no repeat between."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

from supervisor.actors.bus import Bus, Feed
from supervisor.control.service import SlowSubscriber
from supervisor.conversation.errors import HistoryGone
from supervisor.conversation.events import RecordedEvent
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.record import ConversationRecord
from supervisor.journal.journal import Journal

_PAGE: Final = 500
_ALL: Final = 2**31


@attrs.define(eq=False)
class JournalSubscription:
    """Satisfies `supervisor.control.service.Subscription`; iterated once."""

    seq: int
    conversations: tuple[ConversationRecord, ...] | None
    _after: int
    _journal: Journal
    _bus: Bus
    _feed: Feed
    _replay: deque[RecordedEvent] = attrs.field(factory=deque, init=False)
    _live: bool = attrs.field(default=False, init=False)

    def __aiter__(self) -> AsyncIterator[RecordedEvent]:
        return self

    async def __anext__(self) -> RecordedEvent:
        """Replay page after page until the end is near, then join the bus and replay the rest up to there."""
        while not self._live and not self._replay:
            await self._read_on()
        if self._replay:
            await trio.lowlevel.checkpoint()
            return self._replay.popleft()
        while (event := await self._feed.next()).seq <= self._after:
            pass  # a snapshot may be ahead of what was announced
        return event

    async def _read_on(self) -> None:
        page = await self._recorded(_PAGE)
        if len(page) < _PAGE:
            self._bus.open(self._feed)
            self._live = True
            page = await self._recorded(_ALL)
        if page:
            self._after = page[-1].seq
        self._replay.extend(filter(self._feed.wants, page))

    async def _recorded(self, most: int) -> tuple[RecordedEvent, ...]:
        # What is committed but not announced yet will come by the bus.
        through = self._journal.last_seq
        page = await self._journal.events(self._after, through, None, most)
        if self._after < through and (not page or page[0].seq != self._after + 1):
            raise SlowSubscriber  # what it was to have next is no longer kept
        return page


@asynccontextmanager
async def subscribe(
    journal: Journal, bus: Bus, since: int | None, ids: frozenset[ConversationId] | None, *, snapshot: bool
) -> AsyncIterator[JournalSubscription]:
    """Open a subscription: everything after `since` (None: after now, or after the snapshot).

    Raises:
        HistoryGone: events after `since` are no longer kept, or `since` is none that this journal gave.
    """
    oldest = journal.pruned_through + 1
    if since is not None and since < oldest - 1:
        raise HistoryGone(f"events up to {oldest - 1} are no longer kept: take a snapshot and go on from there", oldest)
    if since is not None and since > journal.last_seq:
        raise HistoryGone(
            f"{since} is the number of no event here, the last is {journal.last_seq}: "
            "the journal is another one than it was, take a snapshot and go on from there",
            oldest,
        )
    seq, conversations = journal.last_seq, None
    if snapshot:
        taken = await journal.snapshot(ids)
        seq, conversations = taken.seq, taken.records
    feed = Feed(ids)
    try:
        yield JournalSubscription(seq, conversations, seq if since is None else since, journal, bus, feed)
    finally:
        bus.close(feed)
