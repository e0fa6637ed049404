import trio

from supervisor.agent.backoff import Backoff


async def test_backoff_doubles_up_to_its_most_and_starts_over(autojump_clock: trio.testing.MockClock) -> None:
    """Each wait is twice the last one, no longer than the most, and the first one again after a reset."""
    backoff = Backoff(0.1, 0.5)
    waits = []
    for number in range(5):
        before = trio.current_time()
        await backoff.sleep()
        waits.append(round(trio.current_time() - before, 6))
        if number == 3:
            backoff.reset()
    assert waits == [0.1, 0.2, 0.4, 0.5, 0.1]
