"""An HTTP server over real sockets and a scripted service, and a real daemon that serves HTTP."""

from collections.abc import AsyncIterator, Iterator

import httpx2 as httpx
import pytest
import trio
from structlog.testing import capture_logs

from supervisor.control.address import ControlAddress, TcpAddress
from supervisor.control.methods import SpecParser
from supervisor.control.token import Token
from supervisor.http.connection import HttpLimits
from supervisor.http.keys import ApiKeys
from supervisor.http.server import HttpOptions, HttpServer
from tests.control.conftest import parse_spec, service
from tests.control.scripted_service import ScriptedService
from tests.daemon.conftest import config_for
from tests.daemon_fixtures import MakeDaemon, make_daemon, raw
from tests.daemon_process import DaemonProcess
from tests.http.clients import KEY, Running, http_client
from tests.http_door import HTTP, http_door

__all__ = ["make_daemon", "raw", "service"]


@pytest.fixture(autouse=True)
def _quiet_logs() -> Iterator[None]:
    """Tracebacks that a test provokes are not shown."""
    with capture_logs():
        yield


@pytest.fixture
def limits() -> HttpLimits:
    """What one connection may take; a module overrides it."""
    return HttpLimits()


@pytest.fixture
def options(limits: HttpLimits) -> HttpOptions:
    """How the server serves; a module overrides it."""
    keys = ApiKeys((Token("another-key-of-the-tests"), Token(KEY)))
    return HttpOptions(keys, ("proxy.example:8443",), ("https://good.example",), limits=limits)


@pytest.fixture
def address() -> ControlAddress:
    """Where the server listens; a module overrides it."""
    return TcpAddress("127.0.0.1", 0)


@pytest.fixture
def spec_parser() -> SpecParser:
    """How specs are read; a module overrides it."""
    return parse_spec


@pytest.fixture
async def running(
    nursery: trio.Nursery,
    service: ScriptedService,
    options: HttpOptions,
    address: ControlAddress,
    spec_parser: SpecParser,
) -> Running:
    """The server, listening."""
    server = HttpServer(service, spec_parser, options)
    return Running(server, service, await nursery.start(server.run, address))


@pytest.fixture
async def client(running: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it that shows a key."""
    async with http_client(running.address) as client:
        yield client


@pytest.fixture
def http_daemon(make_daemon: MakeDaemon, tiny_image: str) -> DaemonProcess:
    """A real daemon over the real engine that serves HTTP and runs."""
    daemon = make_daemon(config_for(tiny_image, HTTP))
    daemon.start()
    return daemon


@pytest.fixture
async def daemon_client(http_daemon: DaemonProcess) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the real daemon."""
    async with http_client(*http_door(http_daemon)) as client:
        yield client
