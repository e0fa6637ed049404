"""The bus: every feed has every event, and those who wait are woken a few at a time."""

from itertools import pairwise

import trio
from trio.testing import wait_all_tasks_blocked

from supervisor.actors.bus import WOKEN_AT_ONCE, Bus, Feed
from supervisor.conversation.events import RecordedEvent
from supervisor.conversation.ids import ConversationId
from tests.world import C1, SimulatedWallClock

MANY = 10 * WOKEN_AT_ONCE


def event(seq: int, conversation: ConversationId | None = None) -> RecordedEvent:
    """Something to publish."""
    return RecordedEvent(seq, SimulatedWallClock().now(), conversation, "daemon", "{}")


async def open_feeds(bus: Bus, nursery: trio.Nursery, count: int) -> list[list[int]]:
    """Feeds that somebody reads; what each of them has heard."""
    heard: list[list[int]] = [[] for _ in range(count)]

    async def read(feed: Feed, seqs: list[int]) -> None:
        while True:
            seqs.append((await feed.next()).seq)

    for seqs in heard:
        feed = Feed(None)
        bus.open(feed)
        nursery.start_soon(read, feed, seqs)
    nursery.start_soon(bus.run)
    await wait_all_tasks_blocked()
    return heard


async def test_many_who_wait_are_woken_a_few_at_a_time() -> None:
    """Between them everything else has its turn: no round of the loop is longer for a thousand than for some."""
    async with trio.open_nursery() as nursery:
        bus = Bus()
        heard = await open_feeds(bus, nursery, MANY)
        bus.publish([event(1)])
        rounds = [0]
        while rounds[-1] < MANY:
            await trio.lowlevel.checkpoint()
            rounds.append(sum(map(len, heard)))
        # We may have our turn early in one round and late in the next.
        assert max(after - before for before, after in pairwise(rounds)) <= 2 * WOKEN_AT_ONCE
        nursery.cancel_scope.cancel()


async def test_events_that_come_while_some_are_still_to_be_woken_reach_all_in_order() -> None:
    """Whoever was woken before them, or was about to be, or reads already."""
    async with trio.open_nursery() as nursery:
        bus = Bus()
        heard = await open_feeds(bus, nursery, MANY)
        for seq in range(1, 31):
            bus.publish([event(seq)])
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        assert heard == [list(range(1, 31))] * MANY
        nursery.cancel_scope.cancel()


async def test_who_does_not_want_an_event_is_not_woken() -> None:
    """A subscriber to one conversation sleeps while the others churn."""
    async with trio.open_nursery() as nursery:
        bus, wanted = Bus(), Feed(frozenset({C1}))
        bus.open(wanted)
        nursery.start_soon(bus.run)
        nursery.start_soon(wanted.next)
        await wait_all_tasks_blocked()
        arrived = wanted._arrived
        bus.publish([event(1), event(2, ConversationId("c2"))])
        await wait_all_tasks_blocked()
        assert not arrived.is_set()
        bus.publish([event(3, C1)])
        await wait_all_tasks_blocked()
        assert arrived.is_set()
        nursery.cancel_scope.cancel()


async def test_feed_that_is_closed_before_its_turn_holds_up_nobody() -> None:
    """It went away while it was due."""
    async with trio.open_nursery() as nursery:
        bus, gone = Bus(), Feed(None)
        bus.open(gone)
        heard = await open_feeds(bus, nursery, 1)
        bus.publish([event(1)])
        bus.close(gone)
        await wait_all_tasks_blocked()
        assert heard == [[1]]
        nursery.cancel_scope.cancel()
