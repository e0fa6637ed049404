"""Amounts as people read them: bytes, and times that passed."""

from typing import Final

_STEPS: Final = ((86400.0, "d", 3600.0, "h"), (3600.0, "h", 60.0, "m"), (60.0, "m", 1.0, "s"))
_UNITS: Final = ("B", "kB", "MB", "GB", "TB")
_THOUSAND: Final = 1000
_FINE: Final = 10


def span(seconds: float) -> str:
    """A time that passed: `0.3s`, `42s`, `3m10s`, `2h5m`, `4d7h`. What is less than nothing is nothing."""
    seconds = max(seconds, 0.0)
    for size, unit, small, small_unit in _STEPS:
        if seconds >= size:
            rest = int(seconds % size / small)
            return f"{int(seconds / size)}{unit}" + (f"{rest}{small_unit}" if rest else "")
    return f"{seconds:.1f}s" if seconds < _FINE else f"{int(seconds)}s"


def age(seconds: float) -> str:
    """A time that passed, in its largest unit: `12s`, `3m`, `2h`, `4d`."""
    seconds = max(seconds, 0.0)
    for size, unit, _, _ in _STEPS:
        if seconds >= size:
            return f"{int(seconds / size)}{unit}"
    return f"{int(seconds)}s"


def amount(count: int) -> str:
    """A number of bytes: `512 B`, `1.2 MB`."""
    value, units = float(count), list(_UNITS)
    while value >= _THOUSAND and len(units) > 1:
        value /= _THOUSAND
        units.pop(0)
    return f"{count} B" if units[0] == "B" else f"{value:.1f} {units[0]}"
