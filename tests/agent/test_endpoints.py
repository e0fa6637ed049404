"""Agent servers that are not on plain HTTP at the root: behind TLS, and behind a proxy that wants a path."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio

from supervisor.agent import open_v1_driver
from supervisor.agent.events_socket import open_events
from supervisor.agent.port import AgentSession
from supervisor.conversation.errors import AgentUnavailable
from supervisor.conversation.record import ExecutionStatus
from supervisor.exchange import verified_tls
from supervisor.sandbox.port import Endpoint
from tests.agent.stub import PATH, Reply, StubAgent, info, sending
from tests.tls import CERTIFICATE, server_tls

SECONDS = 10.0


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This host trusts the certificate of the tests."""
    authorities = tmp_path / "authorities"
    authorities.write_text(CERTIFICATE)
    monkeypatch.setenv("SSL_CERT_FILE", str(authorities))
    verified_tls.cache_clear()
    yield
    verified_tls.cache_clear()


@asynccontextmanager
async def behind_tls(agent: StubAgent) -> AsyncIterator[AgentSession]:
    """Serve the stub over TLS; a session with it through a proxy that wants a path."""
    async with trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, agent.serve, 0, server_tls(), host="127.0.0.1", https_compatible=True)
        (listener,) = await nursery.start(serve)
        port = listener.transport_listener.socket.getsockname()[1]
        endpoint = Endpoint("127.0.0.1", port, tls=True, path="/runtimes/7")
        yield attrs.evolve(agent.session, published=endpoint)
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("trusted")
async def test_server_behind_tls_and_a_path_is_asked_and_followed() -> None:
    """Requests and the events socket go over verified TLS, with the proxy's path before their own."""
    agent = StubAgent()
    agent.on("GET /runtimes/7/ready", Reply())
    agent.on(f"GET /runtimes/7{PATH}", info("running"))
    agent.sockets = [sending()]
    send, receive = trio.open_memory_channel[ExecutionStatus](1)
    with trio.fail_after(SECONDS):
        async with behind_tls(agent) as session, open_v1_driver() as driver, trio.open_nursery() as nursery:
            await driver.wait_ready(session)
            nursery.start_soon(driver.follow, session, send.send_nowait)
            assert await receive.receive() is ExecutionStatus.RUNNING
            nursery.cancel_scope.cancel()
    assert agent.socket_paths == [f"/runtimes/7{PATH.replace('/api/conversations', '/sockets/events')}"]


async def test_server_whose_certificate_nobody_vouches_for_is_told_nothing() -> None:
    """It does not answer, as far as we are concerned: no request reaches it, and no socket is opened."""
    agent = StubAgent()
    async with behind_tls(agent) as session, open_v1_driver() as driver:
        with pytest.raises(AgentUnavailable, match="certificate"):
            await driver.probe(session)
        with pytest.raises(AgentUnavailable, match="socket broke"):
            async with open_events(session, "/sockets/events/1"):
                pytest.fail("it was believed")
    assert agent.requests == []
    assert agent.first_frames == []


@pytest.mark.parametrize(
    ("endpoint", "url"),
    [
        (Endpoint("127.0.0.1", 8000), "http://127.0.0.1:8000"),
        (Endpoint("::1", 8000), "http://[::1]:8000"),
        (Endpoint("host.example", 80), "http://host.example"),
        (Endpoint("host.example", 80, tls=True), "https://host.example:80"),
        (Endpoint("host.example", 443, tls=True, path="/runtimes/7"), "https://host.example/runtimes/7"),
    ],
)
def test_endpoint_is_written_as_clients_do(endpoint: Endpoint, url: str) -> None:
    """With brackets around IPv6, and without the port that goes without saying."""
    assert endpoint.url == url
    assert endpoint.url.startswith(f"{url.partition('://')[0]}://{endpoint.authority}")
