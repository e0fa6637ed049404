"""Waiting between attempts."""

import attrs
import trio


@attrs.define
class Backoff:
    """Sleeps `initial` seconds at first, then twice as long each time, up to `most`."""

    initial: float
    most: float
    _next: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._next = self.initial

    async def sleep(self) -> None:
        """Wait until the next attempt is due."""
        delay, self._next = self._next, min(2 * self._next, self.most)
        await trio.sleep(delay)

    def reset(self) -> None:
        """Start over, after an attempt that went well."""
        self._next = self.initial
