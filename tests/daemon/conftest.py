"""A real daemon over a real engine, with tiny containers that have no agent."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import docker
import pytest

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, connect
from tests.daemon_process import DaemonProcess

Connect = Callable[[], AbstractAsyncContextManager[ControlClient]]


def config_for(image: str, more: str = "") -> str:
    """Containers that sleep, without a port; `more` is further TOML."""
    return (
        f'[sandbox]\nimage = "{image}"\npull = "never"\ncommand = ["sleep", "1000"]\nport = 0\nmemory = "64MiB"\n'
        f'[agent]\ndriver = "none"\n[restart]\nbackoff_initial = "50ms"\n{more}'
    )


@pytest.fixture
def raw(engine_url: str) -> Iterator[docker.APIClient]:
    """docker-py itself, to look at the engine behind the daemon's back."""
    client = docker.APIClient(base_url=engine_url, version="auto")
    yield client
    client.close()


@pytest.fixture
def make_daemon(engine_url: str, raw: docker.APIClient, tmp_path: Path) -> Iterator[Callable[[str], DaemonProcess]]:
    """Makes daemons by their config, not started; ends them, and what their sandboxes left, at the end."""
    made: list[DaemonProcess] = []

    def make(config: str) -> DaemonProcess:
        directory = tmp_path / f"daemon{len(made)}"
        directory.mkdir()
        made.append(DaemonProcess(directory, config, {"DOCKER_HOST": engine_url}))
        return made[-1]

    yield make
    for daemon in made:
        daemon.stop()
        remove_leftovers(raw, daemon)


@pytest.fixture
def daemon(make_daemon: Callable[[str], DaemonProcess], tiny_image: str) -> DaemonProcess:
    """A daemon that runs."""
    daemon = make_daemon(config_for(tiny_image))
    daemon.start()
    return daemon


@pytest.fixture
async def client(daemon: DaemonProcess) -> AsyncIterator[ControlClient]:
    """A client of it."""
    async with connect(UnixAddress(daemon.socket)) as client:
        yield client


def remove_leftovers(raw: docker.APIClient, daemon: DaemonProcess) -> None:
    """Remove every container and volume of a daemon's state directory."""
    for container in owned(raw, daemon):
        raw.remove_container(container["Id"], v=True, force=True)
    for volume in raw.volumes(filters={"label": f"io.conversationd.owner={daemon.instance}"})["Volumes"] or ():
        raw.remove_volume(volume["Name"])


def owned(raw: docker.APIClient, daemon: DaemonProcess) -> list[dict[str, str]]:
    """The engine's rows of all containers of a daemon's state directory."""
    rows: list[dict[str, str]] = raw.containers(
        all=True, filters={"label": f"io.conversationd.owner={daemon.instance}"}
    )
    return rows
