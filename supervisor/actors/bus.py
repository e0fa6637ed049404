"""The event bus: what the journal has committed, handed to every feed without waiting for any.

Those who wait for an event are woken a few at a time: a thousand at once would hold up every request until the last of
them was served.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final

import trio

from supervisor.control.service import SlowSubscriber
from supervisor.conversation.events import RecordedEvent
from supervisor.conversation.ids import ConversationId

FEED_LIMIT: Final = 1000
WOKEN_AT_ONCE: Final = 8
"""How many feeds are woken before everything else has its turn."""


class Feed:
    """One subscriber's bounded buffer of events to come."""

    def __init__(self, ids: frozenset[ConversationId] | None, limit: int = FEED_LIMIT) -> None:
        self._ids = ids
        self._limit = limit
        self._events: deque[RecordedEvent] = deque()
        self._overflowed = False
        self._arrived = trio.Event()

    def offer(self, event: RecordedEvent) -> bool:
        """Buffer an event if it is wanted; overflowing ends the feed and never waits. Says whether to `wake` it."""
        if self._overflowed or not self.wants(event):
            return False
        if len(self._events) >= self._limit:
            self._events.clear()
            self._overflowed = True
        else:
            self._events.append(event)
        return True

    def wake(self) -> None:
        """Let who waits see what came."""
        self._arrived.set()

    def wants(self, event: RecordedEvent) -> bool:
        """Whether the subscriber asked for this conversation's events."""
        return self._ids is None or event.conversation in self._ids

    async def next(self) -> RecordedEvent:
        """The next event, at once if there is one: who drains it has no other task between two events.

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
        self._due: OrderedDict[Feed, None] = OrderedDict()
        self._more_due = trio.Event()

    def publish(self, events: Sequence[RecordedEvent]) -> None:
        """Offer events, in order, to every feed."""
        for event in events:
            for feed in self._feeds:
                if feed.offer(event):
                    self._due[feed] = None
        self._wake_some()  # at once: where few listen, none of them waits for `run`
        if self._due:
            self._more_due.set()

    async def run(self) -> None:
        """Wake all others who wait for what was published; runs until it is cancelled."""
        while True:
            await self._more_due.wait()
            self._more_due = trio.Event()
            while self._due:
                await trio.lowlevel.checkpoint()
                self._wake_some()

    def _wake_some(self) -> None:
        for _ in range(min(WOKEN_AT_ONCE, len(self._due))):
            feed, _ = self._due.popitem(last=False)
            feed.wake()

    def open(self, feed: Feed) -> None:
        """Let a feed have everything that is published from now on."""
        self._feeds.add(feed)

    def close(self, feed: Feed) -> None:
        """Forget a feed."""
        self._feeds.discard(feed)
