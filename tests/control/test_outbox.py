"""The queue of what a connection still has to send."""

import trio
from trio.testing import wait_all_tasks_blocked

from supervisor.control.outbox import MOST_AT_ONCE, Closing, Outbox

END = Closing(1001, "bye")


def drain(outbox: Outbox) -> list[str | Closing]:
    """Everything up to the end, or up to where there is nothing."""
    taken: list[str | Closing] = []
    while (item := outbox.take()) is not None:
        taken.append(item)
        if isinstance(item, Closing):
            break
    return taken


def test_outbox_keeps_the_order() -> None:
    """First in, first out."""
    outbox = Outbox()
    idle = [outbox.is_idle]
    assert all(outbox.offer(frame) for frame in "abc")
    assert [*idle, outbox.is_idle] == [True, False]
    assert drain(outbox) == ["a", "b", "c"]


def test_outbox_is_bounded_in_frames_and_in_bytes() -> None:
    """Whichever comes first; one frame always fits, whatever its size."""
    frames = Outbox(max_frames=2, max_bytes=100)
    assert [frames.offer("x"), frames.offer("x"), frames.offer("x")] == [True, True, False]
    size = Outbox(max_frames=10, max_bytes=5)
    assert [size.offer("x" * 9), size.offer("x")] == [True, False]
    assert drain(size) == ["x" * 9]
    assert [size.offer("xxx"), size.offer("xx"), size.offer("x")] == [True, True, False]


async def test_take_some_takes_what_one_write_should_carry(nursery: trio.Nursery) -> None:
    """In order, up to a bound, at least one; then the end; and there is room for as many."""
    outbox = Outbox(max_frames=3)
    large = "x" * MOST_AT_ONCE
    assert outbox.take_some() is None
    assert all(outbox.offer(frame) for frame in ("a", "b", large + "y"))
    nursery.start_soon(outbox.put, "c")
    await wait_all_tasks_blocked()
    assert outbox.take_some() == ["a", "b"]
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks
    assert [outbox.take_some(), outbox.take_some()] == [[large + "y"], ["c"]]
    outbox.finish(END)
    assert outbox.take_some() == END


async def test_put_waits_for_room(nursery: trio.Nursery) -> None:
    """Backpressure, not loss."""
    outbox = Outbox(max_frames=1)
    outbox.offer("a")
    nursery.start_soon(outbox.put, "b")
    await wait_all_tasks_blocked()
    assert outbox.take() == "a"
    await wait_all_tasks_blocked()
    assert outbox.take() == "b"


async def test_wait_ends_when_something_comes(nursery: trio.Nursery) -> None:
    """A frame, or the end."""
    outbox = Outbox()
    nursery.start_soon(outbox.wait)
    nursery.start_soon(outbox.wait)
    await wait_all_tasks_blocked()
    outbox.offer("a")
    outbox.finish(END)
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks


async def test_finish_sends_what_is_queued_and_drops_what_comes_later(nursery: trio.Nursery) -> None:
    """The first end that is decided stands, and nobody waits for room any more."""
    outbox = Outbox(max_frames=1)
    outbox.offer("a")
    nursery.start_soon(outbox.put, "late")
    await wait_all_tasks_blocked()
    outbox.finish(END)
    outbox.cut(Closing(1013, "too late"))
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks
    assert outbox.offer("later")
    assert drain(outbox) == ["a", END]
    assert not outbox.is_idle


def test_cut_forgets_what_is_queued() -> None:
    """A consumer that is too slow would not read it anyway."""
    outbox = Outbox()
    outbox.offer("a")
    outbox.cut(END)
    assert drain(outbox) == [END]


async def test_abandon_lets_everybody_go_on(nursery: trio.Nursery) -> None:
    """When nobody sends any more, nobody may wait for room."""
    outbox = Outbox(max_frames=1)
    outbox.offer("a")
    nursery.start_soon(outbox.put, "b")
    await wait_all_tasks_blocked()
    outbox.abandon()
    await wait_all_tasks_blocked()
    assert not nursery.child_tasks
    assert outbox.take() is None
