import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio

from supervisor.agent import V0Driver, open_v0_driver
from supervisor.agent import v0 as v0_module
from supervisor.agent.v0_wire import Conversation, Mark, left_at, parse_conversation, parse_events
from supervisor.agent.wire import Garbled
from supervisor.conversation.errors import AgentRefused, AgentUnavailable
from supervisor.conversation.record import ExecutionStatus
from tests.agent.pausing import pause
from tests.agent.stub import CONVERSATION, KEY, PATH, SECRET, Reply, StubAgent

ALIVE = "GET /alive"
GET = f"GET {PATH}"
START, STOP, SAY = (f"POST {PATH}/{what}" for what in ("start", "stop", "events"))
NEW, SETTINGS = "POST /api/conversations", "POST /api/settings"
PROVIDERS, SECRETS = "POST /api/add-git-providers", "POST /api/secrets"
UNKNOWN = Reply(body=b"null")
SECONDS = 5


@pytest.fixture
async def older() -> AsyncIterator[V0Driver]:
    """The driver under test."""
    async with open_v0_driver() as driver:
        yield driver


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits that cost the tests no time."""
    monkeypatch.setattr(v0_module, "_FOLLOW_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(v0_module, "_TAKEN_UP_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(v0_module, "_STOPPED_SECONDS", 0.01)


def info(status: str, runtime_status: str | None = None) -> Reply:
    """The answer about a conversation, with some of what else is in it."""
    told = {"conversation_id": CONVERSATION, "title": "t", "status": status, "runtime_status": runtime_status}
    return Reply(body=json.dumps(told).encode())


def state(state: str, reason: str = "") -> dict[str, Any]:
    """An event that tells the agent's state."""
    extras = {"agent_state": state, "reason": reason}
    return {"source": "environment", "observation": "agent_state_changed", "content": "", "extras": extras}


def action(action: str, source: str = "agent", **args: str) -> dict[str, Any]:
    """An event that is an action."""
    return {"source": source, "action": action, "args": args}


SAID = action("message", "user", content="Work.")
RESULT = {"source": "agent", "observation": "run", "content": "ok", "extras": {"metadata": {}}}
BEGUN = [state("loading"), action("system"), SAID, action("recall", "user"), state("running")]
REBOOTED = [state("loading"), state("awaiting_user_input")]


def events(*oldest_first: dict[str, Any], first: int = 0, more: bool = False) -> Reply:
    """A page of events as the server answers it: newest first."""
    numbered = [{"id": first + number, **event} for number, event in enumerate(oldest_first)]
    return Reply(body=json.dumps({"events": numbered[::-1], "has_more": more}).encode())


def page(since: int = 0, end: int | None = None) -> str:
    """The request of a page."""
    return f"GET {PATH}/events?start_id={since}&reverse=true&limit=20" + (f"&end_id={end}" if end is not None else "")


@asynccontextmanager
async def following(older: V0Driver, agent: StubAgent) -> AsyncIterator[trio.MemoryReceiveChannel[ExecutionStatus]]:
    """Follow the stub; what is reported comes out of the channel."""
    reports, told = trio.open_memory_channel[ExecutionStatus](100)
    with trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(older.follow, agent.session, reports.send_nowait)
            yield told
            nursery.cancel_scope.cancel()


async def begin(older: V0Driver, agent: StubAgent, request: object, *, go_on: bool = False) -> ExecutionStatus | None:
    """Begin, with a request that may make no sense."""
    with trio.fail_after(SECONDS):
        return await older.begin(agent.session, request, go_on=go_on)  # type: ignore[arg-type]  # see there


async def test_v0_environment_is_that_of_a_nested_server(older: V0Driver) -> None:
    """It lets us choose the conversation's id, and what it keeps outlives its container."""
    await trio.lowlevel.checkpoint()
    environment = older.environment("k", "secret", "/workspace/")
    assert (environment["SESSION_API_KEY"], environment["JWT_SECRET"]) == ("k", "secret")
    assert environment["WORKSPACE_BASE"] == "/workspace/"
    assert environment["FILE_STORE_PATH"] == "/workspace/.openhands"
    assert environment["CONVERSATION_MANAGER_CLASS"].endswith(".StandaloneConversationManager")
    assert {environment[name] for name in ("ALLOW_SET_CONVERSATION_ID", "SKIP_DEPENDENCY_CHECK")} == {"1"}
    assert {environment[name] for name in ("SERVE_FRONTEND", "SANDBOX_CLOSE_DELAY")} == {"0"}
    assert (environment["RUNTIME"], environment["INITIAL_NUM_WARM_SERVERS"]) == ("local", "1")
    assert (older.name, older.thaws_ready) == ("v0", False)


async def test_v0_wait_ready_asks_until_the_server_is_alive(
    older: V0Driver, agent: StubAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closed connections, errors and hangs of a booting server are all tried again, without a key."""
    monkeypatch.setattr(v0_module, "_READY_SECONDS", 0.05)
    agent.on(ALIVE, Reply(raw=b""), Reply(503), Reply(hang=True), Reply())
    with trio.fail_after(SECONDS):
        await older.wait_ready(agent.session)
    assert agent.lines == [ALIVE] * 4
    told = "".join(f"{request.line}{request.headers}" for request in agent.requests)
    assert KEY not in told
    assert SECRET not in told


async def test_v0_wait_ready_is_refused_by_something_else(older: V0Driver, agent: StubAgent) -> None:
    """A server that knows no `/alive` is none of ours, and waiting will not change that."""
    with pytest.raises(AgentRefused):
        await older.wait_ready(agent.session)


async def test_v0_probe_asks_once_whether_it_is_alive(older: V0Driver, agent: StubAgent) -> None:
    """An error is no life."""
    agent.on(ALIVE, Reply(), Reply(500))
    await older.probe(agent.session)
    with pytest.raises(AgentUnavailable):
        await older.probe(agent.session)


async def test_v0_begin_hands_over_what_the_nested_manager_would(older: V0Driver, agent: StubAgent) -> None:
    """Settings, git providers, secrets and the conversation, in this order, each as that server's own body."""
    agent.on(GET, UNKNOWN, info("STARTING"))
    agent.on(page(), events(state("loading")))
    for line in (SETTINGS, PROVIDERS, NEW):
        agent.on(line, Reply())
    agent.on(SECRETS, Reply(201))
    tokens = {"github": {"token": "t", "host": "h"}}
    secrets = [{"name": "A", "value": "1"}, {"name": "B", "value": "2", "description": "d"}]
    request = {
        "initial_user_msg": "Work.",
        "repository": "o/r",
        "settings": {"llm_model": "m"},
        "provider_tokens": tokens,
        "secrets": secrets,
    }
    assert await begin(older, agent, request) is ExecutionStatus.IDLE
    sent = [(sent.line, sent.json()) for sent in agent.requests if sent.body]
    assert sent == [
        (SETTINGS, {"llm_model": "m"}),
        (PROVIDERS, {"provider_tokens": tokens}),
        *((SECRETS, secret) for secret in secrets),
        (NEW, {"initial_user_msg": "Work.", "repository": "o/r", "conversation_id": CONVERSATION}),
    ]
    assert all(request.headers["x-session-api-key"] == KEY for request in agent.requests)


async def test_v0_begin_sends_only_what_there_is(older: V0Driver, agent: StubAgent) -> None:
    """A start that brings nothing only makes the conversation; its id is ours."""
    agent.on(GET, UNKNOWN)
    agent.on(NEW, Reply())
    request = {"settings": None, "provider_tokens": None, "secrets": None, "conversation_id": "x"}
    assert await begin(older, agent, request) is None
    assert agent.lines == [GET, NEW, GET]
    assert agent.requests[1].json() == {"conversation_id": CONVERSATION}


@pytest.mark.parametrize(
    ("given", "line", "body"),
    [
        ({"settings": "odd"}, SETTINGS, "odd"),
        ({"provider_tokens": ["odd"]}, PROVIDERS, {"provider_tokens": ["odd"]}),
        ({"secrets": {"A": "value"}}, SECRETS, {"A": "value"}),
        ({"unheard-of": 1}, NEW, {"unheard-of": 1, "conversation_id": CONVERSATION}),
    ],
)
async def test_v0_begin_leaves_it_to_the_server_to_refuse(
    older: V0Driver, agent: StubAgent, given: object, line: str, body: object
) -> None:
    """What makes no sense, and keys that we do not know, reach it as they are."""
    agent.on(GET, UNKNOWN)
    agent.on(line, Reply(422, b'{"detail":"no"}'))
    with pytest.raises(AgentRefused) as caught:
        await begin(older, agent, given)
    assert (caught.value.status, caught.value.body) == (422, '{"detail":"no"}')
    assert json.loads(agent.requests[-1].body) == body


@pytest.mark.parametrize(
    ("line", "given"),
    [
        (SETTINGS, {"settings": {"llm_api_key": "hush-hush"}}),
        (PROVIDERS, {"provider_tokens": {"github": {"token": "hush-hush"}}}),
        (SECRETS, {"secrets": [{"name": "A", "value": "hush-hush"}]}),
        (NEW, {"mcp_config": {"api_key": "hush-hush"}}),
    ],
)
async def test_v0_begin_tells_no_secret_of_a_refused_request(
    older: V0Driver, agent: StubAgent, line: str, given: object
) -> None:
    """Whichever of the requests the server quotes, and whatever it calls the secret there."""
    agent.on(GET, UNKNOWN)
    agent.on(line, Reply(422, f'{{"detail":[{{"input":"hush-hush {KEY} {SECRET}"}}]}}'.encode()))
    with pytest.raises(AgentRefused) as caught:
        await begin(older, agent, given)
    assert caught.value.body == '{"detail":[{"input":"*** *** ***"}]}'


async def test_v0_begin_puts_its_secret_in_place_of_one_that_is_there(older: V0Driver, agent: StubAgent) -> None:
    """An earlier attempt may have got as far as that; the server refuses a name twice."""
    agent.on(GET, UNKNOWN)
    agent.on(SECRETS, Reply(400), Reply(201))
    agent.on("DELETE /api/secrets/A%2FB", Reply())
    agent.on(NEW, Reply())
    await begin(older, agent, {"secrets": [{"name": "A/B", "value": "1"}]})
    assert agent.lines == [GET, SECRETS, "DELETE /api/secrets/A%2FB", SECRETS, NEW, GET]


@pytest.mark.parametrize("secret", [{"value": "1"}, "odd"])
async def test_v0_begin_is_refused_a_secret_without_a_name(older: V0Driver, agent: StubAgent, secret: object) -> None:
    """A server that says no twice means it."""
    agent.on(GET, UNKNOWN)
    agent.on(SECRETS, Reply(400))
    with pytest.raises(AgentRefused):
        await begin(older, agent, {"secrets": [secret]})


@pytest.mark.parametrize("go_on", [True, False])
async def test_v0_begin_may_be_repeated(older: V0Driver, agent: StubAgent, go_on: bool) -> None:
    """A conversation that the server has taken up already is not handed over again, and its agent is left at work."""
    agent.on(GET, info("RUNNING"))
    agent.on(page(), events(*BEGUN))
    assert await begin(older, agent, {"settings": {}}, go_on=go_on) is ExecutionStatus.RUNNING
    assert {request.line for request in agent.requests} == {GET, page()}


async def test_v0_begin_takes_a_known_conversation_up_from_the_disk(older: V0Driver, agent: StubAgent) -> None:
    """What was handed over once is not handed over again: its first message would be said twice."""
    agent.on(GET, info("STOPPED"), info("RUNNING"))
    agent.on(page(), events(*BEGUN), events(*BEGUN, *REBOOTED))
    agent.on(START, Reply())
    assert await begin(older, agent, {"settings": {}, "initial_user_msg": "Work."}) is ExecutionStatus.IDLE
    assert agent.lines == [GET, page(), START, GET, page()]
    assert agent.requests[2].json() == {"providers_set": []}


@pytest.mark.parametrize("past", [[], [state("loading")], [*REBOOTED, state("loading")]])
async def test_v0_begin_hands_over_again_what_was_never_begun(
    older: V0Driver, agent: StubAgent, past: list[dict[str, Any]]
) -> None:
    """A server that was killed before the first message has kept no more than the conversation's name."""
    agent.on(GET, info("STOPPED"), info("STARTING"))
    agent.on(page(), events(*past))
    agent.on(NEW, Reply())
    await begin(older, agent, {"initial_user_msg": "Work."}, go_on=True)
    assert NEW in agent.lines
    assert START not in agent.lines


@pytest.mark.parametrize(
    "past",
    [
        BEGUN,
        BEGUN[:-1],
        [*BEGUN, action("run"), RESULT],
        [*BEGUN, state("error")],
        [*BEGUN, state("stopped")],
        [*BEGUN, *REBOOTED, state("loading")],
    ],
)
async def test_v0_begin_makes_an_interrupted_agent_go_on(
    older: V0Driver, agent: StubAgent, past: list[dict[str, Any]]
) -> None:
    """It gets a message, but not before it waits for one."""
    last = len(past)
    agent.on(GET, info("STOPPED"), info("STARTING"), info("RUNNING"))
    agent.on(page(), events(*past), events(*past, *REBOOTED, SAID))
    agent.on(START, Reply())
    loading = events(state("loading"), first=last)
    agent.on(page(last), events(), loading, events(*REBOOTED, first=last))
    agent.on(SAY, Reply())
    assert await begin(older, agent, {}, go_on=True) is ExecutionStatus.RUNNING
    assert agent.lines.index(SAY) > agent.lines.index(START)
    assert agent.lines.count(page(last)) == 3
    said = next(request for request in agent.requests if request.line == SAY)
    assert said.json() == {"action": "message", "args": {"content": "continue"}}


async def test_v0_begin_goes_on_where_an_attempt_was_cut_short(older: V0Driver, agent: StubAgent) -> None:
    """The server had taken the conversation up, but its agent had not been told yet."""
    agent.on(GET, info("RUNNING"))
    agent.on(page(), events(*BEGUN, *REBOOTED), events(*BEGUN, *REBOOTED), events(*BEGUN, *REBOOTED, SAID))
    agent.on(SAY, Reply())
    assert await begin(older, agent, {}, go_on=True) is ExecutionStatus.RUNNING
    assert agent.lines.count(SAY) == 1
    assert START not in agent.lines


@pytest.mark.parametrize("end", ["finished", "rejected", "awaiting_user_input", "awaiting_user_confirmation"])
async def test_v0_begin_leaves_an_agent_alone_that_was_not_interrupted(
    older: V0Driver, agent: StubAgent, end: str
) -> None:
    """What ended by itself, or waits for a person, is told nothing."""
    agent.on(GET, info("STOPPED"), info("RUNNING"))
    past = [*BEGUN, action("run"), state(end)]
    agent.on(page(), events(*past), events(*past, *REBOOTED))
    agent.on(START, Reply())
    assert await begin(older, agent, {}, go_on=True) is ExecutionStatus.IDLE
    assert SAY not in agent.lines


async def test_v0_begin_says_nothing_where_the_user_was_faster(older: V0Driver, agent: StubAgent) -> None:
    """An agent that somebody has told something is at work already."""
    agent.on(GET, info("STOPPED"), info("RUNNING"))
    agent.on(page(), events(*BEGUN), events(*BEGUN, *REBOOTED, SAID))
    agent.on(START, Reply())
    agent.on(page(len(BEGUN)), events(*REBOOTED, SAID, first=len(BEGUN)))
    assert await begin(older, agent, {}, go_on=True) is ExecutionStatus.RUNNING
    assert SAY not in agent.lines


@pytest.mark.parametrize("after", [UNKNOWN, info("STARTING", "STATUS$ERROR_RUNTIME_DISCONNECTED")])
async def test_v0_begin_does_not_wait_for_what_cannot_be_taken_up(
    older: V0Driver, agent: StubAgent, after: Reply
) -> None:
    """A runtime that does not start is told as an error, at once."""
    agent.on(GET, info("STOPPED"), after)
    agent.on(page(), events(*BEGUN), events(*BEGUN, state("loading")))
    agent.on(START, Reply())
    agent.on(page(len(BEGUN)), events(state("loading"), first=len(BEGUN)))
    assert await begin(older, agent, {}, go_on=True) is (None if after is UNKNOWN else ExecutionStatus.ERROR)
    assert SAY not in agent.lines


@pytest.mark.parametrize("body", [b"", b"[]", b"<html>", b'{"status": 1}', b"nullnull"])
async def test_v0_begin_finds_an_answer_without_sense_unavailable(
    older: V0Driver, agent: StubAgent, body: bytes
) -> None:
    """Garbage may be gone at the next attempt."""
    agent.on(GET, Reply(body=body))
    with pytest.raises(AgentUnavailable, match="no sense"):
        await begin(older, agent, {})


async def test_v0_reads_back_until_the_events_tell(older: V0Driver, agent: StubAgent) -> None:
    """A page of what the environment says tells nothing; the older ones are asked for."""
    agent.on(GET, info("RUNNING"))
    agent.on(page(), events({"observation": "recall", "source": "environment"}, first=40, more=True))
    agent.on(page(end=39), events(*REBOOTED[1:], first=20, more=True))
    agent.on(page(end=19), events(state("finished"), first=19, more=True))
    assert await pause(older, agent.session) is False
    assert agent.lines == [GET, page(), page(end=39), page(end=19)]


@pytest.mark.parametrize(("tells", "running"), [("running", True), ("paused", False), ("finished", False)])
async def test_v0_pause_only_says_whether_the_agent_runs(
    older: V0Driver, agent: StubAgent, tells: str, running: bool
) -> None:  # fmt: skip
    """The freeze is its pause; a run has nothing to undo."""
    agent.on(GET, info("RUNNING"))
    agent.on(page(), events(*BEGUN, state(tells)))
    assert await pause(older, agent.session) is running
    await older.run(agent.session)
    assert {request.line.split()[0] for request in agent.requests} == {"GET"}


@pytest.mark.parametrize(
    ("after", "asked"),
    [
        ([info("RUNNING"), info("STOPPED")], 2),
        ([UNKNOWN], 1),
        ([info("RUNNING")], 3),
    ],
)
async def test_v0_interrupt_waits_a_while_for_the_conversation_to_be_closed(
    older: V0Driver, agent: StubAgent, after: list[Reply], asked: int
) -> None:
    """It is asked for three times at most: its container is going to end in any case."""
    agent.on(STOP, Reply())
    agent.on(GET, *after)
    with trio.fail_after(SECONDS):
        await older.interrupt(agent.session)
    assert agent.lines == [STOP] + asked * [GET]


async def test_v0_follow_reports_the_truth_and_each_change_once(older: V0Driver, agent: StubAgent) -> None:
    """First what is so now, then every change; what cannot be asked or understood changes nothing."""
    agent.on(
        GET, Reply(401), Reply(500), Reply(body=b"?"), UNKNOWN, info("STARTING"), info("STARTING"), info("RUNNING")
    )
    page_of = [state("loading")], BEGUN, BEGUN, [*BEGUN, state("finished")]
    agent.on(page(), Reply(404), *(events(*told) for told in page_of))
    async with following(older, agent) as told:
        assert [await told.receive() for _ in range(3)] == ["idle", "running", "finished"]


async def test_v0_follow_leaves_a_server_that_does_not_tell_its_status(
    older: V0Driver, agent: StubAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hang is answered by a new attempt."""
    monkeypatch.setattr(v0_module, "_STATUS_SECONDS", 0.05)
    agent.on(GET, Reply(hang=True), info("RUNNING"))
    agent.on(page(), events(*BEGUN))
    async with following(older, agent) as told:
        assert await told.receive() is ExecutionStatus.RUNNING


async def test_v0_follow_needs_a_port_and_keeps_trying(older: V0Driver, agent: StubAgent) -> None:
    """Even a sandbox without a port does not end it."""
    session = attrs.evolve(agent.session, published=None)
    with trio.move_on_after(0.1):
        await older.follow(session, lambda status: pytest.fail(f"reported {status}"))
    assert agent.lines == []


@pytest.mark.parametrize(
    ("event", "status"),
    [
        (state("loading"), "idle"),
        (state("running"), "running"),
        (state("user_confirmed"), "running"),
        (state("user_rejected"), "running"),
        (state("rate_limited"), "running"),
        (state("awaiting_user_input"), "idle"),
        (state("awaiting_user_confirmation"), "waiting_for_confirmation"),
        (state("paused"), "paused"),
        (state("stopped"), "paused"),
        (state("finished"), "finished"),
        (state("rejected"), "finished"),
        (state("error", "LLMError: x"), "error"),
        (state("error", "AgentStuckInLoopError: Agent got stuck in a loop"), "stuck"),
        (action("run", confirmation_state="awaiting_confirmation"), "waiting_for_confirmation"),
        (action("run", confirmation_state="confirmed"), "running"),
        (SAID, "running"),
    ],
)
def test_v0_words_of_the_agent_are_ours(event: dict[str, Any], status: str) -> None:
    """Each event that tells what the agent does."""
    (mark,) = parse_events(events(event).body).marks
    assert Conversation("RUNNING").execution(mark) == status


@pytest.mark.parametrize(
    "event",
    [
        RESULT,
        action("system"),
        action("recall", "user"),
        action("change_agent_state", "environment"),
        state("a_new_word"),
        {"observation": "agent_state_changed", "extras": "odd"},
        {"observation": "agent_state_changed", "extras": {"agent_state": ["odd"]}},
        {},
    ],
)
def test_v0_events_that_tell_nothing_of_the_agent(event: dict[str, Any]) -> None:
    """What it was answered, what surrounds it, and what we do not know."""
    assert parse_events(events(event).body).marks == ()


@pytest.mark.parametrize(
    ("conversation", "mark", "status"),
    [
        (Conversation("STARTING", "STATUS$ERROR"), Mark.LOADING, ExecutionStatus.ERROR),
        (Conversation("ERROR"), Mark.LOADING, ExecutionStatus.ERROR),
        (Conversation("RUNNING", "STATUS$ERROR"), Mark.WORKING, ExecutionStatus.RUNNING),
        (Conversation("STOPPED"), Mark.WORKING, ExecutionStatus.PAUSED),
        (Conversation("STOPPED"), Mark.MESSAGE, ExecutionStatus.PAUSED),
        (Conversation("STOPPED"), Mark.FINISHED, ExecutionStatus.FINISHED),
        (Conversation("STARTING", "STATUS$READY"), Mark.LOADING, ExecutionStatus.IDLE),
    ],
)
def test_v0_conversation_itself_can_tell_more(conversation: Conversation, mark: Mark, status: ExecutionStatus) -> None:
    """Nobody works in one that the server has not taken up, and one that could not be is an error."""
    assert conversation.execution(mark) is status


def test_v0_left_at_sees_through_starts_and_stops() -> None:
    """What a boot tells by itself is nothing of what the agent was at before."""
    assert left_at([]) is None
    assert left_at([Mark.LOADING, Mark.WAITING, Mark.LOADING]) is None
    assert left_at([Mark.WAITING]) is None
    assert left_at([Mark.WAITING, Mark.LOADING, Mark.STOPPED, Mark.FINISHED]) is Mark.FINISHED
    assert left_at([Mark.WAITING, Mark.WORKING]) is Mark.WAITING


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b'{"events": []}', b'{"events": [1]}', b'{"has_more": true'])
def test_v0_page_that_is_none_is_garbled(body: bytes) -> None:
    """Whatever a sandbox answers, it is read or refused."""
    with pytest.raises(Garbled):
        parse_events(body)


def test_v0_conversation_that_the_server_does_not_know_is_none() -> None:
    """It says so with `null`."""
    assert parse_conversation(b" null\n") is None
