"""What is measured from inside, in a process of its own: stalls of the event loop, and the memory of an idle actor.

`python -m tests.benchmarks.inside memory COUNT` prints one number, `... stall IMAGE COUNT` three: our loop's stall, at
the same time that of a loop in another process that does nothing at all (`... beat`), and how long our loop worked in
one go. What both suffer is the host's: the engine keeps its cores busy.
"""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Self

import attrs
import trio

from supervisor.actors.clock import SystemClock
from supervisor.actors.settings import ActorSettings, CapacityLimits, Health
from supervisor.actors.supervision import Parts, Supervision, supervise
from supervisor.agent import NoAgent
from supervisor.control.service import StartRequest
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import Allowance, SandboxSpec
from supervisor.daemon import tune_interpreter
from supervisor.journal.store import Store
from supervisor.logs import LogFormat, LogLevel, configure_logging
from supervisor.sandbox.docker import DockerProvider, Lanes
from supervisor.sandbox.port import SandboxProvider
from tests.benchmarks.sandboxes import serving_spec
from tests.engine_host import find_engine
from tests.fakes.engine import FakeEngine

_CROWD = 100


@asynccontextmanager
async def _supervision(store: Store, spec: SandboxSpec, provider: SandboxProvider) -> AsyncIterator[Supervision]:
    settings = ActorSettings(
        sandbox=spec,
        allow=Allowance(),
        agent="none",
        health=Health(interval=3600.0),
        capacity=CapacityLimits(max_running=0, max_starting=0),
    )
    drivers: Mapping[str, NoAgent] = {"none": NoAgent()}
    parts = Parts(
        store=store,
        providers={provider.name: provider},
        drivers=drivers,
        settings=lambda: settings,
        clock=SystemClock(),
        random=Random(0),
    )
    async with supervise(parts) as supervision:
        yield supervision


class _Turns(trio.abc.Instrument):
    """The processor time that the loop's thread takes from one wait to the next; `longest` in seconds."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._began = time.thread_time()

    def after_io_wait(self, timeout: float) -> None:
        """A turn begins."""
        self._began = time.thread_time()

    def before_io_wait(self, timeout: float) -> None:
        """A turn ends."""
        self.longest = max(self.longest, time.thread_time() - self._began)


async def loop_stall(base_url: str, spec: SandboxSpec, directory: Path, count: int) -> tuple[float, float, float]:
    """How many seconds late a loop wakes a task at the worst, while many sandboxes start: ours, and a bare one.

    The third number is the longest turn of our loop, in seconds of processor time.
    """
    store = Store(directory / "stall.db")
    lateness: list[float] = []
    turns = _Turns()
    async with (
        DockerProvider(base_url, store.instance, Lanes()) as provider,
        _supervision(store, spec, provider) as supervision,
        trio.open_nursery() as nursery,
    ):
        with _BareLoop() as bare:
            nursery.start_soon(_beat, lateness)
            trio.lowlevel.add_instrument(turns)
            await _start_all(supervision, count)
            trio.lowlevel.remove_instrument(turns)
            theirs = bare.worst()
        nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await _end_all(supervision, count)
    store.close()
    return max(lateness), theirs, turns.longest


async def memory_of_idle_actors(spec: SandboxSpec, directory: Path, count: int) -> float:
    """How many bytes the process grows for each conversation that runs and has nothing to do."""
    store = Store(directory / "memory.db")
    async with _supervision(store, spec, FakeEngine(latency=0.0)) as supervision:
        await _start_all(supervision, 100, "warm")
        before = _resident()
        await _start_all(supervision, count)
        grown = (_resident() - before) / count
    store.close()
    return grown


class _BareLoop:
    """A Trio loop in a process of its own in which one task sleeps, and nothing else happens."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.benchmarks.inside", "beat"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "beating\n"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def worst(self) -> float:
        """End it; how many seconds late it was at the worst."""
        return float(self._process.communicate()[0])


async def bare_loop() -> float:
    """Sleep until our standard input ends; how many seconds late we were at the worst."""
    lateness: list[float] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_beat, lateness)
        print("beating", flush=True)  # noqa: T201 - for the process that started us
        await trio.lowlevel.wait_readable(sys.stdin)
        nursery.cancel_scope.cancel()
    return max(lateness)


async def _beat(lateness: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await trio.sleep(0.001)
        lateness.append(time.perf_counter() - began - 0.001)


async def _start_all(supervision: Supervision, count: int, prefix: str = "c") -> None:
    """Start them in crowds, so that memory shows what idle actors hold and not what a crowd of starts needed once."""
    for first in range(0, count, _CROWD):
        async with trio.open_nursery() as nursery:
            for number in range(first, min(first + _CROWD, count)):
                request = StartRequest(id=ConversationId(f"{prefix}{number}"))
                nursery.start_soon(supervision.supervisor.start, request)
    await trio.lowlevel.checkpoint()


async def _end_all(supervision: Supervision, count: int) -> None:
    await trio.lowlevel.checkpoint()
    for number in range(count):
        await supervision.supervisor.stop(ConversationId(f"c{number}"), None, force=True)
        await supervision.supervisor.delete(ConversationId(f"c{number}"))


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _measure_stall(image: str, count: str) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as directory:
        base_url = find_engine() or ""
        return trio.run(loop_stall, base_url, serving_spec(image), Path(directory), int(count))


def _measure_memory(count: str) -> float:
    with tempfile.TemporaryDirectory() as directory:
        spec = attrs.evolve(serving_spec("image"), port=None)
        return trio.run(memory_of_idle_actors, spec, Path(directory), int(count))


if __name__ == "__main__":
    tune_interpreter()
    configure_logging(LogLevel.ERROR, LogFormat.JSON, sys.stderr)
    match sys.argv[1:]:
        case ["stall", image, count]:
            print(*_measure_stall(image, count))  # noqa: T201 - the answer
        case ["memory", count]:
            print(_measure_memory(count))  # noqa: T201 - the answer
        case _:
            print(trio.run(bare_loop))  # noqa: T201 - the answer
