"""A real daemon over a real engine, with tiny containers that have no agent."""

from collections.abc import AsyncIterator

import pytest

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, connect
from tests.daemon_fixtures import MakeDaemon, make_daemon, owned, raw
from tests.daemon_process import DaemonProcess

__all__ = ["client", "config_for", "daemon", "make_daemon", "owned", "raw"]


def config_for(image: str, more: str = "") -> str:
    """Containers that sleep, without a port; `more` is further TOML."""
    return (
        f'[sandbox]\nimage = "{image}"\npull = "never"\ncommand = ["sleep", "1000"]\nport = 0\nmemory = "64MiB"\n'
        f'[agent]\ndriver = "none"\n[restart]\nbackoff_initial = "50ms"\n{more}'
    )


@pytest.fixture
def daemon(make_daemon: MakeDaemon, tiny_image: str) -> DaemonProcess:
    """A daemon that runs."""
    daemon = make_daemon(config_for(tiny_image))
    daemon.start()
    return daemon


@pytest.fixture
async def client(daemon: DaemonProcess) -> AsyncIterator[ControlClient]:
    """A client of it."""
    async with connect(UnixAddress(daemon.socket)) as client:
        yield client
