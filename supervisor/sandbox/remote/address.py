"""Where things are by their URLs: the host, and the sandboxes that it tells of."""

import ipaddress
from typing import Final
from urllib.parse import urlsplit

import attrs

from supervisor.sandbox.port import Endpoint

_PORTS: Final = {"http": 80, "https": 443}


@attrs.frozen
class HostAddress:
    """Where the runtime API is: a URL without a slash at its end."""

    url: str

    def __str__(self) -> str:
        return self.url


def parse_host_address(text: str) -> HostAddress:
    """Read the URL of a host.

    Raises:
        ValueError: it is none, or a key would be sent there in the clear.
    """
    endpoint = parse_endpoint(text)
    if endpoint is None:
        raise ValueError('must be like "https://runtime.example.org", without a user, "?" or "#"')
    if not endpoint.tls and not _is_loopback(endpoint.host):
        raise ValueError("would send the key in the clear: only https, or http to this host itself, is allowed")
    return HostAddress(endpoint.url)


def parse_endpoint(url: str) -> Endpoint | None:
    """Read the URL of something that speaks HTTP; None for what is none, or has more than a path."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return None
    plain = url.isascii() and url.isprintable() and " " not in url
    if not plain or not host or parts.scheme not in _PORTS or "@" in parts.netloc or parts.query or parts.fragment:
        return None
    return Endpoint(host, port or _PORTS[parts.scheme], parts.scheme == "https", parts.path.rstrip("/"))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
