"""What the daemon does beside serving: it feeds systemd's watchdog, and tunes its interpreter."""

import gc
import socket
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from supervisor.config import Config, HttpConfig, RemoteConfig, SandboxConfig
from supervisor.daemon import Settings, _Daemon, _open_store, tune_interpreter
from supervisor.journal.store import Store
from supervisor.notify import Notifier
from supervisor.providers import Providers
from tests.fakes.engine import FakeEngine
from tests.world import open_world

PROVIDERS = Providers({"docker": FakeEngine(), "other": FakeEngine("other")}, "docker")


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
            daemon = _Daemon(Settings(Config(), {}, PROVIDERS), Config, notifier, world.supervision, None)
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


def test_journal_whose_log_cannot_be_filled_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told, and costs nobody the daemon."""

    def fail(_: Store) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Store, "fill_log", fail)
    with capture_logs() as logs, closing(_open_store(tmp_path / "journal.db")) as store:
        assert store.last_seq() == 0
    assert [(line["event"], line["error"]) for line in logs] == [("journal.log_not_filled", "disk I/O error")]


@pytest.fixture
def collections() -> Iterator[list[str]]:
    """Every look of the garbage collector from now on; the interpreter is as it was afterwards."""
    looks: list[str] = []

    def looked(phase: str, info: dict[str, int]) -> None:
        looks.append(f"{phase} {info['generation']}")

    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.collect()
    gc.callbacks.append(looked)
    yield looks
    gc.callbacks.remove(looked)
    gc.set_threshold(*threshold)
    sys.setswitchinterval(interval)


def test_objects_of_a_wave_of_events_do_not_wake_the_collector(collections: list[str]) -> None:
    """Some thousands that live at once, and all die by themselves, are not looked through; a growing heap is."""
    tune_interpreter()
    for _ in range(20):
        wave: list[object] = [[] for _ in range(5000)]
        del wave
    assert collections == []
    heap: list[object] = [[] for _ in range(50_000)]
    assert collections
    del heap


def test_reload_names_the_sections_that_need_a_restart() -> None:
    """The listeners are made once: a change of theirs waits."""
    settings = Settings(Config(), {}, PROVIDERS)
    assert settings.replace(Config(http=HttpConfig(enabled=True)), {}) == ("http",)
    assert settings.replace(Config(http=HttpConfig(enabled=True)), {}) == ()
    assert settings.replace(Config(http=HttpConfig(enabled=True), remote=RemoteConfig(memory=2**30)), {}) == ("remote",)


def with_provider(name: str) -> Config:
    """A config whose `[sandbox] provider` is this one."""
    return Config(sandbox=SandboxConfig(attrs.evolve(SandboxConfig().spec, provider=name)))


def test_reload_keeps_the_provider_until_the_named_one_is_open() -> None:
    """One that is open becomes the default at once, any other one at the next start, and "auto" stays what it was."""
    settings = Settings(with_provider("auto"), {}, PROVIDERS)
    assert settings.current().sandbox.provider == "docker"
    assert settings.replace(with_provider("other"), {}) == ()
    assert settings.current().sandbox.provider == "other"
    assert settings.replace(with_provider("closed"), {}) == ("sandbox.provider",)
    assert settings.current().sandbox.provider == "other"
    assert settings.replace(with_provider("auto"), {}) == ()
    assert settings.current().sandbox.provider == "docker"


async def test_cautions_and_a_default_engine_that_is_away_are_told_at_the_start(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nobody has to find out later that sandboxes have no walls, or that there are none to be had."""
    engine = FakeEngine()
    engine.caution = "no walls"
    engine.go_down()
    async with open_world(tmp_path, engine=engine) as world:
        daemon = _Daemon(Settings(Config(), {}, PROVIDERS), Config, Notifier({}), world.supervision, None)
        with capture_logs() as logs:
            daemon._warn_of_engines()
    assert [line["event"] for line in logs] == ["provider.caution", "provider.does_not_answer"]
    assert 'provider = "process"' in logs[1]["next"]


async def test_status_shows_what_is_to_be_known_of_the_sandboxes(tmp_path: Path, autojump_clock: MockClock) -> None:
    """For whoever asks systemd how the daemon does."""
    engine, address = FakeEngine(), str(tmp_path / "notify.sock")
    engine.caution = "no walls"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
        peer.bind(address)
        peer.setblocking(False)
        async with open_world(tmp_path, engine=engine) as world, trio.open_nursery() as nursery:
            notifier = Notifier({"NOTIFY_SOCKET": address})
            daemon = _Daemon(Settings(Config(), {}, PROVIDERS), Config, notifier, world.supervision, None)
            nursery.start_soon(daemon._tell_status)
            await trio.sleep(5)
            nursery.cancel_scope.cancel()
        assert received(peer) == [b"STATUS=conversations: 0 running, 0 starting, 0 paused, 0 error; no walls"]
