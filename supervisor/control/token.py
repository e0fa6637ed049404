"""The token of the TCP listeners: made at the first start, kept in a file that nobody else can read."""

import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Final

import attrs

from supervisor.conversation.errors import ConversationdError

_OWNER_ONLY: Final = 0o600
_TOKEN_BYTES: Final = 32
_MOST_READ: Final = 4096


class UnsafeToken(ConversationdError):
    """The token file cannot be trusted or used; the message says what to do about it."""


@attrs.frozen
class Token:
    """A secret that callers have to show."""

    secret: str = attrs.field(repr=False)

    def matches(self, shown: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.secret.encode(), shown.encode(errors="replace"))


def load_token(path: Path) -> Token:
    """Read the token, or make one if the file does not exist.

    Raises:
        UnsafeToken: the file is not a regular one, not ours, open to others, or empty; or it cannot be made.
    """
    try:
        return _read(path)
    except FileNotFoundError:
        return _create(path)
    except OSError as error:
        raise UnsafeToken(f"the token file {path} cannot be read: {error.strerror}") from error


def _create(path: Path) -> Token:
    secret = secrets.token_urlsafe(_TOKEN_BYTES)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _OWNER_ONLY)
        with os.fdopen(file, "w") as stream:
            stream.write(f"{secret}\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise UnsafeToken(f"the token file {path} cannot be made: {error.strerror}") from error
    return Token(secret)


def _read(path: Path) -> Token:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as stream:
        _check(path, os.fstat(stream.fileno()))
        content = stream.read(_MOST_READ)
    secret = content.decode("ascii", errors="replace").strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        raise UnsafeToken(f"the token file {path} holds no token: delete it, and the next start makes a new one")
    return Token(secret)


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeToken(f"the token file {path} is not a regular file")
    if status.st_uid != os.geteuid():
        raise UnsafeToken(f"the token file {path} belongs to user {status.st_uid}, not to user {os.geteuid()}")
    if stat.S_IMODE(status.st_mode) & ~_OWNER_ONLY:
        mode = stat.S_IMODE(status.st_mode)
        raise UnsafeToken(f"the token file {path} has mode {mode:04o}, others may read it: chmod 0600 {path}")
