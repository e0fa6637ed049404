"""The state directory: private, and one daemon's at a time."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final


class StateDirError(Exception):
    """The state directory cannot be used; the message says why and what to do."""


@contextmanager
def locked_state_dir(path: Path) -> Iterator[Path]:
    """Make the directory if it is missing (mode 0700) and hold its lock for as long as the context lasts.

    Raises:
        StateDirError: it cannot be made or written, is no directory, or another daemon holds it; it or something in it
            is another user's, open to the writes of others, or a symbolic link.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        _check_owner(path)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateDirError(
            f"the state_dir {path} cannot be used: {error.strerror}: make it a directory that this user can write, "
            "or set [daemon] state_dir"
        ) from error
    try:
        _lock(lock, path)
        for name in _JOURNAL:
            _check_file(path / name)
        yield path
    finally:
        os.close(lock)


# SQLite follows links, and takes whatever file it is given.
_JOURNAL: Final = ("journal.db", "journal.db-wal", "journal.db-shm", "journal.db-journal")
_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


def _check_owner(path: Path) -> None:
    """A link to the directory is fine if it is ours or root's; what it leads to has to be ours alone."""
    if path.lstat().st_uid not in (os.geteuid(), 0):
        raise StateDirError(
            f"the state_dir {path} is a link of user {path.lstat().st_uid}: make it a directory of ours"
        )
    status = path.stat()
    if status.st_uid != os.geteuid():
        raise StateDirError(
            f"the state_dir {path} belongs to user {status.st_uid}, not to user {os.geteuid()}: chown it, or set "
            "[daemon] state_dir"
        )
    if status.st_mode & _WRITABLE_BY_OTHERS:
        raise StateDirError(f"others may write to the state_dir {path}: chmod 0700 {path}")


def _check_file(path: Path) -> None:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode):
        raise StateDirError(f"{path} is not a regular file: remove it")
    if status.st_uid != os.geteuid() or status.st_mode & _WRITABLE_BY_OTHERS:
        raise StateDirError(
            f"others may write to {path}, so it cannot be trusted: chown and chmod 0600 it, or remove it"
        )


def _lock(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StateDirError(
            f"the state_dir {path} belongs to another conversationd that is running: stop that one, "
            "or give this one a state_dir of its own"
        ) from error
