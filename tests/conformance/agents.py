"""The benches on which the agent port's promises are tried: the fake, a stub of the older server, and real ones."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Final, Protocol

import attrs
import pytest
import trio
from docker import APIClient

from supervisor.agent import AgentDriver, AgentSession, NoAgent, open_v0_driver, open_v1_driver
from supervisor.conversation.ids import ConversationId, new_conversation_id
from supervisor.conversation.json import JsonObject
from supervisor.conversation.record import ExecutionStatus
from supervisor.sandbox.port import Endpoint
from tests.e2e.llm_stub import API_KEY, LlmStub, append_line, bridge_gateway, serve_llm
from tests.e2e.machine import PYTHON, V0, V1, Machine, Program
from tests.fakes.agent import FakeAgent

PATIENCE: Final = 180.0
ALL: Final = ("fake", "none", "v0", "v1")
WORKERS: Final = ("fake", "v0", "v1")
SERVERS: Final = ("v0", "v1")
_STEPS: Final = 1000
_LISTENS: Final = "import socket; s, kept = socket.create_server(('', 8000)), []\nwhile True: kept.append(s.accept())"
_NONE: Final = Program(8000, (PYTHON, "-c"), (_LISTENS,))
_CHUNK: Final = 65536


class AgentBench(Protocol):
    """A driver and its server, which is up, and the few things that the port does not say how to bring about.

    The agent of `request` works from its beginning until it is let finish.
    """

    @property
    def driver(self) -> AgentDriver:
        """The driver under test."""

    @property
    def session(self) -> AgentSession:
        """A conversation of its own for each test, which no reboot moves to another address."""

    @property
    def request(self) -> JsonObject:
        """The request of a start."""

    @property
    def refused(self) -> JsonObject:
        """One with secrets that the server refuses, and quotes."""

    @property
    def secrets(self) -> Sequence[str]:
        """What nobody may be told."""

    @property
    def shown(self) -> bytes:
        """What the server, or whoever is in its place, was sent."""

    def another(self) -> AbstractAsyncContextManager[AgentDriver]:
        """A second driver of the same kind."""

    async def at_work(self) -> None:
        """Wait until the agent works."""

    def finish(self) -> None:
        """Let it come to its end."""

    async def kill(self) -> None:
        """End the server without a warning."""

    async def reboot(self) -> None:
        """Start the next one over what it left behind, and wait for it."""

    async def freeze(self) -> None:
        """Stop it, and its agent, where they are."""

    async def thaw(self) -> None:
        """Let them go on."""


@attrs.define
class FakeAgentBench:
    """The fake."""

    driver: FakeAgent
    session: AgentSession
    request: JsonObject = attrs.field(factory=dict)
    refused: JsonObject = attrs.field(factory=dict)
    secrets: Sequence[str] = ()
    shown: bytes = b""

    @asynccontextmanager
    async def another(self) -> AsyncIterator[AgentDriver]:
        """See `AgentBench`."""
        yield self.driver

    async def at_work(self) -> None:
        """See `AgentBench`."""
        await trio.lowlevel.checkpoint()

    def finish(self) -> None:
        """See `AgentBench`."""
        self.driver.does(self.session.conversation, ExecutionStatus.FINISHED)

    async def kill(self) -> None:
        """See `AgentBench`."""
        self.driver.runs = lambda conversation: False
        await trio.lowlevel.checkpoint()

    async def reboot(self) -> None:
        """See `AgentBench`."""
        self.session = attrs.evolve(self.session, session_key=f"{self.session.session_key}-next")
        await self.thaw()
        await self.driver.wait_ready(self.session)

    async def freeze(self) -> None:
        """See `AgentBench`."""
        await self.kill()

    async def thaw(self) -> None:
        """See `AgentBench`."""
        self.driver.runs = lambda conversation: True
        await trio.lowlevel.checkpoint()


@attrs.define
class Kind:
    """One kind of server: its driver, and the machine that all tests share, whose server is up if it has a port."""

    open_driver: Callable[[], AbstractAsyncContextManager[AgentDriver]]
    machine: Machine
    requests: Callable[[LlmStub], Mapping[str, JsonObject]]
    port: int | None = None

    async def boot(self, driver: AgentDriver) -> None:
        """Boot a server where the last one was."""
        session = await self.machine.boot(driver)
        assert session.published is not None
        self.port = session.published.port

    async def kill(self) -> None:
        """End it."""
        self.port = None
        await trio.to_thread.run_sync(self.machine.kill)


class Relay:
    """An address that stays when servers come and go behind it, and keeps what is sent to them."""

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self.shown = bytearray()

    async def serve(self, client: trio.SocketStream) -> None:
        """Carry one connection; with no server there it is closed at once."""
        await trio.lowlevel.checkpoint()
        with suppress(OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            async with client:
                if self._kind.port is not None:
                    async with await trio.open_tcp_stream("127.0.0.1", self._kind.port) as server:
                        await self._carry(client, server)

    async def _carry(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump, client, server, self.shown)
            await self._pump(server, client, bytearray())
            nursery.cancel_scope.cancel()

    async def _pump(self, source: trio.SocketStream, sink: trio.SocketStream, kept: bytearray) -> None:
        await trio.lowlevel.checkpoint()
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while chunk := await source.receive_some(_CHUNK):
                kept += chunk
                await sink.send_all(chunk)
            await sink.send_eof()


@attrs.define
class ServerBench:
    """A server in a container."""

    driver: AgentDriver
    session: AgentSession
    request: JsonObject
    refused: JsonObject
    _kind: Kind
    _relay: Relay
    _llm: LlmStub

    @property
    def secrets(self) -> Sequence[str]:
        """See `AgentBench`."""
        return (self.session.session_key, self.session.secret, API_KEY)

    @property
    def shown(self) -> bytes:
        """See `AgentBench`."""
        return bytes(self._relay.shown)

    def another(self) -> AbstractAsyncContextManager[AgentDriver]:
        """See `AgentBench`."""
        return self._kind.open_driver()

    async def at_work(self) -> None:
        """See `AgentBench`."""
        await trio.to_thread.run_sync(self._llm.wait_asked, 1, PATIENCE)

    def finish(self) -> None:
        """See `AgentBench`."""
        self._llm.finish()

    async def kill(self) -> None:
        """See `AgentBench`."""
        await self._kind.kill()

    async def reboot(self) -> None:
        """See `AgentBench`."""
        await self._kind.boot(self.driver)

    async def freeze(self) -> None:
        """See `AgentBench`."""
        await trio.to_thread.run_sync(self._kind.machine.freeze)

    async def thaw(self) -> None:
        """See `AgentBench`."""
        await trio.to_thread.run_sync(self._kind.machine.thaw)


@pytest.fixture(scope="module")
def kinds(engine: APIClient, agent_image: str) -> Iterator[Mapping[str, Kind]]:
    """The servers in containers: each boots for the first test that needs it, and again where a test ended it."""
    kinds = {
        "none": Kind(_open_none, Machine(engine, agent_image, _NONE), lambda llm: {"request": {}, "refused": {}}),
        "v0": Kind(open_v0_driver, Machine(engine, agent_image, V0), _older_requests),
        "v1": Kind(open_v1_driver, Machine(engine, agent_image, V1), _requests),
    }
    yield kinds
    for kind in kinds.values():
        kind.machine.remove()


@pytest.fixture
async def agent_bench(request: pytest.FixtureRequest) -> AsyncIterator[AgentBench]:
    """The bench that the test is parametrized with."""
    if request.param == "fake":
        yield FakeAgentBench(
            FakeAgent(), AgentSession(new_conversation_id(), "/workspace", None, None, "key", "secret")
        )
        return
    kind: Kind = request.getfixturevalue("kinds")[request.param]
    engine: APIClient = request.getfixturevalue("engine")
    async with _server_bench(kind, bridge_gateway(engine)) as bench:
        yield bench


@asynccontextmanager
async def _server_bench(kind: Kind, host: str) -> AsyncIterator[AgentBench]:
    async with AsyncExitStack() as stack:
        llm = stack.enter_context(serve_llm(host, _STEPS, lambda step: f"sleep 0.2; {append_line(step)}"))
        driver = await stack.enter_async_context(kind.open_driver())
        nursery = await stack.enter_async_context(trio.open_nursery())
        relay = Relay(kind)
        (listener,) = await nursery.start(partial(trio.serve_tcp, relay.serve, 0, host="127.0.0.1"))
        if kind.port is None:
            await kind.boot(driver)
        yield ServerBench(
            driver,
            _session(kind, listener.socket.getsockname()[1]),
            **kind.requests(llm),
            kind=kind,
            relay=relay,
            llm=llm,
        )
        llm.finish()
        nursery.cancel_scope.cancel()


def _session(kind: Kind, port: int) -> AgentSession:
    conversation: ConversationId = new_conversation_id()
    machine = kind.machine
    endpoint = Endpoint("127.0.0.1", port)
    return AgentSession(conversation, "/workspace", endpoint, None, machine.key, machine.secret)


@asynccontextmanager
async def _open_none() -> AsyncIterator[AgentDriver]:
    yield NoAgent()


def _requests(llm: LlmStub) -> Mapping[str, JsonObject]:
    request, refused = llm.request_body(), llm.request_body()
    refused["agent_settings"]["llm"]["base_url"] = [API_KEY]
    return {"request": request, "refused": refused}


def _older_requests(llm: LlmStub) -> Mapping[str, JsonObject]:
    settings = {"llm_model": "openai/stub", "llm_api_key": API_KEY, "llm_base_url": llm.base_url}
    request: JsonObject = {"settings": settings, "initial_user_msg": "Work."}
    return {"request": request, "refused": {**request, "settings": {**settings, "llm_api_key": [API_KEY]}}}
