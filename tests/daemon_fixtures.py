"""Fixtures for every test that needs a real daemon over a real engine: import them in a conftest."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import docker
import pytest

from tests.daemon_process import DaemonProcess

MakeDaemon: TypeAlias = Callable[[str], DaemonProcess]


@pytest.fixture
def raw(engine_url: str) -> Iterator[docker.APIClient]:
    """docker-py itself, to look at the engine behind the daemon's back."""
    client = docker.APIClient(base_url=engine_url, version="auto")
    yield client
    client.close()


@pytest.fixture
def make_daemon(engine_url: str, raw: docker.APIClient, tmp_path: Path) -> Iterator[MakeDaemon]:
    """Makes daemons by their config, not started; ends them, and what their sandboxes left, at the end."""
    made: list[DaemonProcess] = []

    def make(config: str) -> DaemonProcess:
        directory = tmp_path / f"daemon{len(made)}"
        directory.mkdir()
        made.append(DaemonProcess(directory, config, {"DOCKER_HOST": engine_url}))
        return made[-1]

    yield make
    for daemon in made:
        try:
            daemon.stop()
        finally:
            remove_leftovers(raw, daemon)


def remove_leftovers(raw: docker.APIClient, daemon: DaemonProcess) -> None:
    """Remove every container and volume of a daemon's state directory."""
    remove_owned(raw, daemon.instance)


def remove_owned(raw: docker.APIClient, instance: str) -> None:
    """Remove every container and volume that carries an owner."""
    filters = {"label": f"io.conversationd.owner={instance}"}
    for container in raw.containers(all=True, filters=filters):
        raw.remove_container(container["Id"], v=True, force=True)
    for volume in raw.volumes(filters=filters)["Volumes"] or ():
        raw.remove_volume(volume["Name"])


def owned(raw: docker.APIClient, daemon: DaemonProcess) -> list[dict[str, str]]:
    """The engine's rows of all containers of a daemon's state directory."""
    rows: list[dict[str, str]] = raw.containers(
        all=True, filters={"label": f"io.conversationd.owner={daemon.instance}"}
    )
    return rows
