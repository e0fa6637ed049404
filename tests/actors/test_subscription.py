"""Subscriptions: every event once, in order, durable before it is heard, and slow ones slow nobody."""

import sqlite3
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisor.actors.bus import FEED_LIMIT, Bus, Feed
from supervisor.control.service import SlowSubscriber, StartRequest, Subscription
from supervisor.conversation.errors import HistoryGone
from supervisor.conversation.events import Progress, RecordedEvent
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import Phase
from supervisor.journal.changes import Note
from supervisor.journal.store import Written
from tests.world import C1, SimulatedWallClock, World, open_world

C2 = ConversationId("c2")


async def note(world: World, count: int = 1) -> None:
    """Record some events at once."""
    events = tuple(Progress(Phase.IMAGE, number, count) for number in range(count))
    await world.supervision.journal.commit(Note(C1, SimulatedWallClock().now(), events))


async def take(subscription: Subscription, count: int) -> list[int]:
    """The sequence numbers of the next events."""
    events = aiter(subscription)
    seqs: list[int] = []
    with trio.fail_after(1000):
        await trio.lowlevel.checkpoint()
        while len(seqs) < count:
            event = await anext(events)
            seqs.append(event.seq)
    return seqs


async def test_subscription_begins_now(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without `since` everything after the sequence number that it answers, from the moment that it answers."""
    async with open_world(tmp_path) as world:
        await world.start()
        await trio.sleep(1)
        async with world.supervisor.subscribe(None, None, snapshot=False) as subscription:
            seq = subscription.seq
            assert (seq, subscription.conversations) == (world.supervision.journal.last_seq, None)
            for _ in range(5):
                await note(world)
            assert await take(subscription, 5) == list(range(seq + 1, seq + 6))


async def test_subscription_replays_and_goes_on(tmp_path: Path, autojump_clock: MockClock) -> None:
    """With `since` what is recorded and then what happens, page after page, without a gap or a repeat."""
    async with open_world(tmp_path) as world:
        await note(world, 1234)
        async with world.supervisor.subscribe(3, None, snapshot=False) as subscription:
            assert await take(subscription, 1200) == list(range(4, 1204))
            last = world.supervision.journal.last_seq
            await note(world)
            assert await take(subscription, last + 1 - 1203) == list(range(1204, last + 2))


@pytest.mark.parametrize("seed", range(6))
async def test_subscription_has_no_gap_while_events_are_committed(
    tmp_path: Path, autojump_clock: MockClock, seed: int
) -> None:
    """Writers write while it replays, joins and listens: each event once, in order."""
    random = Random(seed)
    async with open_world(tmp_path) as world:
        await note(world, random.randrange(1, 1100))

        async def write() -> None:
            await trio.lowlevel.checkpoint()
            for _ in range(60):
                await note(world)
                for _ in range(random.randrange(4)):
                    await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(write)
            snapshot = random.random() < 0.5
            async with world.supervisor.subscribe(0, None, snapshot=snapshot) as subscription:
                seen: list[int] = []
                with trio.move_on_after(100):
                    async for event in subscription:
                        seen.append(event.seq)
                        for _ in range(random.randrange(4)):
                            await trio.lowlevel.checkpoint()
        assert seen == list(range(1, world.supervision.journal.last_seq + 1))


async def test_subscription_from_another_journals_number_is_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A client that remembers more than there ever was hears so, and not nothing for a long time."""
    async with open_world(tmp_path) as world:
        last = world.supervision.journal.last_seq
        async with world.supervisor.subscribe(last, None, snapshot=False) as subscription:
            await note(world)
            assert await take(subscription, 1) == [last + 1]
        with pytest.raises(HistoryGone, match="is the number of no event here") as gone:
            async with world.supervisor.subscribe(last + 1000, None, snapshot=False):
                pass
        assert gone.value.oldest == 1


async def test_replay_that_is_overtaken_by_the_pruner_ends(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It is told to come back rather than given events with a gap between them."""
    async with open_world(tmp_path) as world:
        await note(world, 1234)
        async with world.supervisor.subscribe(0, None, snapshot=False) as subscription:
            assert await take(subscription, 500) == list(range(1, 501))
            now = SimulatedWallClock().now()
            await world.supervision.journal.prune(now + timedelta(days=1), now)
            with pytest.raises(SlowSubscriber):
                await take(subscription, 1)


async def test_snapshot_is_consistent_with_its_number(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The conversations as they are at `seq`, and after that every change, however it falls."""
    async with open_world(tmp_path) as world:
        await world.start(C2)
        for steps in range(40):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(world.start, ConversationId(f"x{steps}"), StartRequest(wait=False))
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                async with world.supervisor.subscribe(None, None, snapshot=True) as subscription:
                    known = {record.id: record.status for record in subscription.conversations or ()}
                    with trio.move_on_after(1):
                        async for event in subscription:
                            assert event.seq > subscription.seq
                            if event.kind == "created" and event.conversation is not None:
                                assert event.conversation not in known
                                known[event.conversation] = Status.STARTING
            assert len(known) == steps + 2


async def test_subscription_to_some_conversations_hears_no_others(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Replayed and live, and in the snapshot."""
    async with open_world(tmp_path) as world:
        await world.start()
        await world.start(C2)
        async with world.supervisor.subscribe(0, frozenset({C2}), snapshot=True) as subscription:
            assert [record.id for record in subscription.conversations or ()] == [C2]
            await world.stop()
            await world.stop(C2)
            heard: list[RecordedEvent] = []
            with trio.move_on_after(1):
                async for event in subscription:
                    heard += [event]
        assert heard == list(await world.events(C2))


async def test_event_is_durable_before_it_is_heard(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Whoever hears an event finds it in the database through another connection."""
    async with open_world(tmp_path) as world:
        other = sqlite3.connect(tmp_path / "journal.db")
        async with world.supervisor.subscribe(None, None, snapshot=False) as subscription:
            await world.start(request=StartRequest(wait=False))
            with trio.move_on_after(1):
                async for event in subscription:
                    (known,) = other.execute("SELECT count(*) FROM events WHERE seq = ?", (event.seq,)).fetchone()
                    assert known == 1
        other.close()


async def test_slow_subscriber_slows_nobody_and_can_come_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its own buffer overflows; with `since` it has the rest afterwards."""
    async with open_world(tmp_path) as world:
        await trio.sleep(1)
        async with (
            world.supervisor.subscribe(None, None, snapshot=False) as slow,
            world.supervisor.subscribe(None, None, snapshot=False) as quick,
        ):
            await note(world)
            first = (await take(slow, 1))[0]
            await take(quick, 1)
            for _ in range(5):
                await note(world, FEED_LIMIT // 4)
                assert len(await take(quick, FEED_LIMIT // 4)) == FEED_LIMIT // 4
            with pytest.raises(SlowSubscriber):
                await take(slow, 1)
            with pytest.raises(SlowSubscriber):
                await take(slow, 1)
            await note(world)
        async with world.supervisor.subscribe(first, None, snapshot=False) as again:
            assert await take(again, FEED_LIMIT) == list(range(first + 1, first + 1 + FEED_LIMIT))


async def test_subscription_that_ended_is_forgotten(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nobody collects events for someone who went away."""
    async with open_world(tmp_path) as world:
        async with world.supervisor.subscribe(None, None, snapshot=False) as subscription:
            await note(world)
            await take(subscription, 1)
            feed = subscription._feed  # type: ignore[attr-defined]  # what the service does not show
        await note(world)
        await wait_all_tasks_blocked()
        assert len(feed._events) == 0


async def test_history_that_is_gone_is_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After the retention: `history_gone` with the oldest number kept; from there on it works; numbers go on."""
    async with open_world(tmp_path, retention=timedelta(days=1).total_seconds()) as world:
        await world.start()
        await trio.sleep(1)
        gone = world.supervision.journal.last_seq
        await trio.sleep(timedelta(days=1, hours=2).total_seconds())
        await world.stop()
        for since in (0, gone - 1):
            with pytest.raises(HistoryGone) as caught:
                async with world.supervisor.subscribe(since, None, snapshot=False):
                    pass
            assert caught.value.oldest == gone + 1
        async with world.supervisor.subscribe(gone, None, snapshot=False) as subscription:
            assert await take(subscription, 1) == [gone + 1]
        assert (await world.supervisor.history(C1, 0, 1000))[0].seq == gone + 1
        engine, agent = world.engine, world.agent
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        with pytest.raises(HistoryGone):
            async with world.supervisor.subscribe(0, None, snapshot=False):
                pass
        assert world.record().status is Status.STOPPED


async def test_feed_can_be_waited_for_and_cancelled() -> None:
    """Waiting for an event ends by cancellation, and loses none."""
    bus, feed = Bus(), Feed(None)
    bus.open(feed)
    with trio.move_on_after(0):
        await feed.next()
    event = RecordedEvent(1, SimulatedWallClock().now(), None, "daemon", "{}")
    bus.publish([event])
    assert await feed.next() is event
    bus.close(feed)
    bus.close(feed)


async def test_snapshot_ahead_of_what_was_announced_repeats_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Committed but not announced when the snapshot was taken: it is in the snapshot, and is not told again."""
    async with open_world(tmp_path) as world:
        await trio.sleep(1)
        journal = world.supervision.journal
        change = Note(C1, SimulatedWallClock().now(), (Progress(Phase.IMAGE, 1, 1),))
        (ahead,) = journal._store.write([change])
        assert isinstance(ahead, Written)
        async with world.supervisor.subscribe(None, None, snapshot=True) as subscription:
            assert subscription.seq == ahead.events[0].seq
            with trio.move_on_after(1):
                await take(subscription, 1)
            journal._tell(list(ahead.events))
            await note(world)
            assert await take(subscription, 1) == [subscription.seq + 1]
