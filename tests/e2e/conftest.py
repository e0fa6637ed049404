"""The real agent server in its own image, and daemons that run conversations with it."""

from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
from docker import APIClient

from tests.daemon_fixtures import MakeDaemon, make_daemon, raw
from tests.daemon_process import DaemonProcess
from tests.e2e.image import PORT, ImageBuildFailed, ensure_agent_image
from tests.e2e.work import secrets_told

__all__ = ["agent_daemon", "agent_image", "engine", "make_daemon", "out_loud", "raw"]

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
    started: list[DaemonProcess] = []

    def start(more: str = "") -> DaemonProcess:
        started.append(make_daemon(config_for(agent_image) + more))
        started[-1].start()
        return started[-1]

    yield start
    for daemon in started:
        assert secrets_told(daemon) == []


def config_for(image: str) -> str:
    """Agent servers that boot fast enough or not at all, and a log that keeps nothing back."""
    return (
        f'[sandbox]\nimage = "{image}"\npull = "never"\nport = {PORT}\nmemory = "2GiB"\n'
        '[agent]\ndriver = "v1"\n[timeouts]\nboot = "60s"\n[log]\nlevel = "debug"\nformat = "json"\n'
        '[restart]\nbackoff_initial = "100ms"\n'
    )
