"""The token of the TCP listeners: made at the first start, kept in a file that nobody else can read."""

import hmac
import secrets
from pathlib import Path
from typing import Final

import attrs

from supervisor.secret_file import load_secret

_TOKEN_BYTES: Final = 32


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
        UnsafeSecret: the file is not a regular one, not ours, open to others, or empty; or it cannot be made.
    """
    return Token(load_secret(path, "token", lambda: secrets.token_urlsafe(_TOKEN_BYTES)))
