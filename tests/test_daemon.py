"""What the daemon does beside serving: it feeds systemd's watchdog, and only while it makes progress."""

import socket
from pathlib import Path

import trio
from trio.testing import MockClock

from supervisor.config import Config
from supervisor.daemon import Settings, _Daemon
from supervisor.notify import Notifier
from tests.world import open_world


def received(peer: socket.socket) -> list[bytes]:
    """Everything that was told since the last call."""
    told: list[bytes] = []
    while True:
        try:
            told.append(peer.recv(4096))
        except BlockingIOError:
            return told


async def test_watchdog_is_fed_only_while_the_journal_answers(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A journal that cannot commit is no progress: systemd hears nothing until it can again."""
    address = str(tmp_path / "notify.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(address)
        peer.setblocking(False)
        async with open_world(tmp_path) as world, trio.open_nursery() as nursery:
            notifier = Notifier({"NOTIFY_SOCKET": address})
            daemon = _Daemon(Settings(Config()), Config, notifier, world.supervision, None)
            nursery.start_soon(daemon._feed_watchdog, 10.0)
            await trio.sleep(25)
            assert received(peer) == [b"WATCHDOG=1"] * 3
            stuck = object()
            world.supervision.journal._writing.acquire_on_behalf_of_nowait(stuck)
            await trio.sleep(60)
            assert received(peer) == []
            world.supervision.journal._writing.release_on_behalf_of(stuck)
            await trio.sleep(25)
            assert b"WATCHDOG=1" in received(peer)
            nursery.cancel_scope.cancel()
