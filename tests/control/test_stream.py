"""The byte stream under a connection."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import check_two_way_stream, memory_stream_pair, wait_all_tasks_blocked
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream, wrap_server_stream

from supervisor.control.handshake import Admission
from supervisor.control.stream import UpgradedStream, let_go, send_texts

Pipe = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]
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


@attrs.frozen
class Pair:
    """Both ends of a WebSocket, and the server's stream."""

    server: WebSocketConnection
    stream: Pipe
    client: WebSocketConnection


@asynccontextmanager
async def connected() -> AsyncIterator[Pair]:
    """A WebSocket of the library's own on both sides."""
    near, far = memory_stream_pair()
    async with trio.open_nursery() as nursery:
        clients: list[WebSocketConnection] = []

        async def connect() -> None:
            socket: trio.SocketStream = far  # type: ignore[assignment]  # the library takes any stream
            clients.append(
                await wrap_client_stream(
                    nursery, socket, "localhost", "/", message_queue_size=9, max_message_size=2**20
                )
            )

        async with trio.open_nursery() as handshake:
            handshake.start_soon(connect)
            request = await wrap_server_stream(nursery, near)
            server = await request.accept()
        yield Pair(server, near, clients[0])
        nursery.cancel_scope.cancel()


async def test_texts_of_any_length_arrive_whole_and_in_order() -> None:
    """Around both places where a frame's length is written in another way, and with what the library sends itself."""
    texts = ["x" * length for length in (0, 1, 125, 126, 65_535, 65_536, 100_000)]
    async with connected() as pair:
        await send_texts(pair.server, pair.stream, texts)
        await pair.server.send_message("the library's own")
        await send_texts(pair.server, pair.stream, ["last"])
        heard = [await pair.client.get_message() for _ in range(len(texts) + 2)]
    assert heard == [*texts, "the library's own", "last"]


async def test_texts_are_one_write() -> None:
    """However many there are."""
    async with connected() as pair:
        writes: list[bytes] = []

        async def count() -> None:
            await trio.lowlevel.checkpoint()
            writes.append(b"")

        pair.stream.send_stream.send_all_hook = count
        await send_texts(pair.server, pair.stream, ["a", "b", "c"])
        assert len(writes) == 1


async def test_texts_wait_for_a_frame_that_the_library_is_sending() -> None:
    """A pong that is half written is not broken into."""
    async with connected() as pair, trio.open_nursery() as nursery:
        await pair.server._stream_lock.acquire()
        nursery.start_soon(send_texts, pair.server, pair.stream, ["a"])
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
        pair.server._stream_lock.release()
        assert await pair.client.get_message() == "a"


async def test_texts_never_follow_a_close_frame() -> None:
    """Whoever closes first, that was the last word."""
    async with connected() as pair:
        await pair.client.aclose()
        with pytest.raises(ConnectionClosed):
            await send_texts(pair.server, pair.stream, ["too late"])


async def test_texts_to_nobody_end_the_connection() -> None:
    """The library's reader learns of it, too."""
    async with connected() as pair:
        pair.stream.send_stream.close()
        with pytest.raises(ConnectionClosed):
            await send_texts(pair.server, pair.stream, ["a"])
        with pytest.raises(ConnectionClosed):
            await pair.server.get_message()
