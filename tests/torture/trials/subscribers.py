"""A thousand subscribers, some of whom do not read, while conversations churn.

A command costs some four events, each of which goes to every subscriber: how often clients rest between commands says
how much that is. The stalled ones fill their buffers with answers first, so that the daemon has to send them away.

The daemon has the weight that its unit gives it, and so has who measures, with the echo: a client that waits for a core
would be taken for a daemon that does.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Final

import trio

from supervisor.control.client import connect
from tests.daemon_process import AS_THE_UNIT
from tests.torture.asker import Durations
from tests.torture.churn import Pace
from tests.torture.readers import Tally
from tests.torture.scene import Scene, open_scene
from tests.torture.trial import Bench, Finding

_PIPE: Final = subprocess.PIPE
_P95: Final = 0.050
_P99: Final = 0.150


async def run(bench: Bench) -> Finding:
    """No event is lost for anybody, and `daemon.info` stays quick."""
    count, stalled, crowd = bench.pick(1000, 50), bench.pick(10, 3), bench.pick(50, 6)
    seconds, pace = bench.pick(180.0, 14.0), Pace(rest=bench.pick(30.0, 0.5))
    async with open_scene(bench, prefix=AS_THE_UNIT) as scene:
        path, echo = str(scene.address.path), str(bench.directory / "echo.sock")
        readers_command = _module("readers", path, str(count), str(stalled))
        asker_command = (*AS_THE_UNIT, *_module("asker", path, echo))
        async with _beside(readers_command) as readers, _beside(asker_command) as asker:
            assert readers.stdout is not None
            await trio.to_thread.run_sync(readers.stdout.readline)
            async with scene.churn(crowd, pace).going_on():
                await trio.sleep(seconds)
            durations = Durations(**json.loads(await _last_words(asker, "")))
            tally = Tally(**json.loads(await _last_words(readers, f"{await _last_seq(scene)}\n")))
        lost = await scene.audit()
    p95, p99 = _percentiles(durations.info)
    figures = (
        f"{scene.witness.last / seconds:.1f} events a second, {tally.events} events read, {tally.cut} of the stalled "
        f"cut; daemon.info {_tell(durations.info)} of {len(durations.info)}, a bare echo beside it "
        f"{_tell(durations.echo)}; {scene.tell()}"
    )
    slow = [f"daemon.info took {p95:.3f} s at p95 and {p99:.3f} s at p99"] if p95 > _P95 or p99 > _P99 else []
    did = (
        f"{count} subscribers, {stalled} of them stalled, while {crowd} conversations churn, each client resting "
        f"{pace.rest:g} s on average; daemon at its unit's weight"
    )
    return Finding(did, f"{seconds:g} s", figures, (*lost, *_missed(tally, stalled), *bench.pick(slow, [])))


def _missed(tally: Tally, stalled: int) -> list[str]:
    wrong = {
        "stalled subscribers that were never sent away": stalled - tally.cut,
        "gaps in what subscribers saw": tally.gaps,
        "subscribers that never saw the last event": tally.behind,
        "subscribers sent away although they read": tally.closed,
    }
    return [f"{number} {what}" for what, number in wrong.items() if number]


def _percentiles(durations: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(durations, n=100)
    return cuts[94], cuts[98]


def _tell(durations: list[float]) -> str:
    p95, p99 = _percentiles(durations)
    return f"p95 {p95 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms"


async def _last_seq(scene: Scene) -> int:
    async with connect(scene.address) as client:
        return (await client.info()).seq


def _module(name: str, *arguments: str) -> Sequence[str]:
    return sys.executable, "-m", f"tests.torture.{name}", *arguments


@asynccontextmanager
async def _beside(command: Sequence[str]) -> "AsyncIterator[subprocess.Popen[str]]":
    """A program in a process of its own."""
    await trio.lowlevel.checkpoint()
    process = await trio.to_thread.run_sync(partial(subprocess.Popen, command, text=True, stdin=_PIPE, stdout=_PIPE))
    with process:
        try:
            yield process
        finally:
            process.kill()


async def _last_words(process: "subprocess.Popen[str]", line: str) -> str:
    """Give it its last line, and wait for its answer."""
    return (await trio.to_thread.run_sync(process.communicate, line))[0]
