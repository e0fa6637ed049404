"""The state directory: private, and one daemon's at a time."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class StateDirError(Exception):
    """The state directory cannot be used; the message says why and what to do."""


@contextmanager
def locked_state_dir(path: Path) -> Iterator[Path]:
    """Make the directory if it is missing (mode 0700) and hold its lock for as long as the context lasts.

    Raises:
        StateDirError: it cannot be made or written, is no directory, or another daemon holds it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StateDirError(
            f"the state_dir {path} cannot be used: {error.strerror}: make it a directory that this user can write, "
            "or set [daemon] state_dir"
        ) from error
    try:
        _lock(lock, path)
        yield path
    finally:
        os.close(lock)


def _lock(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise StateDirError(
            f"the state_dir {path} belongs to another conversationd that is running: stop that one, "
            "or give this one a state_dir of its own"
        ) from error
