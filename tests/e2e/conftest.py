"""The real agent server in its own image, and daemons that run conversations with it."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
from docker import APIClient

from tests.daemon_fixtures import MakeDaemon, make_daemon, raw
from tests.daemon_process import DaemonProcess
from tests.e2e.image import ImageBuildFailed, ensure_agent_image
from tests.e2e.machine import V0, V1, Program
from tests.e2e.work import secrets_told

__all__ = ["agent_daemon", "agent_image", "engine", "make_daemon", "older_daemon", "out_loud", "raw"]

StartAgentDaemon: TypeAlias = Callable[[str], DaemonProcess]


@pytest.fixture(scope="session")
def out_loud(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Prints a line that a person sees at once: what takes minutes must not look hung."""
    terminal: pytest.TerminalReporter = pytestconfig.pluginmanager.getplugin("terminalreporter")
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            terminal.ensure_newline()
            terminal.write_line(line)

    return say


@pytest.fixture(scope="session")
def engine(engine_url: str) -> Iterator[APIClient]:
    """A client of the engine, for the whole session."""
    api = APIClient(engine_url, version="auto", timeout=60)
    yield api
    api.close()


@pytest.fixture(scope="session")
def agent_image(engine_url: str, out_loud: Callable[[str], None]) -> str:
    """The agent's image, built if this engine does not have it yet."""
    try:
        return ensure_agent_image(engine_url, out_loud)
    except ImageBuildFailed as error:
        pytest.fail(f"these tests need an image with the agent server: {error}", pytrace=False)


@pytest.fixture
def agent_daemon(make_daemon: MakeDaemon, agent_image: str) -> Iterator[StartAgentDaemon]:
    """Starts daemons whose conversations are real agents; whatever a test did with them, no secret was told."""
    yield from _daemons(make_daemon, config_for(agent_image))


@pytest.fixture
def older_daemon(make_daemon: MakeDaemon, agent_image: str) -> Iterator[StartAgentDaemon]:
    """The same for the older server, of which there is a stub."""
    yield from _daemons(make_daemon, config_for(agent_image, "v0", V0))


def _daemons(make_daemon: MakeDaemon, config: str) -> Iterator[StartAgentDaemon]:
    started: list[DaemonProcess] = []

    def start(more: str = "") -> DaemonProcess:
        started.append(make_daemon(config + more))
        started[-1].start()
        return started[-1]

    yield start
    for daemon in started:
        assert secrets_told(daemon) == []


def config_for(image: str, driver: str = "v1", program: Program = V1) -> str:
    """Agent servers that boot fast enough or not at all, and a log that keeps nothing back."""
    return (
        f'[sandbox]\nimage = "{image}"\npull = "never"\nmemory = "2GiB"\n{program.config()}'
        f'[agent]\ndriver = "{driver}"\n[timeouts]\nboot = "60s"\n[log]\nlevel = "debug"\nformat = "json"\n'
        '[restart]\nbackoff_initial = "100ms"\n'
    )
