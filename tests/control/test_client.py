"""The client library against the real server."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked
from trio_websocket import WebSocketConnection, wrap_server_stream

from supervisor.control import client_transport
from supervisor.control.address import TcpAddress, UnixAddress
from supervisor.control.client import (
    CannotConnect,
    ConnectionLost,
    ControlClient,
    NotAuthenticated,
    RemoteError,
    TooFarBehind,
    UnexpectedAnswer,
    connect,
    resumable_events,
)
from supervisor.control.listener import ControlOptions, ControlServer
from supervisor.conversation.errors import EngineUnavailable, ErrorCode, HistoryGone, ShuttingDown
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import Failure, FailureCode
from supervisor.conversation.spec import SpecOverrides
from tests.control.clients import PATIENCE, TOKEN, Running, eventually
from tests.control.conftest import parse_spec
from tests.control.scripted_service import NOW, SESSION_KEY, ScriptedService, make_event, make_record


@pytest.fixture
async def client(running: Running) -> AsyncIterator[ControlClient]:
    """A client on the Unix socket."""
    async with connect(running.unix) as connected:
        yield connected


async def test_client_has_every_method(running: Running, client: ControlClient) -> None:
    """Typed on both sides."""
    running.service.record = make_record(error=Failure(FailureCode.EXITED, "m", NOW, 1, False, ("x",)))
    started = await client.start("c9", spec={"image": "i"}, within=5, labels={"a": "b"}, wait=False)
    assert (started.id, started.status, started.created_at) == ("c9", Status.RUNNING, NOW)
    assert started.error is not None
    assert started.error.log_tail == ("x",)
    assert (await client.pause("c1", within=2)).status is Status.PAUSED
    assert (await client.resume("c1")).sandbox is not None
    stopped = await client.stop("c1", force=True)
    assert (stopped.conversation.status, stopped.was_running) == (Status.STOPPED, True)
    assert (await client.restart("c1")).incarnation == 1
    assert (await client.archive("c1")).status is Status.ARCHIVED
    await client.delete("c1")
    assert (await client.get("c1")).id == "c1"
    assert [one.id for one in (await client.list([Status.RUNNING], limit=5)).items] == ["c1", "c2"]
    assert [one.id for one in await client.list_all()] == ["c1", "c2", "c3"]
    assert (await client.connect("c1")).session_api_key == SESSION_KEY
    assert await client.logs("c1") == ("one", "two")
    assert [event.seq for event in await client.history("c1")] == [1, 2]
    assert (await client.info()).engine.version == "20.10"
    request = running.service.calls[0][1]
    assert getattr(request, "spec", None) == SpecOverrides(image="i")


async def test_client_authenticates_over_tcp(running: Running) -> None:
    """With the right token it is in; with a wrong one every call says so, and `connect` does not hang."""
    async with connect(running.tcp, TOKEN) as client:
        assert (await client.get("c1")).id == "c1"
    async with connect(running.tcp, "wrong") as client:
        with pytest.raises(NotAuthenticated) as caught:
            await client.get("c1")
        assert caught.value.code == 4401
        with pytest.raises(NotAuthenticated):
            await client.get("c1")


async def test_client_raises_the_daemons_errors(running: Running, client: ControlClient) -> None:
    """With code, message and data; malformed calls by their JSON-RPC names."""
    running.service.failure = HistoryGone("gone", 7)
    with pytest.raises(RemoteError, match="gone") as caught:
        await client.get("c1")
    assert caught.value.has(ErrorCode.HISTORY_GONE)
    assert caught.value.data == {"oldest": 7}
    with pytest.raises(RemoteError) as caught:
        await client.get("../x")
    assert (caught.value.code, caught.value.data) == ("invalid_params", {"path": "id"})


async def test_client_leaves_the_bodys_exceptions_as_they_are(running: Running) -> None:
    """No group around them, though there is a nursery inside."""
    with pytest.raises(KeyError):
        async with connect(running.unix):
            raise KeyError("mine")


async def test_client_can_be_cancelled(running: Running) -> None:
    """In the middle of a call; the connection of the others goes on."""
    running.service.gate = trio.Event()
    async with connect(running.unix) as client:
        with trio.move_on_after(0.01) as scope:
            await client.pause("c1")
        assert scope.cancelled_caught
        running.service.gate = None
        assert (await client.get("c1")).id == "c1"
    with trio.move_on_after(0.01) as scope:
        async with connect(running.unix):
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_client_pipelines(running: Running, client: ControlClient, nursery: trio.Nursery) -> None:
    """Many tasks share the connection; nobody waits for anybody else's answer."""
    running.service.gate = trio.Event()
    done: list[str] = []

    async def pause(name: str) -> None:
        await client.pause(name)
        done.append(name)

    for number in range(50):
        nursery.start_soon(pause, f"c{number}")
    await running.service.waiting.wait()
    running.service.gate.set()
    await eventually(lambda: len(done) == 50)


@pytest.mark.parametrize("address", [UnixAddress(Path("/nonexistent/s")), TcpAddress("127.0.0.1", 1)])
async def test_connect_says_that_nobody_listens(address: UnixAddress | TcpAddress) -> None:
    """With the address, on both kinds."""
    with pytest.raises(CannotConnect, match=str(address)):
        async with connect(address):
            raise AssertionError("it is in")


async def test_connect_says_that_it_was_refused(
    nursery: trio.Nursery, service: ScriptedService, tmp_path: Path
) -> None:
    """With the server's own sentence."""
    server = ControlServer(service, parse_spec, ControlOptions(max_connections=0))
    address = UnixAddress(tmp_path / "s")
    await nursery.start(server.run, [address])
    with pytest.raises(CannotConnect, match="HTTP 503: All"):
        async with connect(address):
            raise AssertionError("it is in")


Script = Callable[[WebSocketConnection], Awaitable[None]]


@asynccontextmanager
async def strange_daemon(address: UnixAddress, script: Script | None) -> AsyncIterator[None]:
    """A server that does what the script says; without one it does not even shake hands."""

    async def handle(stream: trio.SocketStream) -> None:
        async with stream, trio.open_nursery() as nursery:
            if script is None:
                await trio.sleep_forever()
            else:
                request = await wrap_server_stream(nursery, stream)
                await script(await request.accept())
            nursery.cancel_scope.cancel()

    with trio.socket.socket(trio.socket.AF_UNIX) as listening:
        await listening.bind(str(address.path))
        listening.listen()
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, handle, [trio.SocketListener(listening)])
            yield
            nursery.cancel_scope.cancel()


async def test_connect_gives_up_on_a_server_that_does_not_answer(tmp_path: Path) -> None:
    """After `within` seconds."""
    address = UnixAddress(tmp_path / "s")
    async with strange_daemon(address, None):
        with pytest.raises(CannotConnect, match="did not answer"):
            async with connect(address, within=0.01):
                raise AssertionError("it is in")


@pytest.mark.parametrize("answer", ["{", '"\\ud800"'])
async def test_frames_that_are_no_json_lose_the_connection(tmp_path: Path, answer: str) -> None:
    """Rather than leave the caller waiting."""

    async def script(socket: WebSocketConnection) -> None:
        await socket.get_message()
        await socket.send_message(answer)
        await trio.sleep_forever()

    address = UnixAddress(tmp_path / "s")
    async with strange_daemon(address, script), connect(address) as client:
        with pytest.raises(ConnectionLost):
            await client.get("c1")


async def test_answers_of_another_kind_are_refused_and_strays_ignored(tmp_path: Path) -> None:
    """What a newer or a broken daemon may send."""

    async def script(socket: WebSocketConnection) -> None:
        strays = [
            [],
            {"id": 99},
            {"id": "x"},
            {"method": "event"},
            {"method": "event", "params": {"subscription": "s"}},
        ]
        number = 0
        for result in ({"id": "c1"}, {"lines": "x"}, {}, {"no": "subscription"}):
            await socket.get_message()
            number += 1
            for stray in strays:
                await socket.send_message(json.dumps(stray))
            await socket.send_message(json.dumps({"id": number, "result": result}))
        await socket.get_message()
        await socket.send_message(json.dumps({"id": number + 1, "error": {"code": 7, "message": "odd"}}))
        await trio.sleep_forever()

    address = UnixAddress(tmp_path / "s")
    async with strange_daemon(address, script), connect(address) as client:
        with pytest.raises(UnexpectedAnswer, match="Conversation"):
            await client.get("c1")
        assert await client.logs("c1") == ("x",)
        with pytest.raises(UnexpectedAnswer, match="'lines'"):
            await client.logs("c1")
        with pytest.raises(UnexpectedAnswer, match="'subscription'"):
            async with client.subscribe():
                raise AssertionError("it is subscribed")
        with pytest.raises(RemoteError) as caught:
            await client.get("c1")
        assert caught.value.code == "internal"


async def test_lost_connection_reaches_everybody_who_waits(
    running: Running, client: ControlClient, nursery: trio.Nursery
) -> None:
    """Callers and subscribers alike, with the close code."""
    running.service.gate = trio.Event()
    codes: list[int] = []

    async def pause() -> None:
        with pytest.raises(ConnectionLost) as caught:
            await client.pause("c1")
        codes.append(caught.value.code)

    for _ in range(3):
        nursery.start_soon(pause)
    await eventually(lambda: running.service.held == 3)
    running.service.gate = None
    async with client.subscribe() as events:
        running.server.begin_shutdown()
        with pytest.raises(ConnectionLost, match="going away") as caught:
            await anext(events)
        assert caught.value.code == 1001
    await eventually(lambda: len(codes) == 3)
    assert codes == [1001] * 3


async def test_subscription_yields_events_and_unsubscribes_at_its_end(running: Running, client: ControlClient) -> None:
    """Replay, live, snapshot; none is lost between the answer and the first `async for`."""
    running.service.replay = (make_event(11, data='{"to":"RUNNING"}'), make_event(12, None))
    async with client.subscribe(since=10, ids=["c1"], snapshot=True) as events:
        assert events.seq == 10
        assert [one.id for one in events.conversations or ()] == ["c1"]
        running.service.publish(make_event(13))
        seen: list[tuple[object, ...]] = []
        async for event in events:
            seen.append((event.seq, event.conversation, event.kind, event.data))
            if event.seq == 13:
                break
    assert seen == [(11, "c1", "status", {"to": "RUNNING"}), (12, None, "status", {}), (13, "c1", "status", {})]
    await eventually(lambda: running.service.closed_subscriptions > 0)
    assert (await client.get("c1")).id == "c1"


async def test_follow_logs_yields_lines_to_their_end(running: Running, client: ControlClient) -> None:
    """A sandbox that ends ends them; an engine that goes away raises."""
    async with client.follow_logs("c1", tail=2) as lines:
        await running.service.followers[0].aclose()
        assert [line async for line in lines] == ["one", "two"]
    running.service.log_failure = EngineUnavailable("the engine went away")
    async with client.follow_logs("c1") as lines:
        await running.service.followers[1].aclose()
        with pytest.raises(RemoteError, match="went away"):
            assert [line async for line in lines] == []


async def test_slow_iteration_does_not_deadlock_with_calls(
    running: Running, client: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Events wait unread, and an answer still comes through behind them."""
    monkeypatch.setattr(client_transport, "_FEED_WAITS_AT", 2)
    running.service.replay = tuple(make_event(number) for number in range(11, 511))
    with trio.fail_after(PATIENCE):
        async with client.subscribe(since=10) as events:
            seen = []
            async for event in events:
                seen.append(event.seq)
                if event.seq % 50 == 0:
                    await client.get("c1")
                if event.seq == 510:
                    break
    assert seen == list(range(11, 511))


async def test_iteration_that_is_too_slow_for_what_can_be_kept_raises(
    running: Running, client: ControlClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When calls go on meanwhile, what is kept is bounded."""
    monkeypatch.setattr(client_transport, "_FEED_WAITS_AT", 2)
    monkeypatch.setattr(client_transport, "_FEED_BREAKS_AT", 4)
    running.service.replay = tuple(make_event(number) for number in range(11, 500))
    with trio.fail_after(PATIENCE):
        async with client.subscribe(since=10) as events:
            for _ in range(20):
                await client.get("c1")
            with pytest.raises(TooFarBehind):
                assert [event async for event in events] == []


async def test_resumable_events_go_on_after_a_loss_without_gap_or_repeat(
    nursery: trio.Nursery, service: ScriptedService, tmp_path: Path
) -> None:
    """The daemon restarts; the iteration just takes a little longer."""
    address = UnixAddress(tmp_path / "s")
    service.replay = (make_event(11), make_event(12))
    first = ControlServer(service, parse_spec, ControlOptions())
    await nursery.start(first.run, [address])
    with trio.fail_after(PATIENCE):
        async with resumable_events(address, since=10) as events:
            assert (await anext(events)).seq == 11
            assert (await anext(events)).seq == 12
            first.begin_shutdown()
            await eventually(lambda: not address.path.exists())
            service.replay += (make_event(13),)
            await nursery.start(ControlServer(service, parse_spec, ControlOptions()).run, [address])
            async for event in events:
                assert event.seq == 13
                break
    assert [call[1] for call in service.calls] == [10, 12]


async def test_resumable_events_go_on_from_where_they_were_when_nothing_came(
    nursery: trio.Nursery, service: ScriptedService, tmp_path: Path
) -> None:
    """The daemon dies after its answer and before the first event: that one is asked for again."""
    address = UnixAddress(tmp_path / "s")
    service.last_seq = 100
    first = ControlServer(service, parse_spec, ControlOptions())
    await nursery.start(first.run, [address])
    with trio.fail_after(PATIENCE):
        async with resumable_events(address, since=10) as events:
            await eventually(lambda: bool(service.subscribers))
            await wait_all_tasks_blocked(0.02)
            first.begin_shutdown()
            await eventually(lambda: not address.path.exists())
            service.replay = (make_event(11),)
            await nursery.start(ControlServer(service, parse_spec, ControlOptions()).run, [address])
            assert (await anext(events)).seq == 11
    assert [call[1] for call in service.calls] == [10, 10]


async def test_resumable_events_raise_what_waiting_does_not_heal(running: Running) -> None:
    """Events that are gone, a wrong token; a daemon that is shutting down is waited for."""
    running.service.failure = HistoryGone("gone", 7)
    with trio.fail_after(PATIENCE):
        async with resumable_events(running.unix, since=1) as events:
            with pytest.raises(RemoteError, match="gone"):
                await anext(events)
        async with resumable_events(running.tcp, "wrong") as events:
            with pytest.raises(NotAuthenticated):
                await anext(events)
        running.service.failure = ShuttingDown("not now")
        async with resumable_events(running.unix) as events, trio.open_nursery() as nursery:
            nursery.start_soon(anext, events)
            await wait_all_tasks_blocked(0.05)
            running.service.failure = None
            await eventually(lambda: bool(running.service.subscribers))
            running.service.publish(make_event(11))
