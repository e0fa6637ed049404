"""Deliveries: each notice at least once, in order, tried again for as long as makes sense."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio
from trio.testing import MockClock

from supervisor.alerts.delivery import Deliverer
from supervisor.alerts.sinks import NotDelivered, NoticeRefused, SinkName
from supervisor.conversation.alerts import AlertState
from supervisor.journal.changes import Judged, Notice
from supervisor.journal.journal import Journal
from supervisor.journal.ledger import Delivery
from tests.alerts.alerting import FakeSink
from tests.fakes.store import FaultyStore
from tests.world import SimulatedWallClock, inline

RAISED, OVER = AlertState.RAISED, AlertState.OVER


class Queue:
    """A journal with deliveries for one sink."""

    def __init__(self, store: FaultyStore, journal: Journal, sink: FakeSink) -> None:
        self.store = store
        self.journal = journal
        self.sink: FakeSink | None = sink
        self.deliverer = Deliverer(SinkName.WEBHOOK, lambda: self.sink, journal, SimulatedWallClock(), Random(0))

    async def add(self, *alerts: str, state: AlertState = RAISED, sink: SinkName = SinkName.WEBHOOK) -> None:
        """Queue notices of alerts."""
        body = '{"data": {"cause": "c", "state": "s"}}'
        notices = tuple(Notice(sink, alert, state, body) for alert in alerts)
        number = (await self.journal.judgement()).number
        await self.journal.commit(Judged(number, 0, SimulatedWallClock().now(), notices=notices))
        self.deliverer.wake()

    async def live(self) -> None:
        """Write what is committed, and deliver."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.journal.run)
            nursery.start_soon(self.deliverer.run)

    async def left(self) -> list[str]:
        """The alerts that are still queued."""
        return [delivery.alert for delivery in await self.journal.deliveries(SinkName.WEBHOOK, 0, 1000)]


@asynccontextmanager
async def open_queue(directory: Path, sink: FakeSink) -> AsyncIterator[Queue]:
    """A journal and its deliverer; leaving is like kill -9."""
    store = FaultyStore(directory / "journal.db")
    async with trio.open_nursery() as nursery:
        journal = Journal(store, lambda _: None, inline)
        queue = Queue(store, journal, sink)
        nursery.start_soon(queue.live)
        yield queue
        nursery.cancel_scope.cancel()
    store.close()


def times(sink: FakeSink) -> list[float]:
    """When it was tried, in seconds since the first time."""
    return [round(at - sink.tried[0][0], 1) for at, _ in sink.tried]


async def test_notices_are_told_in_order_and_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """More than a page of them, and only those of this sink."""
    sink = FakeSink()
    alerts = [f"a{number:03}" for number in range(250)]
    async with open_queue(tmp_path, sink) as queue:
        await queue.add("other", sink=SinkName.COMMAND)
        await queue.add(*alerts)
        await trio.sleep(1)
        assert [what for _, what in sink.tried] == [f"{alert} raised" for alert in alerts]
        assert await queue.left() == []


async def test_sink_that_does_not_answer_is_tried_ever_more_slowly(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The first notice only, with a growing and jittered wait of five minutes at most; then all of them, in order."""
    sink = FakeSink(NotDelivered("down"))
    async with open_queue(tmp_path, sink) as queue:
        await queue.add("a", "b")
        await trio.sleep(4000)
        waits = [later - earlier for earlier, later in zip(times(sink), times(sink)[1:], strict=False)]
        assert all(0.75 * 2**n <= wait <= 1.25 * 2**n for n, wait in enumerate(waits[:8]))
        assert all(225 <= wait <= 375 for wait in waits[9:])
        assert {what for _, what in sink.tried} == {"a raised"}
        sink.failure = None
        await trio.sleep(400)
        assert [what for _, what in sink.tried[-2:]] == ["a raised", "b raised"]
        assert await queue.left() == []
        sink.tried.clear()
        sink.failure = NotDelivered("down again")
        await queue.add("c")
        await trio.sleep(2)
        assert len(sink.tried) == 2


async def test_refused_notice_holds_up_its_own_alert_only(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Others are told meanwhile; that it is over is not told before that it was raised."""
    sink = FakeSink(fails=lambda one: NoticeRefused("400") if one.alert == "bad" else None)
    async with open_queue(tmp_path, sink) as queue:
        await queue.add("bad", "good")
        await queue.add("bad", "good", state=OVER)
        await trio.sleep(100)
        assert [what for _, what in sink.tried if what.startswith("good")] == ["good raised", "good over"]
        assert "bad over" not in [what for _, what in sink.tried]
        assert await queue.left() == ["bad", "bad"]
        sink.fails = lambda _: None
        await trio.sleep(300)
        assert [what for _, what in sink.tried[-2:]] == ["bad raised", "bad over"]


@pytest.mark.parametrize("failure", [NotDelivered("down"), NoticeRefused("400")], ids=repr)
async def test_notice_is_given_up_after_a_day(tmp_path: Path, autojump_clock: MockClock, failure: NotDelivered) -> None:
    """Refused or unanswered: it was tried until then, and what is younger is still tried."""
    async with open_queue(tmp_path, FakeSink(failure)) as queue:
        await queue.add("old")
        await trio.sleep(86_000)
        await queue.add("young")
        await trio.sleep(1000)
        assert await queue.left() == ["young"]


async def test_notice_that_is_old_is_tried_once_before_it_is_given_up(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A daemon that was away for days tells what it did not."""
    sink = FakeSink(NotDelivered("down"))
    async with open_queue(tmp_path, sink) as queue:
        await queue.add("a")
        await trio.sleep(1)
    await trio.sleep(10 * 86_400)
    sink.failure = None
    async with open_queue(tmp_path, sink) as queue:
        await trio.sleep(1)
        assert [body["data"]["cause"] for body in sink.bodies] == ["c"]
        assert await queue.left() == []


async def test_notice_is_told_again_if_that_it_was_could_not_be_written(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """At least once: a full disk makes it twice, never none."""
    sink = FakeSink()
    async with open_queue(tmp_path, sink) as queue:
        sink.fails = lambda _: setattr(queue.store, "full", True)
        await queue.add("a")
        await trio.sleep(1.5)
        sink.fails = lambda _: None
        queue.store.full = False
        await trio.sleep(10)
        assert [what for _, what in sink.tried] == ["a raised"] * len(sink.tried)
        assert 2 <= len(sink.tried) <= 3
        assert await queue.left() == []


async def test_what_is_queued_outlives_the_daemon(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Ended while the sink did not answer: the next life tells it."""
    sink = FakeSink(NotDelivered("down"))
    async with open_queue(tmp_path, sink) as queue:
        await queue.add("a", "b")
        await trio.sleep(10)
    sink.failure = None
    async with open_queue(tmp_path, sink) as queue:
        await trio.sleep(1)
        assert [what for _, what in sink.tried[-2:]] == ["a raised", "b raised"]
        assert await queue.left() == []


async def test_sink_that_was_taken_out_of_the_config_is_told_no_more(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What was queued for it goes, so that it does not pile up."""
    sink = FakeSink(NotDelivered("down"))
    async with open_queue(tmp_path, sink) as queue:
        await queue.add("a", "b")
        await trio.sleep(1.5)
        queue.sink = None
        tried = len(sink.tried)
        await trio.sleep(10)
        assert len(sink.tried) == tried
        assert await queue.left() == []


async def test_notice_that_is_refused_for_ever_makes_no_other_one_late(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What is queued later is told at once, and the refused one is tried no oftener for that."""
    sink = FakeSink(fails=lambda one: NoticeRefused("400") if one.alert == "bad" else None)
    async with open_queue(tmp_path, sink) as queue:
        await queue.add("bad")
        await trio.sleep(5000)
        tried = len(sink.tried)
        for number in range(20):
            await queue.add(f"good{number}")
            await queue.add("bad", state=OVER)
            await trio.sleep(1)
            assert await queue.left() == ["bad"] * (number + 2)
        assert len(sink.tried) - tried <= 21


class HangingSink(FakeSink):
    """Takes its time, and then does not answer."""

    async def tell(self, delivery: Delivery) -> None:
        """As the port says."""
        self.tried.append((trio.current_time(), f"{delivery.alert} {delivery.state}"))
        await trio.sleep(6 * 3600)
        raise NotDelivered("no answer")


async def test_queue_of_a_sink_that_hangs_is_bounded_by_its_age(tmp_path: Path, autojump_clock: MockClock) -> None:
    """More is raised than it could be asked about: what is too old goes with one try for all."""
    async with open_queue(tmp_path, HangingSink()) as queue:
        for hour in range(96):
            await queue.add(*(f"{hour}-{number}" for number in range(4)))
            await trio.sleep(3600)
        assert len(await queue.left()) <= 31 * 4
