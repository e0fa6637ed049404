"""Durations and sizes as people write them: "1m30s", "2GiB"."""

import re
from decimal import Decimal
from typing import Final

_SECONDS: Final = {"d": Decimal(86400), "h": Decimal(3600), "m": Decimal(60), "s": Decimal(1), "ms": Decimal("0.001")}
_BYTES: Final = {
    "B": 1,
    **{f"{prefix}B": 1000**power for power, prefix in enumerate(("k", "M", "G", "T"), start=1)},
    **{f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), start=1)},
    "KB": 1000,
}

# Digits are bounded so that no text, however long, becomes a number that takes time to make.
_NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,6})?)"
_DURATION = re.compile("".join(f"(?:{_NUMBER}{unit})?" for unit in _SECONDS))
_SIZE = re.compile(f"{_NUMBER}({'|'.join(_BYTES)})")


def parse_duration(text: str) -> float:
    """Read a duration, in seconds: numbers with the units d, h, m, s and ms, each at most once, largest first.

    Raises:
        ValueError: the text is no duration; says how one is written.
    """
    match = _DURATION.fullmatch(text)
    if not text or not match:
        raise ValueError(f'{_shortened(text)} is no duration; write it like "30s", "1m30s" or "500ms"')
    parts = zip(_SECONDS.values(), match.groups(), strict=True)
    return float(sum(Decimal(number) * seconds for seconds, number in parts if number))


def parse_size(text: str) -> int:
    """Read a size, in bytes, rounded down: a number with one of the units B, kB, MB, GB, TB, KiB, MiB, GiB, TiB.

    Raises:
        ValueError: the text is no size; says how one is written.
    """
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(f'{_shortened(text)} is no size; write it like "2GiB", "512MiB" or "1GB"')
    number, unit = match.groups()
    return int(Decimal(number) * _BYTES[unit])


def _shortened(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:37]}...")  # noqa: PLR2004 - a line's width, said once
