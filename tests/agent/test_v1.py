import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio_websocket import WebSocketConnection

from supervisor.agent import V1Driver, events_socket, open_v1_driver
from supervisor.agent import v1 as v1_module
from supervisor.agent.v1 import agent_conversation_id
from supervisor.conversation.errors import AgentRefused, AgentUnavailable
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.record import ExecutionStatus
from tests.agent.pausing import pause
from tests.agent.stub import CONVERSATION, KEY, PATH, SECRET, Reply, Script, StubAgent, change, full, info, sending

GET = f"GET {PATH}"
START = "POST /api/conversations"
RUN, PAUSE, INTERRUPT = (f"POST {PATH}/{what}" for what in ("run", "pause", "interrupt"))
LAST_MESSAGE = f"GET {PATH}/events/search?kind=MessageEvent&sort_order=TIMESTAMP_DESC&limit=1"
SECONDS = 5


@asynccontextmanager
async def following(driver: V1Driver, agent: StubAgent) -> AsyncIterator[trio.MemoryReceiveChannel[ExecutionStatus]]:
    """Follow the stub; what is reported comes out of the channel."""
    reports, told = trio.open_memory_channel[ExecutionStatus](100)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(driver.follow, agent.session, reports.send_nowait)
            yield told
            nursery.cancel_scope.cancel()


def on_cue(cue: trio.Event, *frames: str) -> Script:
    """A socket that says what it has to say at the cue, and then stays open."""

    async def script(connection: WebSocketConnection) -> None:
        await cue.wait()
        await sending(*frames)(connection)

    return script


def test_agent_conversation_id_keeps_uuids_and_derives_the_rest() -> None:
    """A UUID is used as it is; any other id always gives the same UUID of version 5, and each its own."""
    assert str(agent_conversation_id(ConversationId(CONVERSATION))) == CONVERSATION
    derived = agent_conversation_id(ConversationId("c1"))
    assert derived == agent_conversation_id(ConversationId("c1")) == uuid.UUID("45dac88a-cef9-5c8f-9a63-ca12cdf68b88")
    assert derived != agent_conversation_id(ConversationId("c2"))


async def test_v1_environment_keeps_all_state_in_the_workspace() -> None:
    """What the server writes outlives its container; its key does not, but the secret that it encrypts with does."""
    async with open_v1_driver() as driver:
        environment = driver.environment("k", "secret", "/workspace/")
        assert driver.name == "v1"
    places = {name: value for name, value in environment.items() if "/" in value}
    assert set(places) == {
        "HOME",
        "OH_BASH_EVENTS_DIR",
        "OH_CONVERSATIONS_PATH",
        "OH_PERSISTENCE_DIR",
        "OH_WORKSPACE_PATH",
    }
    assert all(value.startswith("/workspace/") and "//" not in value for value in places.values())
    assert (environment["OH_SESSION_API_KEYS_0"], environment["OH_SECRET_KEY"]) == ("k", "secret")
    assert environment["OH_LEASE_TTL_SECONDS"] == "0"
    assert environment["LITELLM_LOCAL_MODEL_COST_MAP"] == "True"


async def test_v1_wait_ready_asks_until_the_server_is_ready(
    agent: StubAgent, driver: V1Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed connections, errors and hangs of a booting server are all tried again."""
    monkeypatch.setattr(v1_module, "_READY_SECONDS", 0.05)
    agent.on("GET /ready", Reply(raw=b""), Reply(503), Reply(hang=True), Reply(200, b'{"status":"ready"}'))
    with trio.fail_after(SECONDS):
        await driver.wait_ready(agent.session)
    assert agent.lines == ["GET /ready"] * 4


async def test_v1_wait_ready_is_refused_by_something_else(agent: StubAgent, driver: V1Driver) -> None:
    """A server that knows no `/ready` is none of ours, and waiting will not change that."""
    with pytest.raises(AgentRefused):
        await driver.wait_ready(agent.session)


async def test_v1_probe_asks_for_the_health(agent: StubAgent, driver: V1Driver) -> None:
    """A healthy server lives, any other does not."""
    agent.on("GET /health", Reply(200, b'{"status":"ok"}'), Reply(500))
    await driver.probe(agent.session)
    with pytest.raises(AgentUnavailable):
        await driver.probe(agent.session)


async def test_v1_shows_nothing_to_who_may_be_anybody(agent: StubAgent, driver: V1Driver) -> None:
    """Whether the server is ready, or lives, is asked without the key, which need not be known for the answer."""
    agent.on("GET /ready", Reply(503), Reply(200))
    agent.on("GET /health", Reply(200), Reply(401))
    await driver.wait_ready(agent.session)
    await driver.probe(agent.session)
    with pytest.raises(AgentRefused):
        await driver.probe(agent.session)
    assert len(agent.requests) == 4
    told = "".join(f"{request.line}{request.headers}{request.body!r}" for request in agent.requests)
    assert KEY not in told
    assert SECRET not in told


async def test_v1_begin_fills_in_only_what_we_own(agent: StubAgent, driver: V1Driver) -> None:
    """The caller's body goes to the server as it is, with the id and a missing working directory."""
    agent.on(START, Reply(201, info("idle").body))
    assert await driver.begin(agent.session, {"agent_settings": {"a": 1}}, go_on=False) is ExecutionStatus.IDLE
    assert agent.requests[0].json() == {
        "agent_settings": {"a": 1},
        "conversation_id": CONVERSATION,
        "workspace": {"working_dir": "/workspace"},
    }


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ({"kind": "LocalWorkspace"}, {"working_dir": "/workspace", "kind": "LocalWorkspace"}),
        ({"working_dir": "/elsewhere"}, {"working_dir": "/elsewhere"}),
        ("odd", "odd"),
        (None, None),
    ],
)
async def test_v1_begin_leaves_the_callers_workspace(
    agent: StubAgent, driver: V1Driver, given: object, sent: object
) -> None:
    """A working directory that the caller chose stays, and what makes no sense is the server's to refuse."""
    agent.on(START, info("deleting"))
    assert await driver.begin(agent.session, {"workspace": given, "conversation_id": "x"}, go_on=False) is None  # type: ignore[dict-item]  # bad input is the point
    body = agent.requests[0].json()
    assert (body["workspace"], body["conversation_id"]) == (sent, CONVERSATION)


@pytest.mark.parametrize("status", ["error", "paused"])
async def test_v1_begin_makes_an_interrupted_agent_go_on(agent: StubAgent, driver: V1Driver, status: str) -> None:
    """It is told to run, and what it says before that has begun is not believed."""
    agent.on(START, info(status))
    agent.on(RUN, Reply())
    agent.on(GET, info(status), info("running"))
    with trio.fail_after(SECONDS):
        assert await driver.begin(agent.session, {}, go_on=True) is ExecutionStatus.RUNNING
    assert agent.lines[:3] == [START, RUN, GET]


async def test_v1_begin_takes_the_agents_word_if_its_run_does_not_begin(
    agent: StubAgent, driver: V1Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that fails at once may never be seen running."""
    monkeypatch.setattr(v1_module, "_RUN_SECONDS", 0.05)
    agent.on(START, info("error"))
    agent.on(RUN, Reply())
    agent.on(GET, info("error"))
    assert await driver.begin(agent.session, {}, go_on=True) is ExecutionStatus.ERROR


@pytest.mark.parametrize("status", ["finished", "stuck", "waiting_for_confirmation"])
async def test_v1_begin_leaves_an_agent_alone_that_was_not_interrupted(
    agent: StubAgent, driver: V1Driver, status: str
) -> None:
    """What ended by itself, or waits for a person, is not told to run."""
    agent.on(START, info(status))
    assert await driver.begin(agent.session, {}, go_on=True) is ExecutionStatus(status)
    assert agent.lines == [START]


@pytest.mark.parametrize(
    ("source", "run", "runs"), [("user", True, 1), ("agent", True, 0), ("user", False, 0), ("user", None, 0)]
)
async def test_v1_begin_starts_an_idle_agent_whose_user_waits(
    agent: StubAgent, driver: V1Driver, source: str, run: bool | None, runs: int
) -> None:
    """A server killed between the first message and its run left an idle agent that nobody else would start."""
    agent.on(START, info("idle"))
    agent.on(LAST_MESSAGE, Reply(body=json.dumps({"items": [{"source": source}]}).encode()))
    agent.on(RUN, Reply())
    agent.on(GET, info("running"))
    await driver.begin(agent.session, {"initial_message": {"run": run}}, go_on=True)
    assert agent.lines.count(RUN) == runs


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"execution_status": null}'])
async def test_v1_begin_finds_an_answer_without_sense_unavailable(
    agent: StubAgent, driver: V1Driver, body: bytes
) -> None:
    """Garbage may be gone at the next attempt."""
    agent.on(START, Reply(body=body))
    with pytest.raises(AgentUnavailable, match="no sense"):
        await driver.begin(agent.session, {}, go_on=False)


async def test_v1_begin_reports_a_full_server_as_unavailable(agent: StubAgent, driver: V1Driver) -> None:
    """429 heals by asking again."""
    agent.on(START, Reply(429))
    with pytest.raises(AgentUnavailable):
        await driver.begin(agent.session, {}, go_on=False)


async def test_v1_run_is_fine_when_it_runs_already(agent: StubAgent, driver: V1Driver) -> None:
    """A conflict with a running agent is what was wanted."""
    agent.on(RUN, Reply(409))
    agent.on(GET, info("running"))
    agent.sockets = [sending(full("running"))]
    with trio.fail_after(SECONDS):
        await driver.run(agent.session)
    assert agent.lines == [RUN, GET]


async def test_v1_run_takes_back_a_pause_that_waits_for_the_model(agent: StubAgent, driver: V1Driver) -> None:
    """The server's disk says `running` until the model has answered: only a snapshot tells that a pause will follow."""
    agent.on(RUN, Reply(409), Reply())
    agent.on(GET, info("running"))
    agent.sockets = [sending(full("paused"))]
    with trio.fail_after(SECONDS):
        await driver.run(agent.session)
    assert agent.lines == [RUN, GET, RUN]


async def test_v1_run_does_not_wait_for_a_running_tool(
    agent: StubAgent, driver: V1Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a tool runs no snapshot comes; the server's disk is believed then."""
    monkeypatch.setattr(v1_module, "_SNAPSHOT_SECONDS", 0.01)
    agent.on(RUN, Reply(409))
    agent.on(GET, info("running"))
    agent.sockets = [sending()]
    with trio.fail_after(SECONDS):
        await driver.run(agent.session)
    assert agent.lines == [RUN, GET]


async def test_v1_run_waits_for_a_paused_run_to_end(agent: StubAgent, driver: V1Driver) -> None:
    """A run that is paused but still winding up conflicts, too; it would stay paused if nobody asked again."""
    agent.on(RUN, Reply(409), Reply(409), Reply())
    agent.on(GET, info("paused"))
    with trio.fail_after(SECONDS):
        await driver.run(agent.session)
    assert agent.lines == [RUN, GET, RUN, GET, RUN]


async def test_v1_interrupt_asks_once(agent: StubAgent, driver: V1Driver) -> None:
    """A server that can interrupt does so."""
    agent.on(INTERRUPT, Reply())
    await driver.interrupt(agent.session)
    assert agent.lines == [INTERRUPT]


async def test_v1_interrupt_falls_back_to_pause(agent: StubAgent, driver: V1Driver) -> None:
    """A server that cannot is paused."""
    agent.on(PAUSE, Reply())
    await driver.interrupt(agent.session)
    assert agent.lines == [INTERRUPT, PAUSE]


@pytest.mark.parametrize("status", ["idle", "finished", "paused", "error"])
async def test_v1_pause_leaves_an_agent_alone_that_does_not_run(
    agent: StubAgent, driver: V1Driver, status: str
) -> None:
    """There is nothing to pause, and an idle agent would say `paused` afterwards."""
    agent.on(GET, info(status))
    assert await pause(driver, agent.session) is False
    assert agent.lines == [GET]


async def test_v1_pause_waits_for_the_end_of_the_run(agent: StubAgent, driver: V1Driver) -> None:
    """The server's `paused` is not the end: the run publishes one more snapshot when it is."""
    ended = trio.Event()

    async def script(connection: WebSocketConnection) -> None:
        await connection.send_message(full("running"))
        await agent.asked(PAUSE)
        await connection.send_message(change("paused"))
        await connection.send_message(full("paused"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        ended.set()
        await sending(full("paused"))(connection)

    agent.on(GET, info("running"))
    agent.on(PAUSE, Reply())
    agent.sockets = [script]
    with trio.fail_after(SECONDS):
        assert await pause(driver, agent.session) is True
    assert ended.is_set()
    assert agent.first_frames == [json.dumps({"type": "auth", "session_api_key": KEY})]


async def test_v1_pause_does_not_wait_for_a_snapshot_that_waits_for_a_tool(
    agent: StubAgent, driver: V1Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a tool runs the first snapshot does not come: the pause is asked for nevertheless."""
    monkeypatch.setattr(v1_module, "_SUBSCRIBED_SECONDS", 0.01)

    async def script(connection: WebSocketConnection) -> None:
        await agent.asked(PAUSE)
        await sending(full("paused"), full("paused"), full("paused"))(connection)

    agent.on(GET, info("running"))
    agent.on(PAUSE, Reply())
    agent.sockets = [script]
    with trio.fail_after(SECONDS):
        assert await pause(driver, agent.session) is True


async def test_v1_pause_finds_that_the_run_has_just_ended(agent: StubAgent, driver: V1Driver) -> None:
    """A run that ends by itself meanwhile needs no pause."""
    agent.on(GET, info("running"))
    agent.sockets = [sending(full("finished"))]
    with trio.fail_after(SECONDS):
        assert await pause(driver, agent.session) is False
    assert PAUSE not in agent.lines


async def test_v1_pause_is_unavailable_when_its_socket_breaks(agent: StubAgent, driver: V1Driver) -> None:
    """Without the socket nobody knows whether the step has ended."""

    async def script(connection: WebSocketConnection) -> None:
        await agent.asked(PAUSE)

    agent.on(GET, info("running"))
    agent.on(PAUSE, Reply(hang=True))
    agent.sockets = [script]
    with trio.fail_after(SECONDS), pytest.raises(AgentUnavailable, match="events socket"):
        await pause(driver, agent.session)


async def test_v1_pause_raises_the_refusal_itself(agent: StubAgent, driver: V1Driver) -> None:
    """A refusal is no group of errors."""
    agent.on(GET, info("running"))
    agent.on(PAUSE, Reply(403))
    agent.sockets = [sending(full("running"))]
    with trio.fail_after(SECONDS), pytest.raises(AgentRefused) as caught:
        await pause(driver, agent.session)
    assert caught.value.status == 403


async def test_v1_pause_says_that_the_agent_runs_before_it_asks(agent: StubAgent, driver: V1Driver) -> None:
    """Whatever becomes of the request, the caller knows whom it has to let go on."""
    asked: list[bool] = []

    async def runs() -> None:
        await trio.lowlevel.checkpoint()
        asked.append(PAUSE in agent.lines)

    agent.on(GET, info("running"))
    agent.on(PAUSE, Reply(500))
    agent.sockets = [sending(full("running"))]
    with trio.fail_after(SECONDS), pytest.raises(AgentUnavailable):
        await driver.pause(agent.session, runs)
    assert asked == [False]


async def test_v1_pause_ends_with_its_callers_deadline(agent: StubAgent, driver: V1Driver) -> None:
    """A step that does not end is left by cancellation."""
    agent.on(GET, info("running"))
    agent.on(PAUSE, Reply(hang=True))
    agent.sockets = [sending(full("running"))]
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pause, driver, agent.session)
            await agent.asked(PAUSE)
            nursery.cancel_scope.cancel()


async def test_v1_follow_reports_the_truth_and_each_change_once(agent: StubAgent, driver: V1Driver) -> None:
    """First what the server says when asked, then every change; repeated, unknown and foreign words are nothing."""
    agent.on(GET, info("idle"))
    agent.sockets = [
        sending(
            full("idle"),
            change("running"),
            full("running"),
            b"\x00\xff",
            "[1, 2",
            '{"kind": "ActionEvent"}',
            change("deleting"),
            json.dumps({"kind": "Big", "text": "x" * 2_000_000}),
            change("finished"),
        )
    ]
    async with following(driver, agent) as told:
        assert [await told.receive() for _ in range(3)] == ["idle", "running", "finished"]


async def test_v1_follow_reconnects_and_says_nothing_twice(agent: StubAgent, driver: V1Driver) -> None:
    """A socket that ends is opened again, and only news are reported."""

    async def ends(connection: WebSocketConnection) -> None:
        await connection.send_message(change("running"))

    agent.on(GET, info("idle"), info("running"), info("paused"))
    agent.sockets = [ends, ends, sending()]
    async with following(driver, agent) as told:
        assert [await told.receive() for _ in range(3)] == ["idle", "running", "paused"]
    assert len(agent.first_frames) == 3


async def test_v1_follow_goes_on_after_refusals_and_errors(agent: StubAgent, driver: V1Driver) -> None:
    """Only cancellation ends it."""
    agent.on(GET, Reply(401), Reply(500), Reply(body=b"?"), info("running"))
    agent.sockets = [sending()]
    async with following(driver, agent) as told:
        assert await told.receive() is ExecutionStatus.RUNNING


async def test_v1_follow_goes_on_after_a_socket_of_garbage(agent: StubAgent, driver: V1Driver) -> None:
    """Bytes that are no WebSocket frames end the connection, not the task."""

    async def garbage(connection: WebSocketConnection) -> None:
        await connection._stream.send_all(b"\xff" * 100)

    agent.on(GET, info("idle"), info("running"))
    agent.sockets = [garbage, sending()]
    async with following(driver, agent) as told:
        assert [await told.receive() for _ in range(2)] == ["idle", "running"]


async def test_v1_follow_looks_again_when_the_socket_is_silent(
    agent: StubAgent, driver: V1Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A status that the socket did not tell is found by asking now and then."""
    monkeypatch.setattr(v1_module, "_POLL_SECONDS", 0.02)
    agent.on(GET, info("running"), info("running"), info("finished"))
    agent.sockets = [sending()]
    async with following(driver, agent) as told:
        assert [await told.receive() for _ in range(2)] == ["running", "finished"]


async def test_v1_follow_leaves_a_server_that_does_not_tell_its_status(
    agent: StubAgent, driver: V1Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hang is answered by a new attempt."""
    monkeypatch.setattr(v1_module, "_STATUS_SECONDS", 0.05)
    agent.on(GET, Reply(hang=True), info("running"))
    agent.sockets = [sending()]
    async with following(driver, agent) as told:
        assert await told.receive() is ExecutionStatus.RUNNING


async def test_v1_follow_needs_a_port_and_keeps_trying(driver: V1Driver, agent: StubAgent) -> None:
    """Even a sandbox without a port does not end it."""
    session = attrs.evolve(agent.session, published=None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.follow, session, lambda status: pytest.fail(f"reported {status}"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert agent.lines == []


async def test_v1_follow_does_not_hide_a_bug_of_its_caller(driver: V1Driver, agent: StubAgent) -> None:
    """What the caller's report raises is no failure of the socket."""

    def report(status: ExecutionStatus) -> None:
        raise KeyError(status)

    agent.on(GET, info("running"))
    agent.sockets = [sending()]
    with trio.fail_after(SECONDS), pytest.raises(KeyError):
        await driver.follow(agent.session, report)


async def test_v1_follow_leaves_a_server_that_says_goodbye_and_stays(agent: StubAgent, driver: V1Driver) -> None:
    """A close frame without the end of the connection does not hold us, and leaves no socket open."""

    async def goodbye(connection: WebSocketConnection) -> None:
        await connection._stream.send_all(b"\x88\x02\x03\xe8")
        await trio.sleep_forever()

    agent.on(GET, info("idle"), info("running"))
    agent.sockets = [goodbye, sending()]
    async with following(driver, agent) as told:
        assert [await told.receive() for _ in range(2)] == ["idle", "running"]


@pytest.mark.parametrize(
    "rejection", [b"", b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", b"\xff" * 50 + b"\r\n\r\n"]
)
async def test_v1_pause_is_unavailable_without_a_socket(
    agent: StubAgent, driver: V1Driver, monkeypatch: pytest.MonkeyPatch, rejection: bytes
) -> None:
    """A server that refuses, garbles or never answers the handshake cannot be paused with certainty now."""
    monkeypatch.setattr(events_socket, "_CONNECT_SECONDS", 0.1)
    agent.on(GET, info("running"))
    agent.rejection = rejection
    with trio.fail_after(SECONDS), pytest.raises(AgentUnavailable, match="events socket broke"):
        await pause(driver, agent.session)
    assert PAUSE not in agent.lines
