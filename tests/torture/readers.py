"""Many subscribers in a process of their own, so that what they cost is not measured as the daemon's.

`python -m tests.torture.readers SOCKET COUNT STALLED`: subscribes COUNT times from now on, says `ready`, reads a line
with the last sequence number that everyone has to see from its standard input, and answers with a `Tally` as JSON. The
first STALLED subscribers ask for a lot, and read nothing before that line: they come back then, with `since`.
"""

import json
import re
import sys
from contextlib import suppress
from typing import Final

import attrs
import trio

from tests.torture.waiting import comes_true

_HANDSHAKE: Final = (
    b"GET /control HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
_EVENT: Final = re.compile(rb'"event":\{"seq":(\d+),')
_OPENED: Final = re.compile(rb'"subscription":"s1","seq":(\d+)\}')
# Text frames are ASCII: these two bytes are nowhere else, for frames of less than 35 KB.
_PING: Final = re.compile(rb"\x89\x04(.{4})", re.DOTALL)
_PONG: Final = bytes((0x8A, 0x84, 0, 0, 0, 0))
_CHUNK: Final = 2**18
_INFO: Final = b'{"jsonrpc":"2.0","id":2,"method":"daemon.info"}'
_ASKED: Final = 2000
_LONGEST_START: Final = 64
_END_WITHIN: Final = 120.0


@attrs.define
class Tally:
    """What all subscribers saw.

    `behind` are those that never saw the last event, `closed` those that the daemon sent away although they read, and
    `cut` the stalled ones that it sent away, each counted once.
    """

    events: int = 0
    gaps: int = 0
    behind: int = 0
    closed: int = 0
    cut: int = 0


@attrs.define(eq=False)
class Goal:
    """The last event that everyone has to see; unknown at first."""

    seq: int = 2**62
    known: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False)
class Reader:
    """One subscriber: a bare socket that looks for sequence numbers and pings in what comes, and for nothing else."""

    path: str
    tally: Tally
    goal: Goal
    stalled: bool
    last: int = 0
    _rest: bytes = b""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Subscribe, and read to the goal; one that was stalled comes back as often as it is sent away."""
        await trio.lowlevel.checkpoint()
        async with await trio.open_unix_socket(self.path) as stream:
            await self._subscribe(stream, {})
            task_status.started()
            if self.stalled:
                await self._stall(stream)
            await self._read(stream)
        self.tally.cut += self.stalled and self.last < self.goal.seq
        while self.stalled and self.last < self.goal.seq:
            async with await trio.open_unix_socket(self.path) as stream:
                await self._subscribe(stream, {"since": self.last})
                await self._read(stream)
        self.tally.closed += self.last < self.goal.seq

    async def _subscribe(self, stream: trio.SocketStream, params: dict[str, int]) -> None:
        await trio.lowlevel.checkpoint()
        self._rest = b""
        await stream.send_all(_HANDSHAKE)
        while b"\r\n\r\n" not in self._rest:
            await self._receive(stream)
        asked = {"jsonrpc": "2.0", "id": 1, "method": "events.subscribe", "params": params}
        await stream.send_all(_frame(json.dumps(asked).encode()))
        while (opened := _OPENED.search(self._rest)) is None:
            await self._receive(stream)
        self.last = int(opened[1])
        self._rest = self._rest[opened.end() :]

    async def _stall(self, stream: trio.SocketStream) -> None:
        """Ask for more than the socket's buffers hold, and take nothing of it."""
        await trio.lowlevel.checkpoint()
        with suppress(trio.BrokenResourceError):
            await stream.send_all(_frame(_INFO) * _ASKED)
        await self.goal.known.wait()

    async def _read(self, stream: trio.SocketStream) -> None:
        """Read until the goal is seen or the connection ends."""
        await trio.lowlevel.checkpoint()
        with suppress(ConnectionError, trio.BrokenResourceError):
            while self.last < self.goal.seq:
                await self._receive(stream)
                await self._answer_pings(stream)
                self._look()

    async def _answer_pings(self, stream: trio.SocketStream) -> None:
        for ping in _PING.finditer(self._rest):
            await stream.send_all(_PONG + ping[1])
        self._rest = _PING.sub(b"", self._rest)
        await trio.lowlevel.checkpoint()

    def _look(self) -> None:
        end = 0
        for found in _EVENT.finditer(self._rest):
            seq, end = int(found[1]), found.end()
            self.tally.events += 1
            self.tally.gaps += seq != self.last + 1
            self.last = seq
        self._rest = self._rest[max(end, len(self._rest) - _LONGEST_START) :]

    async def _receive(self, stream: trio.SocketStream) -> None:
        await trio.lowlevel.checkpoint()
        chunk = b""
        with suppress(trio.BrokenResourceError):
            chunk = await stream.receive_some(_CHUNK)
        if not chunk:
            raise ConnectionError("the daemon closed the connection")
        self._rest += chunk


def _frame(payload: bytes) -> bytes:
    """A masked text frame; a mask of zeros changes nothing."""
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload


async def _run(path: str, count: int, stalled: int) -> Tally:
    tally, goal = Tally(), Goal()
    readers = [Reader(path, tally, goal, stalled=number < stalled) for number in range(count)]
    async with trio.open_nursery() as nursery:
        for reader in readers:
            await nursery.start(reader.run)
        print("ready", flush=True)  # noqa: T201 - for the process that started us
        goal.seq = int(await trio.to_thread.run_sync(sys.stdin.readline))
        goal.known.set()
        await comes_true(lambda: all(reader.last >= goal.seq for reader in readers), _END_WITHIN)
        nursery.cancel_scope.cancel()
    tally.behind = sum(reader.last < goal.seq for reader in readers)
    return tally


if __name__ == "__main__":
    socket, number, idle = sys.argv[1:]
    print(json.dumps(attrs.asdict(trio.run(_run, socket, int(number), int(idle)))))  # noqa: T201 - the answer
