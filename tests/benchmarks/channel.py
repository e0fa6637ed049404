"""Round trips over the control channel, beside trio-websocket's own echo on the same kind of socket."""

import json
import multiprocessing
import multiprocessing.synchronize
import time
from pathlib import Path
from typing import Final

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream, wrap_server_stream

from tests.benchmarks.report import Finding

_BATCH: Final = 500


async def round_trips(control: Path, echo: Path, rounds: int) -> Finding:
    """How many `conversation.get` a second one client gets, over how many echoes of the same size."""
    spawn = multiprocessing.get_context("spawn")
    listening = spawn.Event()
    server = spawn.Process(target=_serve_echo, args=(str(echo), listening))
    server.start()
    try:
        await trio.to_thread.run_sync(listening.wait)
        request = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "conversation.get", "params": {"id": "asked"}})
        ours, theirs = [], []
        for _ in range(rounds):
            theirs.append(await _rate(echo, "/", request))
            ours.append(await _rate(control, "/control", request))
    finally:
        server.terminate()
        server.join()
    mine, plain = sorted(ours)[rounds // 2], sorted(theirs)[rounds // 2]
    figures = f"{mine:.0f} a second", f"{plain:.0f} a second"
    return Finding("conversation.get round trips", *figures, mine / plain, 0.7, at_least=True)


async def _rate(path: Path, resource: str, request: str) -> float:
    async with trio.open_nursery() as nursery:
        stream = await trio.open_unix_socket(str(path))
        socket = await wrap_client_stream(nursery, stream, "localhost", resource)
        began = time.perf_counter()
        for _ in range(_BATCH):
            await socket.send_message(request)
            await socket.get_message()
        rate = _BATCH / (time.perf_counter() - began)
        await socket.aclose()
        nursery.cancel_scope.cancel()
    return rate


def _serve_echo(path: str, ready: multiprocessing.synchronize.Event) -> None:
    trio.run(_echo_server, path, ready)


async def _echo_server(path: str, ready: multiprocessing.synchronize.Event) -> None:
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listening.bind(path)
    listening.listen()
    ready.set()
    await trio.serve_listeners(_echo, [trio.SocketListener(listening)])


async def _echo(stream: trio.abc.Stream) -> None:
    async with trio.open_nursery() as nursery:
        request = await wrap_server_stream(nursery, stream)
        await _repeat(await request.accept())


async def _repeat(socket: WebSocketConnection) -> None:
    await trio.lowlevel.checkpoint()
    try:
        while True:
            await socket.send_message(await socket.get_message())
    except ConnectionClosed:
        return
