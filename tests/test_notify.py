"""sd_notify, heard on a real datagram socket."""

import os
import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from supervisor.notify import Notifier, watchdog_interval


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket on a path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        yield listener


def _notifier(manager: socket.socket) -> Notifier:
    return Notifier({"NOTIFY_SOCKET": manager.getsockname()})


def test_notifier_says_each_thing_in_one_datagram(manager: socket.socket) -> None:
    """The messages are those that systemd documents."""
    notifier = _notifier(manager)
    notifier.ready()
    notifier.status("3 running")
    notifier.watchdog()
    notifier.stopping()
    assert [manager.recv(4096) for _ in range(4)] == [b"READY=1", b"STATUS=3 running", b"WATCHDOG=1", b"STOPPING=1"]


def test_reloading_carries_the_monotonic_time(manager: socket.socket) -> None:
    """Systemd tells an old reload from a new one by the time in it, in microseconds."""
    before = time.monotonic_ns() // 1000
    _notifier(manager).reloading()
    first, second = manager.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    assert before <= int(second.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000


def test_status_cannot_smuggle_in_another_message(manager: socket.socket) -> None:
    """A line break in a status is a space, so no text becomes an assignment of its own."""
    _notifier(manager).status("one\nREADY=1\r\ntwo")
    assert manager.recv(4096) == b"STATUS=one READY=1 two"


def test_notifier_knows_abstract_addresses() -> None:
    """A leading @ stands for the NUL of an abstract address."""
    address = f"conversationd-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{address}")
        Notifier({"NOTIFY_SOCKET": f"@{address}"}).ready()
        listener.setblocking(False)
        assert listener.recv(4096) == b"READY=1"


def test_notifier_without_a_socket_does_nothing() -> None:
    """Outside systemd nobody is told, and nothing is logged."""
    with structlog.testing.capture_logs() as lines:
        Notifier({}).ready()
    assert lines == []


def test_notifier_reads_the_process_environment_by_default(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon makes it without arguments."""
    monkeypatch.setenv("NOTIFY_SOCKET", manager.getsockname())
    Notifier().ready()
    assert manager.recv(4096) == b"READY=1"


def test_failure_is_logged_once_until_it_works_again(manager: socket.socket, tmp_path: Path) -> None:
    """A manager that is away costs one line, not one for each beat of the watchdog, and a new failure is a new line."""
    notifier = _notifier(manager)
    path, aside = tmp_path / "notify", tmp_path / "aside"
    with structlog.testing.capture_logs() as lines:
        path.rename(aside)
        notifier.watchdog()
        notifier.watchdog()
        aside.rename(path)
        notifier.watchdog()
        path.rename(aside)
        notifier.watchdog()
    assert [(line["event"], line["log_level"]) for line in lines] == [("notify.failed", "warning")] * 2
    assert lines[0]["address"] == str(path)
    assert manager.recv(4096) == b"WATCHDOG=1"


def test_a_manager_that_does_not_read_never_blocks_us(manager: socket.socket) -> None:
    """A full queue drops the message with one line."""
    notifier = _notifier(manager)
    with structlog.testing.capture_logs() as lines:
        for _ in range(100_000):
            notifier.watchdog()
            if lines:
                break
    assert [line["event"] for line in lines] == ["notify.failed"]


def test_an_address_of_another_kind_is_no_error_of_ours() -> None:
    """What is no path that can be sent to is told like any other failure."""
    with structlog.testing.capture_logs() as lines:
        Notifier({"NOTIFY_SOCKET": "/" + "a" * 200}).ready()
        Notifier({"NOTIFY_SOCKET": "vsock:2:1"}).ready()
    assert [line["event"] for line in lines] == ["notify.failed"] * 2


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": ""}, None),
        ({"WATCHDOG_USEC": "often"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
    ],
)
def test_watchdog_interval_is_half_of_what_systemd_waits(environ: dict[str, str], seconds: float | None) -> None:
    """Two chances for each deadline, and none of our business if it is meant for another process."""
    assert watchdog_interval(environ) == seconds
