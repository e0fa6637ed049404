"""The listening sockets: Unix ones that are never open to others for a moment, and loopback TCP."""

import os
import secrets
import socket
import stat
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final

import attrs
import trio

from supervisor.control.address import ControlAddress, TcpAddress, UnixAddress
from supervisor.control.handshake import own_names
from supervisor.conversation.errors import ConversationdError

_SOCKET_MODE: Final = 0o660
_PARENT_MODE: Final = 0o750
# As many as the kernel lets wait: on a Unix socket whose backlog is full a client's connect does not wait, it fails.
_BACKLOG: Final = 4096
_LONGEST_PATH: Final = 107


class CannotListen(ConversationdError):
    """An address cannot be listened on; the message says why and what to do."""


@attrs.frozen
class Bound:
    """An address that is listened on. `names` are the `Host` headers that mean it, None for a Unix socket."""

    address: ControlAddress
    listeners: tuple[trio.SocketListener, ...]
    names: frozenset[bytes] | None


@asynccontextmanager
async def open_listeners(addresses: Sequence[ControlAddress]) -> AsyncIterator[tuple[Bound, ...]]:
    """Listen on every address; at the end everything is closed and the socket files that are still ours are removed.

    Raises:
        CannotListen: one of them cannot be had; then none is.
    """
    with ExitStack() as opened:
        bound: list[Bound] = []
        for address in addresses:
            if isinstance(address, UnixAddress):
                bound.append(opened.enter_context(_listen_unix(address)))
            else:
                for one in await _listen_tcp(address):
                    opened.callback(_close, one)
                    bound.append(one)
        yield tuple(bound)


async def _listen_tcp(address: TcpAddress) -> Sequence[Bound]:
    try:
        listeners = await trio.open_tcp_listeners(address.port, host=address.host)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: {error.strerror or error}") from error
    return [_bound_tcp(address, listener) for listener in listeners]


def _bound_tcp(address: TcpAddress, listener: trio.SocketListener) -> Bound:
    host, port = listener.socket.getsockname()[:2]
    return Bound(
        TcpAddress(host, port), (listener,), own_names(address, port) | own_names(TcpAddress(host, port), port)
    )


def _close(bound: Bound) -> None:
    for listener in bound.listeners:
        listener.socket.close()


@contextmanager
def _listen_unix(address: UnixAddress) -> Iterator[Bound]:
    path = address.path
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise CannotListen(f"cannot listen on {address}: the path is longer than {_LONGEST_PATH} bytes")
    try:
        _make_parent(path.parent)
        _make_way(path)
        listening = _bind(path)
    except OSError as error:
        raise CannotListen(f"cannot listen on {address}: {error.strerror or error}") from error
    ours = path.stat()
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(listening))
    try:
        yield Bound(address, (listener,), None)
    finally:
        listening.close()
        _remove(path, ours)


def _bind(path: Path) -> socket.socket:
    """Bind under a private name, set the mode, and only then appear under the real one."""
    private = path.with_name(f".{secrets.token_hex(4)}")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(str(private))
        private.chmod(_SOCKET_MODE)
        listening.listen(_BACKLOG)
        private.rename(path)
    except OSError:
        listening.close()
        private.unlink(missing_ok=True)
        raise
    return listening


def _make_parent(directory: Path) -> None:
    """Make it if it is missing, with its mode whatever the umask; one that is there is somebody's who knows why."""
    try:
        directory.mkdir(parents=True)
    except FileExistsError:
        return
    directory.chmod(_PARENT_MODE)


def _make_way(path: Path) -> None:
    """Check that nobody listens on the path; what a dead daemon left there is replaced by the new socket.

    Raises:
        CannotListen: somebody does, or it is no socket at all.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotListen(f"cannot listen on unix:{path}: there is a file of that name which is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except BlockingIOError:
            # Its backlog is full: busy is not dead.
            pass
    raise CannotListen(f"cannot listen on unix:{path}: another daemon listens there")


def _remove(path: Path, ours: os.stat_result) -> None:
    try:
        now = path.lstat()
        if (now.st_dev, now.st_ino) == (ours.st_dev, ours.st_ino):
            path.unlink()
    except OSError:
        # Gone, or out of reach: either way there is nothing of ours to remove.
        return
