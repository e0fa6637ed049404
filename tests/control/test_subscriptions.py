"""Subscriptions of events and of log lines."""

import json

import pytest

from supervisor.control.connection import ConnectionLimits
from supervisor.conversation.errors import EngineUnavailable, HistoryGone, NotFound
from tests.control.clients import Running, ask, close_code, eventually, receive, websocket
from tests.control.scripted_service import ScriptedService, make_event


@pytest.fixture
def limits() -> ConnectionLimits:
    """A small outbox, so that replays have to wait for room."""
    return ConnectionLimits(outbox_frames=2, subscriptions=2)


def seq(frame: dict[str, object]) -> int:
    """The number of the event in a frame."""
    params = frame["params"]
    assert isinstance(params, dict)
    return int(params["event"]["seq"])


async def closed_subscriptions(service: ScriptedService, count: int) -> None:
    """Wait until the service has seen so many end."""
    await eventually(lambda: service.closed_subscriptions >= count)


async def test_subscribe_answers_before_the_first_event(running: Running) -> None:
    """Even if events are there already; then comes the replay, then what is live, each once and in order."""
    running.service.replay = tuple(make_event(number) for number in range(11, 111))
    async with websocket(running.unix) as client:
        answer = await ask(client, "events.subscribe", {"since": 10, "snapshot": True})
        assert answer["result"]["subscription"] == "s1"
        assert answer["result"]["seq"] == 10
        assert [one["id"] for one in answer["result"]["conversations"]] == ["c1"]
        running.service.publish(make_event(111))
        assert [seq(await receive(client)) for _ in range(101)] == list(range(11, 112))
    await closed_subscriptions(running.service, 1)


async def test_subscribe_in_a_batch_answers_first_too(running: Running) -> None:
    """The whole batch's answer goes before any event."""
    running.service.replay = (make_event(11),)
    async with websocket(running.unix) as client:
        request = {"jsonrpc": "2.0", "id": 1, "method": "events.subscribe", "params": {"since": 10}}
        await client.send_message(json.dumps([request, {"jsonrpc": "2.0", "id": 2, "method": "daemon.info"}]))
        assert {one["id"] for one in await receive(client)} == {1, 2}
        assert seq(await receive(client)) == 11


async def test_subscribe_without_a_snapshot_has_no_conversations(running: Running) -> None:
    """And passes on what was asked for."""
    async with websocket(running.unix) as client:
        answer = await ask(client, "events.subscribe", {"ids": ["c1"]})
        assert answer["result"] == {"subscription": "s1", "seq": 10}
    assert running.service.calls == [("subscribe", None, frozenset({"c1"}), False)]


async def test_subscriptions_of_one_connection_are_independent_and_limited(running: Running) -> None:
    """Each has its name; one more than allowed is busy; one that ended makes room."""
    async with websocket(running.unix) as client:
        names = [(await ask(client, "events.subscribe"))["result"]["subscription"] for _ in range(2)]
        assert names == ["s1", "s2"]
        assert (await ask(client, "events.subscribe"))["error"]["data"]["code"] == "busy"
        running.service.publish(make_event(11))
        assert {(await receive(client))["params"]["subscription"] for _ in range(2)} == {"s1", "s2"}
        assert (await ask(client, "events.unsubscribe", {"subscription": "s1"}))["result"] == {}
        assert (await ask(client, "events.subscribe"))["result"]["subscription"] == "s3"


async def test_unsubscribe_is_the_last_that_is_heard_of_a_subscription(running: Running) -> None:
    """Nothing of it follows the answer, and the service's side is closed."""
    running.service.replay = tuple(make_event(number) for number in range(11, 1000))
    async with websocket(running.unix) as client:
        await ask(client, "events.subscribe", {"since": 10})
        await client.send_message(
            json.dumps({"jsonrpc": "2.0", "id": 7, "method": "events.unsubscribe", "params": {"subscription": "s1"}})
        )
        while (await receive(client)).get("id") != 7:
            pass
        await closed_subscriptions(running.service, 1)
        assert (await ask(client, "daemon.info"))["id"] == 1
        again = await ask(client, "events.unsubscribe", {"subscription": "s1"})
        assert again["error"]["data"]["code"] == "not_found"


async def test_subscribe_passes_the_services_refusal_on(running: Running) -> None:
    """With its data; nothing is left behind."""
    running.service.failure = HistoryGone("gone", 5)
    async with websocket(running.unix) as client:
        for _ in range(3):
            answer = await ask(client, "events.subscribe", {"since": 1})
            assert answer["error"]["data"] == {"code": "history_gone", "oldest": 5}


async def test_slow_subscriber_is_closed_with_1013(running: Running) -> None:
    """It can come back with `since`."""
    async with websocket(running.unix) as client:
        await ask(client, "events.subscribe")
        running.service.overflow()
        assert await close_code(client) == 1013


async def test_subscription_that_fails_is_closed_with_1011(running: Running) -> None:
    """Going on in silence would be a gap."""
    async with websocket(running.unix) as client:
        await ask(client, "events.subscribe")
        for subscriber in running.service.subscribers:
            subscriber.send_nowait(RuntimeError("a bug"))
        assert await close_code(client) == 1011


async def test_subscription_that_the_daemon_ends_is_closed_with_1001(running: Running) -> None:
    """It ends only with the daemon."""
    async with websocket(running.unix) as client:
        await ask(client, "events.subscribe")
        for subscriber in running.service.subscribers:
            await subscriber.aclose()
        assert await close_code(client) == 1001


async def test_subscription_whose_end_fails_ends_nothing_else(running: Running) -> None:
    """A bug in the service's cleaning up is logged, and that is all."""
    running.service.closing_failure = RuntimeError("a bug")
    async with websocket(running.unix) as client:
        await ask(client, "events.subscribe")
        for subscriber in running.service.subscribers:
            await subscriber.aclose()
        assert await close_code(client) == 1001


async def test_logs_answer_with_the_last_lines(running: Running) -> None:
    """Without `follow`."""
    async with websocket(running.unix) as client:
        answer = await ask(client, "conversation.logs", {"id": "c1", "tail": 2})
    assert answer["result"] == {"lines": ["one", "two"]}
    assert running.service.calls == [("logs", "c1", 2)]


async def test_followed_logs_come_as_notifications_until_they_end(running: Running) -> None:
    """First the answer, then the lines, then `log.end`; the connection goes on."""
    async with websocket(running.unix) as client:
        answer = await ask(client, "conversation.logs", {"id": "c1", "follow": True})
        assert answer["result"] == {"subscription": "s1", "lines": []}
        running.service.followers[0].send_nowait("three")
        await running.service.followers[0].aclose()
        frames = [await receive(client) for _ in range(4)]
        assert [frame["params"].get("line") for frame in frames] == ["one", "two", "three", None]
        assert [frame["method"] for frame in frames] == ["log.line"] * 3 + ["log.end"]
        assert frames[3]["params"] == {"subscription": "s1"}
        assert "result" in await ask(client, "daemon.info")


@pytest.mark.parametrize(
    ("failure", "code"),
    [(EngineUnavailable("the engine went away"), "engine_unavailable"), (RuntimeError(), "internal")],
)
async def test_followed_logs_that_fail_say_why(running: Running, failure: Exception, code: str) -> None:
    """In `log.end`, without a traceback."""
    running.service.lines = ()
    running.service.log_failure = failure
    async with websocket(running.unix) as client:
        await ask(client, "conversation.logs", {"id": "c1", "follow": True})
        await running.service.followers[0].aclose()
        end = await receive(client)
        assert end["method"] == "log.end"
        assert end["params"]["error"]["code"] == code
        assert "Traceback" not in json.dumps(end)


async def test_followed_logs_can_be_refused_and_ended(running: Running) -> None:
    """By the service, and by the client."""
    running.service.failure = NotFound("no such conversation")
    async with websocket(running.unix) as client:
        answer = await ask(client, "conversation.logs", {"id": "c1", "follow": True})
        assert answer["error"]["data"]["code"] == "not_found"
        running.service.failure = None
        running.service.lines = ()
        await ask(client, "conversation.logs", {"id": "c1", "follow": True})
        assert (await ask(client, "events.unsubscribe", {"subscription": "s2"}))["result"] == {}
