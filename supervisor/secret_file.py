"""Files with a secret of ours, kept where nobody else can read them; most are made at the first start."""

import os
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final

from supervisor.conversation.errors import ConversationdError

_OWNER_ONLY: Final = 0o600
_MOST_READ: Final = 64 * 1024


class UnsafeSecret(ConversationdError):
    """The file cannot be trusted or used; the message says what to do about it."""


def load_secret(path: Path, what: str, make: Callable[[], str]) -> str:
    """Read the secret, or make one if the file does not exist; `what` is its name in errors.

    Raises:
        UnsafeSecret: the file is not a regular one, not ours, open to others, or empty; or it cannot be made.
    """
    secret = load_secret_text(path, what, make).strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        raise UnsafeSecret(f"the {what} file {path} holds no {what}: delete it, and the next start makes a new one")
    return secret


def load_secret_text(path: Path, what: str, make: Callable[[], str]) -> str:
    """Read the whole file, or make it if it does not exist; what is no ASCII in it comes as U+FFFD.

    Raises:
        UnsafeSecret: the file is not a regular one, not ours, open to others, or larger than 64 KiB; or it cannot be
            made.
    """
    try:
        return _read(path, what).decode("ascii", errors="replace")
    except FileNotFoundError:
        return _create(path, what, make())
    except OSError as error:
        raise UnsafeSecret(f"the {what} file {path} cannot be read: {error.strerror}") from error


def read_secret(path: Path, what: str) -> bytes:
    """Read the whole of a file that somebody else has made.

    Raises:
        UnsafeSecret: it does not exist, is not a regular file, not ours, open to others, or larger than 64 KiB.
    """
    try:
        return _read(path, what)
    except OSError as error:
        raise UnsafeSecret(f"the {what} file {path} cannot be read: {error.strerror}") from error


def _create(path: Path, what: str, secret: str) -> str:
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        # Written aside first: who ends in the middle leaves no file of this name without a secret.
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _OWNER_ONLY)
        try:
            with os.fdopen(file, "w") as stream:
                stream.write(f"{secret}\n")
                stream.flush()
                os.fsync(stream.fileno())
            os.link(aside, path)
        finally:
            aside.unlink()
    except OSError as error:
        raise UnsafeSecret(f"the {what} file {path} cannot be made: {error.strerror}") from error
    return secret


def _read(path: Path, what: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as stream:
        _check(path, what, os.fstat(stream.fileno()))
        content = stream.read(_MOST_READ + 1)
    if len(content) > _MOST_READ:
        raise UnsafeSecret(f"the {what} file {path} is larger than {_MOST_READ} bytes")
    return content


def _check(path: Path, what: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeSecret(f"the {what} file {path} is not a regular file")
    if status.st_uid != os.geteuid():
        raise UnsafeSecret(f"the {what} file {path} belongs to user {status.st_uid}, not to user {os.geteuid()}")
    if stat.S_IMODE(status.st_mode) & ~_OWNER_ONLY:
        mode = stat.S_IMODE(status.st_mode)
        raise UnsafeSecret(f"the {what} file {path} has mode {mode:04o}, others may read it: chmod 0600 {path}")
