"""Which texts are secrets, and how they are kept out of what others read."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Final

from supervisor.conversation.json import JsonValue

_SECRET_NAME: Final = re.compile(r"key|token|secret|password|credential|authorization", re.IGNORECASE)
_SHORTEST: Final = 4


def secrets_in(value: JsonValue, *, secret: bool = False) -> Iterator[str]:
    """Every text below a key whose name sounds like a secret; with `secret` every text."""
    if isinstance(value, str):
        if secret:
            yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from secrets_in(item, secret=secret or bool(_SECRET_NAME.search(name)))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from secrets_in(item, secret=secret)


def redact(text: str, secrets: Iterable[str]) -> str:
    """Put asterisks for every secret that is long enough to be one, as it is and as JSON spells it."""
    for secret in sorted(set(secrets), key=len, reverse=True):
        if len(secret) >= _SHORTEST:
            for spelling in (secret, json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
                text = text.replace(spelling, "***")
    return text
