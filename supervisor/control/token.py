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
_MOST_READ: Final = 64 * 1024
_NAME: Final = "token file"


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
        secret = read_secret(path, _NAME).strip()
    except FileNotFoundError:
        return make_secret(path, _NAME)
    if not secret or not secret.isascii() or not secret.isprintable():
        raise UnsafeToken(f"the {_NAME} {path} holds no token: delete it, and the next start makes a new one")
    return Token(secret)


def make_secret(path: Path, name: str) -> Token:
    """Make a random secret and the file that holds it; `name` is what errors call the file.

    Raises:
        UnsafeToken: it cannot be made.
    """
    secret = secrets.token_urlsafe(_TOKEN_BYTES)
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _OWNER_ONLY)
        with os.fdopen(file, "w") as stream:
            stream.write(f"{secret}\n")
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise UnsafeToken(f"the {name} {path} cannot be made: {error.strerror}") from error
    return Token(secret)


def read_secret(path: Path, name: str) -> str:
    """Read a file that only its owner, us, can read; what is no ASCII in it comes as U+FFFD.

    Raises:
        FileNotFoundError: there is none.
        UnsafeToken: it is not a regular one, not ours, or open to others.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(file, "rb") as stream:
            _check(path, name, os.fstat(stream.fileno()))
            content = stream.read(_MOST_READ)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnsafeToken(f"the {name} {path} cannot be read: {error.strerror}") from error
    return content.decode("ascii", errors="replace")


def _check(path: Path, name: str, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeToken(f"the {name} {path} is not a regular file")
    if status.st_uid != os.geteuid():
        raise UnsafeToken(f"the {name} {path} belongs to user {status.st_uid}, not to user {os.geteuid()}")
    if stat.S_IMODE(status.st_mode) & ~_OWNER_ONLY:
        mode = stat.S_IMODE(status.st_mode)
        raise UnsafeToken(f"the {name} {path} has mode {mode:04o}, others may read it: chmod 0600 {path}")
