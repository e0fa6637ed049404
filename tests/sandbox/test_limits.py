"""Time limits from deadlines."""

import time

import pytest
import trio
import trio.testing

from supervisor.sandbox.docker.limits import TimeLimit, mutation_limit, read_limit


@pytest.mark.parametrize(
    ("left", "seconds"), [(-100.0, 2.0), (0.0, 2.0), (10.0, 11.0), (1000.0, 60.0), (float("inf"), 60.0)]
)
async def test_mutation_gets_a_little_more_than_the_callers_deadline(left: float, seconds: float) -> None:
    """Within bounds: something for a caller that is late already, and not for ever."""
    with trio.CancelScope(deadline=trio.current_time() + left):
        assert mutation_limit().seconds() == pytest.approx(seconds, abs=0.1)
        await trio.lowlevel.cancel_shielded_checkpoint()


async def test_stop_gets_its_grace_on_top() -> None:
    """The engine answers only when the grace has passed."""
    with trio.CancelScope(deadline=trio.current_time() + 10):
        assert mutation_limit(extra=30).seconds() == pytest.approx(41, abs=0.1)
        await trio.lowlevel.cancel_shielded_checkpoint()


async def test_looks_are_shorter() -> None:
    """No look takes longer than its most, however much time there is."""
    assert read_limit().seconds() == 10
    assert read_limit(0.2).seconds() == 0.2
    await trio.lowlevel.checkpoint()


def test_limit_shrinks_while_requests_are_made() -> None:
    """The second request of a call has only what the first one left."""
    now = time.monotonic()
    assert TimeLimit(now + 5, 2, 60).seconds() > TimeLimit(now + 3, 2, 60).seconds()
