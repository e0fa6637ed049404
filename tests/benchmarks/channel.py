"""Round trips over the control channel, beside trio-websocket's own echo on the same kind of socket."""

import json
import time
from pathlib import Path
from typing import Final

import trio
from trio_websocket import wrap_client_stream

from tests.benchmarks.report import Finding
from tests.echo_server import running_echo

_BATCH: Final = 500
_REQUEST: Final = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "conversation.get", "params": {"id": "asked"}})


async def round_trips(control: Path, echo: Path, rounds: int) -> Finding:
    """How many `conversation.get` a second one client gets, over how many echoes of the same size."""
    await trio.lowlevel.checkpoint()
    ours, theirs = [], []
    with running_echo(echo):
        for _ in range(rounds):
            theirs.append(await _rate(echo, "/", _REQUEST))
            ours.append(await channel_rate(control))
    mine, plain = sorted(ours)[rounds // 2], sorted(theirs)[rounds // 2]
    figures = f"{mine:.0f} a second", f"{plain:.0f} a second"
    return Finding("conversation.get round trips", *figures, mine / plain, 0.7, at_least=True)


async def channel_rate(control: Path) -> float:
    """How many `conversation.get` a second one client gets."""
    return await _rate(control, "/control", _REQUEST)


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
