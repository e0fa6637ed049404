"""Clients that come and go, thousands of them, at every stage of being one."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio
from trio_websocket import ConnectionClosed, HandshakeError, wrap_client_stream

from tests.torture.meter import Holding, Tolerance, holding
from tests.torture.scene import Scene, open_scene
from tests.torture.trial import Bench, Finding
from tests.torture.waiting import comes_true

_AT_ONCE: Final = 50
_HALF_A_HANDSHAKE: Final = b"GET /control HTTP/1.1\r\nHost: localhost\r\nUpgr"
_INFO: Final = '{"jsonrpc":"2.0","id":1,"method":"daemon.info","params":{}}'
_SUBSCRIBE: Final = '{"jsonrpc":"2.0","id":1,"method":"events.subscribe","params":{"since":0}}'
_TOLERANCE: Final = Tolerance(memory=1.25)
_FLAT_WITHIN: Final = 60.0
_Drop = Callable[[trio.SocketStream], Awaitable[None]]


async def run(bench: Bench) -> Finding:
    """Under churn: nothing is held for anybody who has gone."""
    count, crowd = bench.pick(10_000, 300), bench.pick(10, 4)
    async with open_scene(bench) as scene:
        async with scene.churn(crowd).going_on():
            await _open_and_drop(scene, count // 10)
            before = holding(scene.daemon.pid)
            await _open_and_drop(scene, count)
            after = await _once_flat(scene, before)
        lost = await scene.audit()
    figures = f"before: {before}; after: {after}; {_TOLERANCE}; {scene.tell()}"
    grown = _TOLERANCE.exceeded(before, after)
    return Finding(f"connections opened and dropped, under a churn of {crowd}", f"{count}", figures, (*lost, *grown))


async def _once_flat(scene: Scene, before: Holding) -> Holding:
    """What the daemon holds once it has noticed that everybody has gone."""
    await comes_true(lambda: not _TOLERANCE.exceeded(before, holding(scene.daemon.pid)), _FLAT_WITHIN)
    return holding(scene.daemon.pid)


async def _open_and_drop(scene: Scene, count: int) -> None:
    limiter = trio.CapacityLimiter(_AT_ONCE)

    async def one(drop: _Drop) -> None:
        async with limiter:
            with suppress(OSError, trio.BrokenResourceError, ConnectionClosed, HandshakeError):
                async with await trio.open_unix_socket(str(scene.address.path)) as stream:
                    await drop(stream)

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, _DROPS[number % len(_DROPS)])


async def _at_once(stream: trio.SocketStream) -> None:
    await trio.lowlevel.checkpoint()


async def _in_the_handshake(stream: trio.SocketStream) -> None:
    await stream.send_all(_HALF_A_HANDSHAKE)


async def _after_the_handshake(stream: trio.SocketStream) -> None:
    await _speak(stream)


async def _with_a_request_under_way(stream: trio.SocketStream) -> None:
    await _speak(stream, _INFO)


async def _with_a_subscription(stream: trio.SocketStream) -> None:
    await _speak(stream, _SUBSCRIBE)


async def _speak(stream: trio.SocketStream, *requests: str) -> None:
    async with trio.open_nursery() as nursery:
        socket = await wrap_client_stream(nursery, stream, "localhost", "/control")
        for request in requests:
            await socket.send_message(request)
        await trio.aclose_forcefully(stream)
        nursery.cancel_scope.cancel()


_DROPS: Final = (
    _at_once,
    _in_the_handshake,
    _after_the_handshake,
    _with_a_request_under_way,
    _with_a_subscription,
)
