"""The daemon's files: for nobody else, and nobody else's file is taken for one of them."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.daemon_process import DaemonProcess
from tests.hostile.peer import client

PATIENCE = 60.0
PRECIOUS = b"somebody's\n"
NOBODY = 65534
UNAVAILABLE, CANNOT_CREATE = 69, 73


@pytest.fixture
def process(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon that is not started yet, without an engine."""
    process = DaemonProcess(tmp_path, f'[docker]\nhost = "unix://{tmp_path}/none"\n[agent]\ndriver = "none"\n')
    yield process
    process.stop()


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """Somebody's file, or one that is not there yet: a link to it should lead nowhere."""
    return tmp_path / "victim"


def run_to_its_end(process: DaemonProcess) -> tuple[int, str]:
    """How a daemon ends that should not come up, and what it says."""
    command = [sys.executable, "-m", "supervisor.cli.conversationd", "--config", str(process.config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stderr


def test_everything_is_private_whatever_the_umask(process: DaemonProcess) -> None:
    """State for the owner alone, the socket for its group, and all of it the daemon's own user's."""
    before = os.umask(0)
    try:
        process.start()
    finally:
        os.umask(before)
    with client(process.socket) as peer:
        peer.ask("daemon.info")
        modes = {path: path.lstat() for path in (process.state_dir, *process.state_dir.rglob("*"))}
        run = {path.name: path.lstat() for path in (process.socket.parent, *process.socket.parent.iterdir())}
    assert {"lock", "token", "journal.db", "journal.db-wal", "journal.db-shm"} <= {path.name for path in modes}
    assert {path.name: oct(one.st_mode) for path, one in modes.items() if stat.S_IMODE(one.st_mode) & 0o077} == {}
    assert {name: oct(stat.S_IMODE(one.st_mode)) for name, one in run.items()} == {
        "run": "0o750",
        "control.sock": "0o660",
    }
    assert {(one.st_uid, one.st_gid) for one in (*modes.values(), *run.values())} == {(os.geteuid(), os.getegid())}


@pytest.mark.parametrize(
    ("name", "code", "there"),
    [
        ("state/token", UNAVAILABLE, True),
        ("state/lock", CANNOT_CREATE, True),
        ("state/journal.db", CANNOT_CREATE, True),
        ("state/journal.db", CANNOT_CREATE, False),
        ("state/journal.db-wal", CANNOT_CREATE, True),
        ("state/journal.db-shm", CANNOT_CREATE, True),
        ("state/journal.db-shm", CANNOT_CREATE, False),
        ("state/journal.db-journal", CANNOT_CREATE, True),
        ("state/journal.db-journal", CANNOT_CREATE, False),
        ("run/control.sock", UNAVAILABLE, False),
    ],
)
def test_symbolic_link_is_not_followed(process: DaemonProcess, victim: Path, name: str, code: int, there: bool) -> None:
    """The daemon does not come up, says in a line which file it is, and leaves alone what the link leads to."""
    if there:
        victim.write_bytes(PRECIOUS)
    link = process.directory / name
    link.parent.mkdir(mode=0o700)
    link.symlink_to(victim)
    ended_with, said = run_to_its_end(process)
    assert ended_with == code
    assert "Traceback" not in said
    assert str(link.parent) in said
    assert (victim.read_bytes() if there else victim.exists()) == (PRECIOUS if there else False)
    assert link.is_symlink()


def open_to_the_group(directory: Path) -> None:
    """Everybody of its group may put files into it."""
    directory.mkdir()
    directory.chmod(0o770)


def with_a_journal_open_to_all(directory: Path) -> None:
    """The directory is private, and the journal in it was put there by somebody."""
    directory.mkdir(mode=0o700)
    (directory / "journal.db").touch()
    (directory / "journal.db").chmod(0o666)


def with_a_journal_that_is_a_directory(directory: Path) -> None:
    """No database can be there."""
    (directory / "journal.db").mkdir(parents=True)
    directory.chmod(0o700)


def with_a_journal_that_is_garbage(directory: Path) -> None:
    """What is there is no database."""
    directory.mkdir(mode=0o700)
    (directory / "journal.db").write_bytes(PRECIOUS * 1000)
    (directory / "journal.db").chmod(0o600)


def with_a_pipe_for_a_journal(directory: Path) -> None:
    """Whoever opens it waits for ever."""
    directory.mkdir(mode=0o700)
    os.mkfifo(directory / "journal.db", 0o600)


def of_somebody_else(directory: Path) -> None:
    """Another user's, where one can be made by us; else the root's, which is just that."""
    if os.geteuid() == 0:
        directory.mkdir(mode=0o700)
        os.chown(directory, NOBODY, NOBODY)
    else:
        directory.symlink_to("/")


@pytest.mark.parametrize(
    "prepare",
    [
        open_to_the_group,
        of_somebody_else,
        with_a_journal_open_to_all,
        with_a_journal_that_is_a_directory,
        with_a_journal_that_is_garbage,
        with_a_pipe_for_a_journal,
    ],
)
def test_state_that_others_could_have_written_is_refused(
    process: DaemonProcess, prepare: Callable[[Path], None]
) -> None:
    """The daemon ends with 73 and a line that says what to do, and nothing is made there."""
    prepare(process.state_dir)
    before = sorted(os.listdir(process.state_dir))  # noqa: PTH208 - names are all that is wanted
    ended_with, said = run_to_its_end(process)
    assert ended_with == CANNOT_CREATE
    assert "Traceback" not in said
    assert str(process.state_dir) in said
    assert set(os.listdir(process.state_dir)) - {"lock"} == set(before)  # noqa: PTH208


def test_state_directory_may_be_a_link_of_the_daemons_own(process: DaemonProcess, tmp_path: Path) -> None:
    """As systemd makes them, and people who have a larger disk elsewhere."""
    (tmp_path / "disk").mkdir(mode=0o700)
    process.state_dir.symlink_to(tmp_path / "disk")
    process.start()
    assert (tmp_path / "disk" / "journal.db").exists()
