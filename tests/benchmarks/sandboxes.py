"""Start, pause, resume and death of real containers: through a real daemon, and by docker-py alone, interleaved."""

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from typing import IO, Final, Self

import attrs
import trio

from supervisor.control.client import ControlClient
from supervisor.conversation.spec import PullPolicy, SandboxSpec
from tests.benchmarks.raw import RawEngine
from tests.benchmarks.report import Finding, ratio_of, seconds, timed

SERVE: Final = ("httpd", "-f", "-p", "8000", "-h", "/etc")
_POOLS: Final = (4, 8, 16)


def serving_spec(image: str) -> SandboxSpec:
    """A container whose port accepts as soon as a busybox has started."""
    return SandboxSpec(
        provider="docker",
        image=image,
        pull=PullPolicy.NEVER,
        command=SERVE,
        env={},
        port=8000,
        user=None,
        workspace="/workspace",
        memory=64 * 1024**2,
        cpus=1.0,
        pids_limit=32,
        network="bridge",
        init=True,
    )


def serving_config(image: str) -> str:
    """The same for the daemon."""
    command = ", ".join(f'"{word}"' for word in SERVE)
    return (
        f'[sandbox]\nimage = "{image}"\npull = "never"\ncommand = [{command}]\nport = 8000\n'
        'memory = "64MiB"\ncpus = 1.0\npids_limit = 32\n[agent]\ndriver = "none"\n'
    )


@attrs.frozen
class Sides:
    """Both sides of the comparisons."""

    client: ControlClient
    raw: RawEngine
    base_url: str

    async def one_start(self, rounds: int) -> Finding:
        """From the command to a port that accepts, one container at a time."""
        await trio.lowlevel.checkpoint()
        ours, theirs = [], []
        for number in range(rounds):
            taken, container = await timed(partial(trio.to_thread.run_sync, self.raw.create_until_ready))
            theirs.append(taken)
            taken, _ = await timed(partial(self.client.start, f"one{number}"))
            ours.append(taken)
            await trio.to_thread.run_sync(self.raw.remove, [container])
            await self._end([f"one{number}"])
        return ratio_of("start of one, until its port accepts", ours, theirs, 1.10)

    async def many_starts(self, count: int, rounds: int) -> Finding:
        """The same for many at once, beside the best of some plain thread pools."""
        await trio.lowlevel.checkpoint()
        ours: list[float] = []
        theirs: dict[int, list[float]] = {threads: [] for threads in _POOLS}
        for number in range(rounds):
            for threads, samples in theirs.items():
                taken, containers = await trio.to_thread.run_sync(self.raw.create_many, count, threads)
                samples.append(taken)
                await trio.to_thread.run_sync(self.raw.remove, containers)
            names = [f"many{count}-{number}-{index}" for index in range(count)]
            ours.append((await timed(partial(self._start_all, names)))[0])
            await self._end(names)
        best = min(theirs.values(), key=statistics.median)
        return ratio_of(f"start of {count} at once", ours, best, 1.15)

    async def pause_and_resume(self, rounds: int) -> Sequence[Finding]:
        """Freezing and thawing one container."""
        container = await trio.to_thread.run_sync(self.raw.create_until_ready)
        await self.client.start("frozen")
        ours: dict[str, list[float]] = {"pause": [], "resume": []}
        theirs: dict[str, list[float]] = {"pause": [], "resume": []}
        for _ in range(rounds):
            theirs["pause"].append((await timed(partial(trio.to_thread.run_sync, self.raw.client.pause, container)))[0])
            ours["pause"].append((await timed(partial(self.client.pause, "frozen")))[0])
            theirs["resume"].append(
                (await timed(partial(trio.to_thread.run_sync, self.raw.client.unpause, container)))[0]
            )
            ours["resume"].append((await timed(partial(self.client.resume, "frozen")))[0])
        await trio.to_thread.run_sync(self.raw.remove, [container])
        await self._end(["frozen"])
        return [ratio_of(name, ours[name], theirs[name], 1.25) for name in ours]

    async def news_of_a_death(self, rounds: int) -> Finding:
        """How much later than a plain reader of the engine's events a subscriber hears of a death."""
        await trio.lowlevel.checkpoint()
        ours, theirs = [], []
        with _DeathWatch(self.base_url) as watch:
            for number in range(rounds):
                name = f"dies{number}"
                conversation = await self.client.start(name)
                assert conversation.sandbox is not None
                assert conversation.sandbox.id is not None
                async with self.client.subscribe(ids=[name]) as events, trio.open_nursery() as nursery:
                    killed = time.perf_counter()
                    nursery.start_soon(self._kill, conversation.sandbox.id)
                    async for event in events:
                        if event.kind == "status":
                            ours.append(time.perf_counter() - killed)
                            break
                theirs.append(watch.heard(conversation.sandbox.id) - killed)
                await self._end([name])
        later = statistics.median(mine - plain for mine, plain in zip(ours, theirs, strict=True)) * 1000
        return Finding("a death told, later than docker-py's event", seconds(ours), seconds(theirs), later, 5.0, "ms")

    async def _kill(self, container: str) -> None:
        await trio.to_thread.run_sync(self.raw.client.kill, container)

    async def _start_all(self, names: Sequence[str]) -> None:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(self.client.start, name)

    async def _end(self, names: Sequence[str]) -> None:
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(end, self.client, name)


async def end(client: ControlClient, name: str) -> None:
    """Leave nothing of a conversation."""
    await client.stop(name, force=True)
    await client.delete(name)


class _DeathWatch:
    """A plain docker-py reader of `die` events, with the time at which each came.

    In a process of its own: beside ours in one process, each would wait for the other's turn at the interpreter.
    """

    def __init__(self, base_url: str) -> None:
        self._command = [sys.executable, "-m", "tests.benchmarks.deaths", base_url]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._output.readline() == "listening\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()

    @property
    def _output(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def heard(self, container: str) -> float:
        """When the container's death was told, by `time.perf_counter()`, which all processes of a host share."""
        while line := self._output.readline():
            name, at = line.split()
            if name == container:
                return float(at)
        raise AssertionError("the reader of deaths has ended")
