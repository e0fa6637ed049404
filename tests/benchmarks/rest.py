"""The same requests over HTTP and over the control channel, interleaved: requests a second, and latencies."""

import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from supervisor.control.address import TcpAddress
from supervisor.control.client import ControlClient
from tests.benchmarks.channel import channel_rate
from tests.benchmarks.report import Finding, ratio_of, timed

_BATCH: Final = 500


class Caller:
    """One connection that is kept, and a client that costs next to nothing, so that the server is what is measured."""

    def __init__(self, stream: trio.SocketStream, address: TcpAddress, key: str) -> None:
        self._stream = stream
        self._head = f"HTTP/1.1\r\nHost: {address.authority}\r\nX-API-Key: {key}\r\n\r\n"

    async def call(self, method: str, path: str) -> None:
        """One request, and its whole answer."""
        await self._stream.send_all(f"{method} {path} {self._head}".encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await self._receive()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), answer
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(body) < length:
            body += await self._receive()

    async def _receive(self) -> bytes:
        some = await self._stream.receive_some()
        assert some, "the server closed the connection amid an answer"
        return bytes(some)


@asynccontextmanager
async def calling(address: TcpAddress, key: str) -> AsyncIterator[Caller]:
    """A connection to the HTTP routes."""
    async with await trio.open_tcp_stream(address.host, address.port) as stream:
        yield Caller(stream, address, key)


async def gets(address: TcpAddress, key: str, control: Path, rounds: int) -> Sequence[Finding]:
    """GET of one conversation beside `conversation.get`: how many a second, and how long one takes."""
    await trio.lowlevel.checkpoint()
    over_http: list[float] = []
    over_channel: list[float] = []
    for _ in range(rounds):
        over_channel.append(1 / await channel_rate(control))
        over_http.append(await _get_seconds(address, key))
    finding = ratio_of("GET over HTTP, beside the channel", over_http, over_channel, 4.0)
    ours, theirs = (f"{1 / statistics.median(side):.0f} a second" for side in (over_http, over_channel))
    return [
        finding,
        Finding("GETs a second over one connection", ours, theirs, 1 / finding.figure, 0.25, at_least=True),
    ]


async def _get_seconds(address: TcpAddress, key: str) -> float:
    await trio.lowlevel.checkpoint()
    async with calling(address, key) as caller:
        began = time.perf_counter()
        for _ in range(_BATCH):
            await caller.call("GET", "/api/conversations/asked")
        return (time.perf_counter() - began) / _BATCH


async def pauses(client: ControlClient, address: TcpAddress, key: str, rounds: int) -> Sequence[Finding]:
    """Pause and resume of one conversation over HTTP, beside the same over the channel."""
    await trio.lowlevel.checkpoint()
    samples: dict[str, tuple[list[float], list[float]]] = {"pause": ([], []), "resume": ([], [])}
    async with calling(address, key) as caller:
        for _ in range(rounds):
            for name, over_channel in (("pause", client.pause), ("resume", client.resume)):
                samples[name][1].append((await timed(partial(over_channel, "asked")))[0])
            for name, (over_http, _) in samples.items():
                command = partial(caller.call, "POST", f"/api/conversations/asked/{name}")
                over_http.append((await timed(command))[0])
    return [ratio_of(f"{name} over HTTP, beside the channel", *sides, 1.25) for name, sides in samples.items()]
