"""The API keys: made at the first start, kept in a file that nobody else can read, compared in constant time."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from supervisor.control.token import Token
from supervisor.secret_file import UnsafeSecret, load_secret_text

_NAME: Final = "API keys"
_SHORTEST: Final = 16
_KEY_BYTES: Final = 32


@attrs.frozen
class ApiKeys:
    """The secrets of which callers have to show one."""

    keys: Sequence[Token]

    def match(self, shown: str) -> bool:
        """Compare with every key, so that the time tells nothing of which is right."""
        return sum(key.matches(shown) for key in self.keys) > 0


def load_api_keys(path: Path) -> ApiKeys:
    """Read the keys, one a line (`#` begins a comment), or make one if the file does not exist.

    Raises:
        UnsafeSecret: the file is not a regular one, not ours, open to others, or holds no usable key; or it cannot be
            made.
    """
    content = load_secret_text(path, _NAME, lambda: secrets.token_urlsafe(_KEY_BYTES))
    lines = [line.partition("#")[0].strip() for line in content.splitlines()]
    keys = [line for line in lines if line]
    if not keys:
        raise UnsafeSecret(f"the {_NAME} file {path} holds no key: delete it, and the next start makes one")
    if not all(_is_usable(key) for key in keys):
        raise UnsafeSecret(
            f"the {_NAME} file {path} holds a key that is not {_SHORTEST} or more printable ASCII characters"
        )
    return ApiKeys(tuple(Token(key) for key in keys))


def _is_usable(key: str) -> bool:
    return len(key) >= _SHORTEST and key.isascii() and key.isprintable() and " " not in key
