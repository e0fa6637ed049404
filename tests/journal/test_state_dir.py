"""The state directory: private, and one daemon's at a time."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.journal.state_dir import StateDirError, locked_state_dir

TRY_TO_LOCK = """
import sys
from pathlib import Path
from supervisor.journal.state_dir import StateDirError, locked_state_dir
try:
    with locked_state_dir(Path(sys.argv[1])):
        print("locked")
except StateDirError as error:
    print(error)
"""


def lock_elsewhere(path: Path) -> str:
    """What another process says that tries to lock the directory."""
    return subprocess.run(
        [sys.executable, "-c", TRY_TO_LOCK, path], capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_directory_is_made_private(tmp_path: Path) -> None:
    """Missing parents are made, too; nobody else may look into it, nor into the lock."""
    path = tmp_path / "a" / "b"
    with locked_state_dir(path) as made:
        assert made == path
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert stat.S_IMODE((path / "lock").stat().st_mode) == 0o600


def test_second_daemon_is_refused(tmp_path: Path) -> None:
    """In this process and in another one, for as long as the first one holds it; what it holds stays."""
    with locked_state_dir(tmp_path):
        with pytest.raises(StateDirError, match="another conversationd"), locked_state_dir(tmp_path):
            pass
        assert "another conversationd" in lock_elsewhere(tmp_path)
    assert lock_elsewhere(tmp_path) == "locked\n"
    with locked_state_dir(tmp_path):
        pass


def test_children_do_not_inherit_the_lock(tmp_path: Path) -> None:
    """A program that the daemon started and that outlives it keeps no other daemon out."""
    with locked_state_dir(tmp_path):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, close_fds=False)
    try:
        assert lock_elsewhere(tmp_path) == "locked\n"
    finally:
        child.communicate(b"\n", timeout=60)


def test_symlinked_lock_is_refused(tmp_path: Path) -> None:
    """Nobody can lead the lock elsewhere."""
    (tmp_path / "target").touch()
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(StateDirError, match="cannot be used"), locked_state_dir(tmp_path / "state"):
        pass


def test_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    """With a sentence that says what to do."""
    (tmp_path / "file").touch()
    with pytest.raises(StateDirError, match="state_dir"), locked_state_dir(tmp_path / "file"):
        pass


def test_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    """Also one below something that is no directory."""
    (tmp_path / "file").touch()
    with pytest.raises(StateDirError), locked_state_dir(tmp_path / "file" / "below"):
        pass


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    """Neither by a lock that ended nor by one that was refused."""
    before = len(list(Path("/proc/self/fd").iterdir()))
    with locked_state_dir(tmp_path), pytest.raises(StateDirError), locked_state_dir(tmp_path):
        pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before
