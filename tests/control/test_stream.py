"""The byte stream under a connection."""

import pytest
import trio
from trio.testing import check_two_way_stream, memory_stream_pair

from supervisor.control.handshake import Admission
from supervisor.control.stream import UpgradedStream, let_go

KEY = Admission(b"AAAAAAAAAAAAAAAAAAAAAA==", None, None, b"early")


def upgraded(stream: trio.abc.HalfCloseableStream) -> UpgradedStream:
    """A stream whose handshake is over and read."""
    wrapped = UpgradedStream(stream, Admission(b"", None, None))
    wrapped.upgrade_answered()
    wrapped._first = b""
    return wrapped


async def test_upgraded_stream_is_a_proper_stream() -> None:
    """Trio's own check of the contract that every stream keeps."""

    async def make() -> tuple[UpgradedStream, UpgradedStream]:
        await trio.lowlevel.checkpoint()
        near, far = memory_stream_pair()
        return upgraded(near), upgraded(far)

    await check_two_way_stream(make, None)


async def test_upgraded_stream_gives_the_handshake_first_and_the_rest_after_the_answer() -> None:
    """What the library gets is of our making; what came early waits."""
    near, far = memory_stream_pair()
    stream = UpgradedStream(near, KEY)
    await far.send_all(b"later")
    assert await stream.receive_some() == KEY.library_request()
    with trio.move_on_after(0.01) as patience:
        await stream.receive_some()
    assert patience.cancelled_caught
    stream.upgrade_answered()
    assert [await stream.receive_some(), await stream.receive_some()] == [b"early", b"later"]


@pytest.mark.parametrize("closed", [False, True])
async def test_let_go_says_the_end_and_reads_the_rest_away(*, closed: bool) -> None:
    """So that the other side can read our last words; a stream that is closed already is fine."""
    near, far = memory_stream_pair()
    await near.send_all(b"last words")
    await far.send_all(b"x" * 100)
    await far.send_eof()
    if closed:
        await near.aclose()
    await let_go(near)
    assert await far.receive_some() == b"last words"
    assert await far.receive_some() == b""
