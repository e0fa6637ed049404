"""The HTTP side of a daemon under test: how it is asked for, where it is, and its key. No pytest in here."""

import json
from typing import Final

from supervisor.control.address import TcpAddress, parse_address
from tests.daemon_process import DaemonProcess

HTTP: Final = '[http]\nenabled = true\nlisten = "tcp:127.0.0.1:0"\n'
"""What to add to a daemon's config."""


def http_door(daemon: DaemonProcess) -> tuple[TcpAddress, str]:
    """The address that the daemon serves HTTP on, from its log, and the API key that it made."""
    ready = [json.loads(line) for line in daemon.log.read_text().splitlines() if '"daemon.ready"' in line]
    address = parse_address(ready[-1]["listen"][-1])
    assert isinstance(address, TcpAddress)
    return address, (daemon.state_dir / "api-keys").read_text().strip()
