from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing

from supervisor.agent import ServerDriver, open_server_driver
from supervisor.conversation.errors import AgentRefused, AgentUnavailable
from supervisor.conversation.record import ExecutionStatus
from tests.agent.pausing import pause
from tests.agent.stub import Reply, StubAgent

READY, ALIVE = "GET /ready", "GET /alive"
SECONDS = 5


@pytest.fixture
async def server() -> AsyncIterator[ServerDriver]:
    """The driver under test."""
    async with open_server_driver() as driver:
        yield driver


async def test_server_environment_tells_the_key_to_either_server(server: ServerDriver) -> None:
    """The newer and the older one know it by different names; everything kept is in the workspace."""
    await trio.lowlevel.checkpoint()
    environment = server.environment("k", "secret", "/workspace")
    assert (environment["OH_SESSION_API_KEYS_0"], environment["SESSION_API_KEY"]) == ("k", "k")
    assert environment["OH_SECRET_KEY"] == "secret"
    assert environment["HOME"] == "/workspace"
    assert server.name == "server"


async def test_server_is_waited_for_until_it_is_ready(server: ServerDriver, agent: StubAgent) -> None:
    """As `v1` does it, without a key."""
    agent.on(READY, Reply(503), Reply())
    with trio.fail_after(SECONDS):
        await server.wait_ready(agent.session)
    assert agent.lines == [READY, READY]
    assert all("x-session-api-key" not in request.headers for request in agent.requests)


async def test_older_server_is_waited_for_until_it_is_alive(server: ServerDriver, agent: StubAgent) -> None:
    """It has no `/ready`, and may not be alive at once."""
    agent.on(ALIVE, Reply(500), Reply())
    with trio.fail_after(SECONDS):
        await server.wait_ready(agent.session)
    assert agent.lines == [READY, ALIVE, ALIVE]


async def test_server_that_refuses_is_no_agent_server(server: ServerDriver, agent: StubAgent) -> None:
    """Neither one that refuses `/ready` nor one that has neither path."""
    with trio.fail_after(SECONDS):
        with pytest.raises(AgentRefused) as missing:
            await server.wait_ready(agent.session)
        agent.on(READY, Reply(403))
        with pytest.raises(AgentRefused) as refused:
            await server.wait_ready(agent.session)
    assert (missing.value.status, refused.value.status) == (404, 403)


async def test_server_probe_asks_whether_it_is_alive(server: ServerDriver, agent: StubAgent) -> None:
    """Once."""
    agent.on(ALIVE, Reply(), Reply(500))
    await server.probe(agent.session)
    with pytest.raises(AgentUnavailable):
        await server.probe(agent.session)
    assert agent.lines == [ALIVE, ALIVE]


async def test_server_is_given_no_conversation(server: ServerDriver, agent: StubAgent) -> None:
    """Its clients bring theirs: we hand over, pause, run, interrupt and follow nothing."""
    session = agent.session
    reports: list[ExecutionStatus] = []
    assert await server.begin(session, {"initial_message": {}}, go_on=True) is None
    assert await pause(server, session) is False
    await server.run(session)
    await server.interrupt(session)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.follow, session, reports.append)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert (reports, agent.lines) == ([], [])
