"""Where the control channel listens, as the config writes it: `unix:/run/x.sock` or `tcp:127.0.0.1:8090`."""

from pathlib import Path
from typing import Final, TypeAlias

import attrs

_MAX_PORT: Final = 65535
_SYNTAX: Final = "an address is unix:/absolute/path or tcp:HOST:PORT"


@attrs.frozen
class UnixAddress:
    """A Unix socket by its absolute path."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


@attrs.frozen
class TcpAddress:
    """A TCP endpoint. `host` is without brackets; as a place to listen, `port` 0 lets the kernel choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp:{self.authority}"

    @property
    def authority(self) -> str:
        """`host:port` as URLs and `Host` headers write it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


ControlAddress: TypeAlias = UnixAddress | TcpAddress


def parse_address(text: str) -> ControlAddress:
    """Read an address as the config and the command line write it.

    Raises:
        ValueError: it is none; the message says what is allowed.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "unix":
        return _parse_unix(text, rest)
    if scheme == "tcp":
        return _parse_tcp(text, rest)
    raise ValueError(f"{text!r}: {_SYNTAX}")


def _parse_unix(text: str, rest: str) -> UnixAddress:
    path = Path(rest)
    if not path.is_absolute() or "\0" in rest:
        raise ValueError(f"{text!r}: {_SYNTAX}")
    return UnixAddress(path)


def _parse_tcp(text: str, rest: str) -> TcpAddress:
    host, _, port = rest.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not bare or (":" in bare and bare == host) or not (port.isascii() and port.isdigit()) or int(port) > _MAX_PORT:
        raise ValueError(f"{text!r}: {_SYNTAX}")
    return TcpAddress(bare, int(port))
