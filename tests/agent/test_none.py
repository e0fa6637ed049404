import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing

import pytest
import trio

from supervisor.agent import AgentSession, NoAgent
from supervisor.agent import none as none_module
from supervisor.conversation.errors import AgentUnavailable
from supervisor.conversation.ids import ConversationId
from supervisor.sandbox.port import Endpoint
from tests.agent.pausing import pause

UNREACHABLE = Endpoint("255.255.255.255", 9)


@pytest.fixture
def unused() -> Endpoint:
    """An endpoint where nothing listens."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return Endpoint("127.0.0.1", server.getsockname()[1])


@pytest.fixture
def deaf() -> Iterator[Endpoint]:
    """An endpoint that does not answer to connections: its backlog is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, socket.create_connection(server.getsockname()):
        yield Endpoint("127.0.0.1", server.getsockname()[1])


def session(published: Endpoint | None = None, direct: Endpoint | None = None) -> AgentSession:
    """A session with these endpoints."""
    return AgentSession(ConversationId("c1"), "/workspace", published, direct, "key", "secret")


async def listen(nursery: trio.Nursery, handler: Callable[[trio.SocketStream], Awaitable[None]]) -> Endpoint:
    """Serve connections at an endpoint of their own."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    nursery.start_soon(trio.serve_listeners, handler, [listener])
    return Endpoint("127.0.0.1", listener.socket.getsockname()[1])


async def close_at_once(stream: trio.SocketStream) -> None:
    """The engine's proxy while nothing listens behind it."""
    await stream.aclose()


async def stay_silent(stream: trio.SocketStream) -> None:
    """A server that waits for its client to speak first."""
    await stream.receive_some()


async def greet(stream: trio.SocketStream) -> None:
    """A server that speaks first, and says goodbye at once."""
    await stream.send_all(b"hello")
    await stream.aclose()


async def test_none_is_ready_at_once_without_a_port() -> None:
    """A sandbox without a port is ready as soon as it runs."""
    with trio.fail_after(5):
        await NoAgent().wait_ready(session())
        await NoAgent().probe(session())


async def test_none_takes_any_accepted_direct_connection(nursery: trio.Nursery) -> None:
    """Without the proxy in between, accepting is listening, whatever the server then does."""
    endpoint = await listen(nursery, close_at_once)
    with trio.fail_after(5):
        await NoAgent().wait_ready(session(direct=endpoint))


@pytest.mark.parametrize("handler", [stay_silent, greet])
async def test_none_takes_a_published_connection_that_stays_open_or_speaks(
    nursery: trio.Nursery, handler: Callable[[trio.SocketStream], Awaitable[None]]
) -> None:
    """Through the proxy, a connection counts that is not closed at once."""
    endpoint = await listen(nursery, handler)
    with trio.fail_after(5):
        await NoAgent().probe(session(published=endpoint))


async def test_none_is_not_fooled_by_a_proxy_that_accepts_and_closes(nursery: trio.Nursery) -> None:
    """The proxy accepts before anything listens: such a connection does not count."""
    endpoint = await listen(nursery, close_at_once)
    with pytest.raises(AgentUnavailable):
        await NoAgent().probe(session(published=endpoint))


async def test_none_believes_a_refusal_of_the_direct_way(nursery: trio.Nursery, unused: Endpoint) -> None:
    """Where the direct way refuses, what the proxy says does not matter."""
    endpoint = await listen(nursery, stay_silent)
    with pytest.raises(AgentUnavailable):
        await NoAgent().probe(session(published=endpoint, direct=unused))


async def test_none_takes_the_published_way_where_there_is_no_direct_one(nursery: trio.Nursery, deaf: Endpoint) -> None:
    """A direct way that is unreachable or silent says nothing about the sandbox."""
    endpoint = await listen(nursery, stay_silent)
    with trio.fail_after(5):
        await NoAgent().probe(session(published=endpoint, direct=UNREACHABLE))
        await NoAgent().probe(session(published=endpoint, direct=deaf))


async def test_none_is_not_ready_when_its_only_way_is_unreachable() -> None:
    """What cannot be reached at all is not ready."""
    with pytest.raises(AgentUnavailable):
        await NoAgent().probe(session(direct=UNREACHABLE))


async def test_none_gives_up_on_a_silent_published_way(deaf: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is never accepted ends the attempt."""
    monkeypatch.setattr(none_module, "_PUBLISHED_SECONDS", 0.05)
    with pytest.raises(AgentUnavailable):
        await NoAgent().probe(session(published=deaf))


async def test_none_finds_a_refused_published_way_dead(unused: Endpoint) -> None:
    """A refused connection is no listener."""
    with pytest.raises(AgentUnavailable):
        await NoAgent().probe(session(published=unused))


async def test_none_speaks_ipv6() -> None:
    """An address with colons is one of version 6."""
    with pytest.raises(AgentUnavailable):
        await NoAgent().probe(session(published=Endpoint("::1", 1)))


async def test_none_waits_until_something_listens(nursery: trio.Nursery) -> None:
    """Readiness is found by asking again."""
    attempts: list[trio.SocketStream] = []

    async def third_time_lucky(stream: trio.SocketStream) -> None:
        attempts.append(stream)
        await (close_at_once(stream) if len(attempts) < 3 else stay_silent(stream))

    endpoint = await listen(nursery, third_time_lucky)
    with trio.fail_after(5):
        await NoAgent().wait_ready(session(published=endpoint))
    assert len(attempts) == 3


async def test_none_has_nothing_to_do_for_the_rest(autojump_clock: trio.testing.MockClock) -> None:
    """There is no agent to begin, pause, run, interrupt or follow."""
    driver = NoAgent()
    assert driver.name == "none"
    assert driver.environment("key", "secret", "/workspace") == {}
    assert await driver.begin(session(), {"a": 1}, go_on=True) is None
    assert await pause(driver, session()) is False
    await driver.run(session())
    await driver.interrupt(session())
    with trio.move_on_after(1000) as scope:
        await driver.follow(session(), lambda status: pytest.fail(f"reported {status}"))
    assert scope.cancelled_caught
