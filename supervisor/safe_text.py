"""Text that others wrote, made safe to print: what a sandbox says must not drive the terminal."""

import re
from typing import Final

_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROL_AND_BREAKS: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_COLOUR: Final = re.compile(r"(\x1b\[[0-9;:]*m)")


def one_line(text: str) -> str:
    """Show control characters, line breaks and changes of direction as escapes."""
    return _CONTROL_AND_BREAKS.sub(_escaped, text)


def log_line(text: str) -> str:
    """Keep tabs and colours, which logs are full of, and show every other control character as an escape."""
    parts = _COLOUR.split(text.removesuffix("\r"))
    shown = "".join(part if index % 2 else _CONTROL.sub(_escaped, part) for index, part in enumerate(parts))
    return f"{shown}\x1b[0m" if len(parts) > 1 else shown


def _escaped(match: re.Match[str]) -> str:
    return match.group().encode("unicode_escape").decode()
