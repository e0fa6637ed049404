"""Asks the daemon for `daemon.info` again and again, in a process of its own that does nothing else.

`python -m tests.torture.asker SOCKET`: asks until its standard input ends, and answers with all durations, in seconds,
as JSON.
"""

import json
import sys
import time
from pathlib import Path
from typing import Final

import trio

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, connect

_REST: Final = 0.05


async def _run(path: str) -> list[float]:
    durations: list[float] = []
    async with connect(UnixAddress(Path(path))) as client, trio.open_nursery() as nursery:
        nursery.start_soon(_ask, client, durations)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()
    return durations


async def _ask(client: ControlClient, durations: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await client.info()
        durations.append(time.perf_counter() - began)
        await trio.sleep(_REST)


if __name__ == "__main__":
    print(json.dumps(trio.run(_run, sys.argv[1])))  # noqa: T201 - the answer
