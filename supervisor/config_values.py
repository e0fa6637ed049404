"""The values of the config file: each reader makes one of TOML's into ours, or says in words what it has to be like.

All of them raise `NotAllowed`, with what to write instead.
"""

import ipaddress
import re
from pathlib import Path
from typing import Final

from supervisor.control.address import ControlAddress, UnixAddress, parse_address
from supervisor.conversation.strict import NotAllowed, absolute_path, listed, shown, text
from supervisor.sandbox.remote.address import HostAddress, parse_host_address

_LONGEST_SOCKET_PATH: Final = 107  # bytes that fit the kernel's sockaddr_un


def listener(value: object) -> ControlAddress:
    """One address to listen at: a Unix socket, or loopback TCP."""
    try:
        address = parse_address(text(value))
    except ValueError as error:
        raise NotAllowed(
            f'{shown(value)} is no listener; write it like "unix:/run/x/control.sock" or "tcp:127.0.0.1:8765"'
        ) from error
    if isinstance(address, UnixAddress):
        _check_socket_path(str(address.path))
    elif not _is_loopback(address.host):
        raise NotAllowed(
            f"{shown(value)} could be reached by other machines; only 127.0.0.0/8, [::1] and localhost are allowed"
        )
    return address


def _check_socket_path(path: str) -> None:
    if len(absolute_path(path).encode()) > _LONGEST_SOCKET_PATH:
        raise NotAllowed(f"a Unix socket's path has at most {_LONGEST_SOCKET_PATH} bytes")


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def listeners(value: object) -> tuple[ControlAddress, ...]:
    """Some of them, each once."""
    addresses = listed(listener)(value)
    if not addresses or len(set(addresses)) < len(addresses):
        raise NotAllowed("must name at least one listener, and none twice")
    return addresses


def origin(value: object) -> str:
    """A web page's origin, as browsers send it (RFC 6454)."""
    given = text(value)
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s*]+", given):
        raise NotAllowed(f'{shown(given)} is no origin; write it like "http://localhost:3000"')
    return given


def host(value: object) -> str:
    """A host, perhaps with a port, as browsers send it."""
    given = text(value)
    if not re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", given):
        raise NotAllowed(f'{shown(given)} is no host; write it as browsers do, like "conversations.example.org:8443"')
    return given


def webhook_url(value: object) -> str | None:
    """A webhook's URL; None for an empty text. Errors never show it: whoever knows it may post to it."""
    url = text(value)
    if url and not re.fullmatch(r"https?://[^/\s@?#]+(/[^\s#]*)?", url):
        raise NotAllowed('must be like "https://example.org/alerts", without a user, spaces or a "#"')
    return url or None


def alert_command(value: object) -> tuple[str, ...] | None:
    """A program by its whole path, and its arguments; None for an empty list."""
    argv = listed(text)(value)
    if argv:
        absolute_path(argv[0])
    return argv or None


def process_command(value: object) -> tuple[str, ...]:
    """A program and its arguments."""
    argv = listed(text)(value)
    if not argv or not argv[0]:
        raise NotAllowed("must name a program")
    return argv


def engine_address(value: object) -> str | None:
    """A Docker Engine's address; None for an empty text."""
    address = text(value)
    if address and not re.fullmatch(r"(unix:///|tcp://|https?://)\S+", address):
        raise NotAllowed(f'{shown(address)} is no engine; write it like "unix:///var/run/docker.sock"')
    return address or None


def remote_host(value: object) -> HostAddress | None:
    """The address of a runtime API's host; None for an empty text."""
    address = text(value)
    try:
        return parse_host_address(address) if address else None
    except ValueError as error:
        raise NotAllowed(str(error)) from error


def directory(value: object) -> Path:
    """A whole path."""
    return Path(absolute_path(value))


def optional_path(value: object) -> Path | None:
    """A whole path; None for an empty text."""
    return None if value == "" else directory(value)
