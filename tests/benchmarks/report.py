"""What a benchmark found, and the table of all of them."""

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import attrs
from rich.console import Console
from rich.table import Table

_T = TypeVar("_T")


@attrs.frozen
class Finding:
    """One line of the table. `ours` and `theirs` are medians; `figure` is what the goal is about."""

    what: str
    ours: str
    theirs: str
    figure: float
    goal: float
    unit: str = "x"
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether the goal is met."""
        return self.figure >= self.goal if self.at_least else self.figure <= self.goal


def seconds(samples: Sequence[float]) -> str:
    """The same of seconds."""
    return milliseconds([sample * 1000 for sample in samples])


def milliseconds(samples: Sequence[float]) -> str:
    """A median of milliseconds with its spread."""
    return f"{statistics.median(samples):.1f} ms ({min(samples):.1f} to {max(samples):.1f})"


def ratio_of(what: str, ours: Sequence[float], theirs: Sequence[float], goal: float) -> Finding:
    """Compare two samples of seconds by their medians."""
    figure = statistics.median(ours) / statistics.median(theirs)
    return Finding(what, seconds(ours), seconds(theirs), figure, goal)


async def timed(work: Callable[[], Awaitable[_T]]) -> tuple[float, _T]:
    """How many seconds something takes, and what it returns."""
    began = time.perf_counter()
    result = await work()
    return time.perf_counter() - began, result


def print_table(findings: Sequence[Finding]) -> None:
    """Print all findings."""
    table = Table(
        "what", "conversationd", "beside it", "figure", "goal", "met", title="conversationd beside the raw engine"
    )
    for one in findings:
        sign = "at least" if one.at_least else "at most"
        met = "yes" if one.met else "[red]no[/red]"
        table.add_row(
            one.what, one.ours, one.theirs, f"{one.figure:.2f} {one.unit}", f"{sign} {one.goal:g} {one.unit}", met
        )
    Console(width=150).print(table)
