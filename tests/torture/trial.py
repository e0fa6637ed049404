"""What a trial is, what it is given, and what it finds."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import TypeAlias, TypeVar

import attrs

from tests.engine_host import PrivateEngine

_T = TypeVar("_T")


@attrs.frozen
class Bench:
    """What every trial is given: the engine of the run, an image on it, a directory of its own, and how big to be.

    `minutes` is how long the trial of endurance lasts in its full form; `say` tells whoever watches how it goes.
    """

    engine: PrivateEngine
    image: str
    directory: Path
    full: bool = False
    minutes: float = 30.0
    say: Callable[[str], None] = lambda _: None
    random: Random = attrs.field(factory=Random)

    def pick(self, full: _T, short: _T) -> _T:
        """One value for the full form, one for the short."""
        return full if self.full else short


@attrs.frozen
class Finding:
    """One line of the table. `lost` has a sentence for everything that should not have been; it must be empty."""

    did: str
    times: str
    figures: str
    lost: tuple[str, ...]


Run: TypeAlias = Callable[[Bench], Awaitable[Finding]]


@attrs.frozen
class Trial:
    """A trial by its name on the command line."""

    name: str
    run: Run
