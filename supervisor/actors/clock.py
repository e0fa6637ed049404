"""The wall clock, as a thing that tests can set."""

from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """Tells the wall time. Durations are never measured with it: Trio's clock does that."""

    def now(self) -> datetime:
        """The time, in UTC."""


class SystemClock:
    """The host's clock."""

    def now(self) -> datetime:
        """The time, in UTC."""
        return datetime.now(UTC)
