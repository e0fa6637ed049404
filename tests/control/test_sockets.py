"""Listening sockets."""

import socket
import stat
from contextlib import ExitStack
from pathlib import Path

import pytest

from supervisor.control.address import ControlAddress, TcpAddress, UnixAddress
from supervisor.control.sockets import CannotListen, open_listeners
from tests.control.clients import dial


def names_in(directory: Path) -> list[str]:
    """What a directory holds."""
    return [entry.name for entry in directory.iterdir()]


async def refused(*addresses: ControlAddress) -> str:
    """Why listening there is refused."""
    with pytest.raises(CannotListen) as caught:
        async with open_listeners(addresses):
            raise AssertionError("it listens")
    return str(caught.value)


async def test_unix_socket_is_for_its_group_in_a_directory_for_its_group(tmp_path: Path) -> None:
    """Socket 0660, parent 0750, made if missing; both gone or kept at the end as they should be."""
    path = tmp_path / "run" / "control.sock"
    async with open_listeners([UnixAddress(path)]) as (bound,):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
        assert names_in(path.parent) == ["control.sock"]
        assert bound.names is None
        await (await dial(bound.address)).aclose()
    assert list(path.parent.iterdir()) == []


async def test_unix_socket_is_never_open_to_others_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the umask, the name appears with its mode already set."""
    modes: list[int] = []
    rename = Path.rename

    def watched(source: Path, target: Path) -> Path:
        modes.append(stat.S_IMODE(source.stat().st_mode))
        assert not target.exists()
        return rename(source, target)

    monkeypatch.setattr(Path, "rename", watched)
    async with open_listeners([UnixAddress(tmp_path / "s")]):
        assert modes == [0o660]


async def test_unix_socket_that_a_dead_daemon_left_is_replaced(tmp_path: Path) -> None:
    """Nobody answers there."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with open_listeners([UnixAddress(path)]) as (bound,):
        await (await dial(bound.address)).aclose()


async def test_unix_socket_that_somebody_listens_on_is_left_alone(tmp_path: Path) -> None:
    """A second daemon is told so, and the first one goes on."""
    address = UnixAddress(tmp_path / "s")
    async with open_listeners([address]):
        assert "another daemon listens there" in await refused(address)
        await (await dial(address)).aclose()


async def test_unix_socket_that_somebody_is_too_busy_to_accept_on_is_left_alone(tmp_path: Path) -> None:
    """A full backlog is no sign of death."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as one:
        busy.bind(str(path))
        busy.listen(0)
        one.connect(str(path))
        assert "another daemon listens there" in await refused(UnixAddress(path))


async def test_unix_socket_takes_a_burst_of_connections(tmp_path: Path) -> None:
    """All at once, before the first one is accepted: where the backlog ends, clients fail instead of waiting."""
    path = tmp_path / "s"
    async with open_listeners([UnixAddress(path)]):
        with ExitStack() as burst:
            for _ in range(300):
                client = burst.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(str(path))


async def test_unix_socket_does_not_replace_a_file(tmp_path: Path) -> None:
    """It may be precious."""
    path = tmp_path / "s"
    path.write_text("precious")
    assert "no socket" in await refused(UnixAddress(path))
    assert path.read_text() == "precious"


async def test_unix_socket_of_a_successor_is_not_removed(tmp_path: Path) -> None:
    """At the end only what is still ours goes."""
    path = tmp_path / "s"
    async with open_listeners([UnixAddress(path)]):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.is_socket()


async def test_unix_socket_that_is_gone_at_the_end_is_no_trouble(tmp_path: Path) -> None:
    """Somebody cleaned up before us."""
    path = tmp_path / "s"
    async with open_listeners([UnixAddress(path)]):
        path.unlink()
    assert not path.exists()


async def test_unix_socket_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a half-made one nor its private name."""
    assert "longer than 107 bytes" in await refused(UnixAddress(tmp_path / ("x" * 200)))
    (tmp_path / "file").write_text("")
    assert "cannot listen on unix:" in await refused(UnixAddress(tmp_path / "file" / "s"))

    def fail(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", fail)
    assert "No space left" in await refused(UnixAddress(tmp_path / "s"))
    assert names_in(tmp_path) == ["file"]


async def test_tcp_gets_the_port_that_the_kernel_chose() -> None:
    """Port 0 is any; the names fit the real one."""
    async with open_listeners([TcpAddress("127.0.0.1", 0)]) as (bound,):
        assert isinstance(bound.address, TcpAddress)
        assert bound.address.port > 0
        assert bound.names is not None
        assert f"localhost:{bound.address.port}".encode() in bound.names
        await (await dial(bound.address)).aclose()
        assert str(bound.address) in await refused(bound.address)


async def test_listeners_are_all_or_none(tmp_path: Path) -> None:
    """When the second address cannot be had, the first one is free again."""
    first = UnixAddress(tmp_path / "s")
    await refused(first, TcpAddress("127.0.0.1", 0), UnixAddress(Path("/dev/null/x")))
    assert not first.path.exists()
