"""The event bus: what the journal has committed, handed to every feed without waiting for any."""

from collections import deque
from collections.abc import Sequence
from typing import Final

import trio

from supervisor.control.service import SlowSubscriber
from supervisor.conversation.events import RecordedEvent
from supervisor.conversation.ids import ConversationId

FEED_LIMIT: Final = 1000


class Feed:
    """One subscriber's bounded buffer of events to come."""

    def __init__(self, ids: frozenset[ConversationId] | None, limit: int = FEED_LIMIT) -> None:
        self._ids = ids
        self._limit = limit
        self._events: deque[RecordedEvent] = deque()
        self._overflowed = False
        self._arrived = trio.Event()

    def offer(self, event: RecordedEvent) -> None:
        """Buffer an event if it is wanted; overflowing ends the feed and never waits."""
        if self._overflowed or not self.wants(event):
            return
        if len(self._events) >= self._limit:
            self._events.clear()
            self._overflowed = True
        else:
            self._events.append(event)
        self._arrived.set()

    def wants(self, event: RecordedEvent) -> bool:
        """Whether the subscriber asked for this conversation's events."""
        return self._ids is None or event.conversation in self._ids

    async def next(self) -> RecordedEvent:
        """Wait for the next event.

        Raises:
            SlowSubscriber: the buffer overflowed.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._events:
            if self._overflowed:
                raise SlowSubscriber
            self._arrived = trio.Event()
            await self._arrived.wait()
        return self._events.popleft()


class Bus:
    """All feeds."""

    def __init__(self) -> None:
        self._feeds: set[Feed] = set()

    def publish(self, events: Sequence[RecordedEvent]) -> None:
        """Offer events, in order, to every feed."""
        for event in events:
            for feed in self._feeds:
                feed.offer(event)

    def open(self, feed: Feed) -> None:
        """Let a feed have everything that is published from now on."""
        self._feeds.add(feed)

    def close(self, feed: Feed) -> None:
        """Forget a feed."""
        self._feeds.discard(feed)
