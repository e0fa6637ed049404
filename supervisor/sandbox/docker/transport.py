"""HTTP over the engine's Unix socket, with connections that are kept and closed properly.

docker-py's own adapter keeps connections by full URL, so that hardly one is ever used twice, and leaves the socket of a
connection that is refused to the garbage collector.
"""

import socket
from collections.abc import Mapping

from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection


class UnixAdapter(HTTPAdapter):
    """Sends every request to the socket at `path`, over at most `size` connections that are kept."""

    def __init__(self, path: str, size: int) -> None:
        super().__init__()
        self._pool = _UnixPool("localhost", maxsize=size, path=path)

    def get_connection_with_tls_context(
        self,
        request: PreparedRequest,  # noqa: ARG002  # all go the same way
        verify: bool | str | None,  # noqa: ARG002  # the same
        proxies: Mapping[str, str] | None = None,  # noqa: ARG002  # the same
        cert: tuple[str, str] | str | None = None,  # noqa: ARG002  # the same
    ) -> HTTPConnectionPool:
        """The one pool."""
        return self._pool

    def request_url(self, request: PreparedRequest, proxies: Mapping[str, str] | None) -> str:  # noqa: ARG002  # the same
        """The URL without a host, which a Unix socket has not."""
        return request.path_url

    def close(self) -> None:
        """Close the connections that nobody uses; the others are closed after use."""
        self._pool.close()
        super().close()


class _UnixConnection(HTTPConnection):
    def __init__(self, host: str, path: str, timeout: float | None = None, **_: object) -> None:
        super().__init__(host, timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _UnixPool(HTTPConnectionPool):
    ConnectionCls = _UnixConnection
