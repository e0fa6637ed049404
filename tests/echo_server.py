"""trio-websocket's own echo over a Unix socket, in a process of its own: what a bare server takes beside ours.

`python -m tests.echo_server SOCKET`: says `ready` once it listens, and echoes until it is ended.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream


@contextmanager
def running_echo(path: Path) -> Iterator[None]:
    """Have it listen at `path` while the block lasts."""
    command = [sys.executable, "-m", "tests.echo_server", str(path)]
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            yield
        finally:
            process.terminate()


async def _serve(path: str) -> None:
    listening = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listening.bind(path)
    listening.listen()
    print("ready", flush=True)  # noqa: T201 - for the process that started us
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


if __name__ == "__main__":
    trio.run(_serve, sys.argv[1])
