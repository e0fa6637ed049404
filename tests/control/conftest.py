"""A server over real sockets and a scripted service, and clients of several kinds."""

from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, settings

from supervisor.control.address import TcpAddress, UnixAddress
from supervisor.control.connection import ConnectionLimits
from supervisor.control.listener import ControlOptions, ControlServer
from supervisor.control.messages import InvalidParams
from supervisor.control.token import Token
from supervisor.conversation.json import JsonObject
from supervisor.conversation.spec import SpecOverrides
from tests.control.clients import TOKEN, Running
from tests.control.scripted_service import ScriptedService

settings.register_profile("steady", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")


def parse_spec(value: JsonObject) -> SpecOverrides:
    """Knows `image` only."""
    image = value.get("image")
    if set(value) != {"image"} or not isinstance(image, str):
        raise InvalidParams("spec.image", "must be a string")
    return SpecOverrides(image=image)


@pytest.fixture
def service() -> ScriptedService:
    """The service behind the server."""
    return ScriptedService()


@pytest.fixture
def limits() -> ConnectionLimits:
    """What one connection may take; a module overrides it."""
    return ConnectionLimits()


@pytest.fixture
def options(limits: ConnectionLimits) -> ControlOptions:
    """How the server serves; a module overrides it."""
    return ControlOptions(Token(TOKEN), ("https://good.example",), limits=limits)


@pytest.fixture
def server(service: ScriptedService, options: ControlOptions) -> ControlServer:
    """A server that does not run yet."""
    return ControlServer(service, parse_spec, options)


@pytest.fixture
async def running(nursery: trio.Nursery, tmp_path: Path, server: ControlServer, service: ScriptedService) -> Running:
    """The server, listening on a Unix socket and on loopback TCP."""
    unix = UnixAddress(tmp_path / "run" / "control.sock")
    bound = await nursery.start(server.run, [unix, TcpAddress("127.0.0.1", 0)])
    return Running(server, service, unix, bound[1])
