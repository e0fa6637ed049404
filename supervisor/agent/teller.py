"""Telling what changes, and nothing twice."""

from collections.abc import Callable

from supervisor.conversation.record import ExecutionStatus


class Teller:
    """Reports each status that differs from the one before."""

    def __init__(self, report: Callable[[ExecutionStatus], None]) -> None:
        self._report = report
        self._last: ExecutionStatus | None = None

    def tell(self, status: ExecutionStatus | None) -> bool:
        """Report it if it is news, and say whether it was; None is no status."""
        if status is None or status is self._last:
            return False
        self._last = status
        self._report(status)
        return True
