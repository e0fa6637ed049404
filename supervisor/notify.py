"""What systemd is told of us: the sd_notify protocol, one datagram for each message.

Without `$NOTIFY_SOCKET` nobody listens and nothing is sent. Telling never blocks and never raises: systemd draws its
own conclusions from a message that did not come.
"""

import os
import socket
import time
from collections.abc import Mapping

from supervisor.logs import get_logger

_log = get_logger()


class Notifier:
    """Tells the service manager what the daemon does."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        # systemd writes a leading "@" where the kernel wants the NUL of an abstract address.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._failed = False

    def ready(self) -> None:
        """Say that start-up is over, or that a reload is."""
        self._send("READY=1")

    def status(self, text: str) -> None:
        """Say in one line how we do; `systemctl status` shows it."""
        self._send(f"STATUS={' '.join(text.split())}")

    def reloading(self) -> None:
        """Say that the config is read again; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Say that we are ending."""
        self._send("STOPPING=1")

    def watchdog(self) -> None:
        """Say that we make progress; due every `watchdog_interval` seconds."""
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as peer:
                peer.sendto(message.encode(), self._address)
        except OSError as error:
            self._tell_once(error)
        else:
            self._failed = False

    def _tell_once(self, error: OSError) -> None:
        if not self._failed:
            _log.warning("notify.failed", error=str(error), address=self._address.replace("\0", "@"))
        self._failed = True


def watchdog_interval(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between two calls of `Notifier.watchdog`: half of what systemd waits; None if it does not wait for us."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    if not ours or not microseconds.isdecimal() or int(microseconds) == 0:
        return None
    return int(microseconds) / 2_000_000
