"""Makes a failing script short: steps are left out as long as it still fails, and by the same promise."""

import re
from collections.abc import Sequence

from tests.simulation.play import play
from tests.simulation.script import Step


def shrink(seed: int, steps: Sequence[Step]) -> tuple[Step, ...]:
    """The script without what the failure does not need; delta debugging by halves, quarters and so on."""
    left = tuple(steps)
    problem = _first_problem(seed, left)
    size = len(left) // 2
    while size:
        at, before = 0, len(left)
        while at < len(left):
            shorter = (*left[:at], *left[at + size :])
            if _first_problem(seed, shorter) == problem:
                left = shorter
            else:
                at += size
        if size > 1:
            size = max(1, min(size // 2, len(left) // 2))
        elif len(left) == before:
            size = 0
    return left


def _first_problem(seed: int, steps: Sequence[Step]) -> str | None:
    """What is wrong first, whatever the numbers in it."""
    problems = play(seed, steps).problems
    return re.sub(r"[0-9.]+", "#", problems[0].splitlines()[-1]) if problems else None
