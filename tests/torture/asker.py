"""Asks the daemon for `daemon.info` again and again, and an echo server beside it, in a process that does nothing else.

`python -m tests.torture.asker SOCKET ECHO`: asks until its standard input ends, and answers with `Durations` as JSON.
What the echo server takes, whose socket is made at ECHO, is the machine's share; what is more is the daemon's.
"""

import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import attrs
import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, connect
from tests.echo_server import running_echo

_REST: Final = 0.05
_REQUEST: Final = '{"jsonrpc":"2.0","id":1,"method":"daemon.info"}'


@attrs.define
class Durations:
    """How long each answer took, in seconds."""

    info: list[float] = attrs.field(factory=list)
    echo: list[float] = attrs.field(factory=list)


async def _run(daemon: Path, echo: Path) -> Durations:
    durations = Durations()
    async with connect(UnixAddress(daemon)) as client, trio.open_nursery() as nursery:
        stream = await trio.open_unix_socket(str(echo))
        socket = await wrap_client_stream(nursery, stream, "localhost", "/")
        nursery.start_soon(_ask, client, socket, durations)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
    return durations


async def _ask(client: ControlClient, socket: WebSocketConnection, durations: Durations) -> None:
    while True:
        durations.info.append(await _timed(client.info))
        durations.echo.append(await _timed(lambda: _round_trip(socket)))
        await trio.sleep(_REST)


async def _timed(act: Callable[[], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await act()
    return time.perf_counter() - began


async def _round_trip(socket: WebSocketConnection) -> None:
    await socket.send_message(_REQUEST)
    await socket.get_message()


if __name__ == "__main__":
    with running_echo(Path(sys.argv[2])):
        answer = trio.run(_run, Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps(attrs.asdict(answer)))  # noqa: T201 - the answer
