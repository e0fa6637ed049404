"""Daemons for the command line to talk to: a real control server in a thread of its own, over fakes."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Generic, TypeVar

import attrs
import structlog
import trio

from supervisor.actors.settings import ActorSettings
from supervisor.control.address import ControlAddress, TcpAddress, UnixAddress
from supervisor.control.listener import ControlOptions, ControlServer
from supervisor.control.messages import InvalidParams
from supervisor.control.service import ConversationService
from supervisor.control.token import Token
from supervisor.conversation.json import JsonObject
from supervisor.conversation.parse import InvalidSpec, parse_overrides
from supervisor.conversation.spec import SpecOverrides
from tests.control.scripted_service import ScriptedService
from tests.fakes.agent import FakeAgent
from tests.fakes.engine import FakeEngine
from tests.world import SETTINGS, World, open_world

TOKEN = "the-token"
PATIENCE = 30.0
"""Seconds of real time after which a test that waits has failed."""

_T = TypeVar("_T")
_Inside = TypeVar("_Inside")


@attrs.define
class Daemon(Generic[_Inside]):
    """A control server that runs in another thread. `inside` is what it serves."""

    inside: _Inside
    unix: UnixAddress
    tcp: TcpAddress
    _trio_token: trio.lowlevel.TrioToken
    _end: trio.Event

    def do(self, work: Callable[[], _T]) -> _T:
        """Do something in the server's thread."""
        return trio.from_thread.run_sync(work, trio_token=self._trio_token)

    def end(self) -> None:
        """Let it go away; gone already is fine."""
        with suppress(trio.RunFinishedError):
            self._trio_token.run_sync_soon(self._end.set)


def parse_spec(value: JsonObject) -> SpecOverrides:
    """Read a spec as the daemon does."""
    try:
        return parse_overrides(value)
    except InvalidSpec as error:
        raise InvalidParams(error.path, error.message) from error


@asynccontextmanager
async def scripted() -> AsyncIterator[tuple[ScriptedService, ConversationService]]:
    """A service that does what the test says."""
    service = ScriptedService()
    yield service, service


def world(
    directory: Path, settings: ActorSettings = SETTINGS
) -> Callable[[], AbstractAsyncContextManager[tuple[World, ConversationService]]]:
    """The real actors over the fakes, which take no time."""

    @asynccontextmanager
    async def open_it() -> AsyncIterator[tuple[World, ConversationService]]:
        agent = FakeAgent()
        agent.boot_time = 0.0
        async with open_world(directory, settings=settings, engine=FakeEngine(latency=0.0), agent=agent) as opened:
            yield opened, opened.supervision.supervisor

    return open_it


@contextmanager
def serving(
    directory: Path, open_service: Callable[[], AbstractAsyncContextManager[tuple[_Inside, ConversationService]]]
) -> Iterator[Daemon[_Inside]]:
    """Serve in a thread until the context ends; what the server logs goes nowhere."""
    started: SimpleQueue[Daemon[_Inside] | BaseException] = SimpleQueue()

    async def serve() -> None:
        end = trio.Event()
        async with open_service() as (inside, service), trio.open_nursery() as nursery:
            server = ControlServer(service, parse_spec, ControlOptions(Token(TOKEN), shutdown=0.5))
            addresses: list[ControlAddress] = [UnixAddress(directory / "control.sock"), TcpAddress("127.0.0.1", 0)]
            unix, tcp = await nursery.start(server.run, addresses)
            started.put(Daemon(inside, unix, tcp, trio.lowlevel.current_trio_token(), end))
            await end.wait()
            server.begin_shutdown()

    def run() -> None:
        try:
            trio.run(serve)
        except BaseException as error:
            started.put(error)
            raise

    structlog.configure(processors=[_drop])
    thread = threading.Thread(target=run, name="daemon")
    thread.start()
    daemon = started.get(timeout=PATIENCE)
    if isinstance(daemon, BaseException):
        raise daemon
    try:
        yield daemon
    finally:
        daemon.end()
        thread.join(PATIENCE)
        structlog.reset_defaults()
        assert not thread.is_alive()


def _drop(*_: object) -> str:
    raise structlog.DropEvent
