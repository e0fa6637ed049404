"""How long one request to the engine may take, from the deadline of whoever asks."""

import time
from contextvars import ContextVar
from typing import Final

import attrs
import trio

MUTATION_LEAST: Final = 2.0
MUTATION_MOST: Final = 60.0
READ_MOST: Final = 10.0
_MARGIN: Final = 1.0


@attrs.frozen
class TimeLimit:
    """A limit for every request of a call. `expires_at` is `time.monotonic()`'s, the rest seconds.

    A request gets what is left until then and a little more, but never less than `least` nor more than `most`; and on
    top of that `extra`, for a request that is meant to wait.
    """

    expires_at: float
    least: float
    most: float
    extra: float = 0.0

    def seconds(self) -> float:
        """What a request that begins now may take."""
        left = self.expires_at - time.monotonic() + _MARGIN
        return min(max(left, self.least), self.most) + self.extra


_UNBOUND: Final = TimeLimit(expires_at=0.0, least=READ_MOST, most=READ_MOST)
current_limit: ContextVar[TimeLimit] = ContextVar("current_limit", default=_UNBOUND)


def mutation_limit(extra: float = 0.0) -> TimeLimit:
    """The limit for a call that changes something: a little over the caller's deadline, because nobody abandons it."""
    return TimeLimit(_expires_at(), MUTATION_LEAST, MUTATION_MOST, extra)


def read_limit(most: float = READ_MOST) -> TimeLimit:
    """The limit for a call that only looks."""
    return TimeLimit(_expires_at(), min(MUTATION_LEAST, most), most)


def _expires_at() -> float:
    return time.monotonic() + trio.current_effective_deadline() - trio.current_time()
