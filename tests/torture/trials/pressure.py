"""A host that has nothing left for the daemon: every core busy, and memory that is used up again and again."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Final

import trio

from supervisor.control.client import connect
from tests.torture.churn import Pace
from tests.torture.memory_group import MemoryGroup, memory_group
from tests.torture.meter import holding
from tests.torture.scene import Scene, open_scene
from tests.torture.trial import Bench, Finding

_MIB: Final = 2**20
_BUSY: Final = "while True: pass"
_HOG: Final = """
import sys
from pathlib import Path
Path("/proc/self/oom_score_adj").write_text(sys.argv[2])
taken = bytearray(int(sys.argv[1]))
for page in range(0, len(taken), 4096):
    taken[page] = 1
print("taken", flush=True)
while True:
    for page in range(0, len(taken), 4096):
        taken[page] = 1
"""
_PACE: Final = Pace(within=120.0, patience=240.0)
_ROOM: Final = 64 * _MIB
"""What the daemon may still have beyond what it holds, until the greedy one comes."""
_LAST_TO_GO: Final = "0"
_FIRST_TO_GO: Final = "1000"
"""Who is to be ended when nothing is left (proc(5), oom_score_adj): nobody in the group before the greedy one."""

_AGAIN_AFTER: Final = 0.2


async def run(bench: Bench) -> Finding:
    """Under churn: it is slower, and that is all. Whom the kernel ends is the greediest, as on a host."""
    seconds, crowd = bench.pick(120.0, 6.0), bench.pick(20, 4)
    loops, limit = bench.pick(4, 2), bench.pick(2048, 512) * _MIB
    with memory_group(limit) as group:
        async with open_scene(bench, prefix=group.prefix) as scene:
            with _busy(loops * (os.cpu_count() or 1)), _hog(group, limit - _held(scene) - _ROOM, _LAST_TO_GO):
                async with scene.churn(crowd, _PACE).going_on():
                    with trio.move_on_after(seconds):
                        await _take_the_rest(group, limit)
                async with connect(scene.address) as client:
                    await client.info()
            for loss in _untried(group):
                scene.ledger.lose(loss)
            lost = await scene.audit()
        figures = scene.tell(f"limit met {group.times_met} times, {group.ended} greedy ones ended")
    did = f"{loops} busy loops a core, and {limit // _MIB} MiB of memory used up, under a churn of {crowd}"
    return Finding(did, f"{seconds:g} s", figures, lost)


def _held(scene: Scene) -> int:
    return holding(scene.daemon.pid).memory


def _untried(group: MemoryGroup) -> list[str]:
    counts = {"the limit was never met": group.times_met, "the kernel had to end nobody": group.ended}
    return [f"{what}: nothing was tried" for what, count in counts.items() if not count]


async def _take_the_rest(group: MemoryGroup, limit: int) -> None:
    """Again and again ask for more than there is left, until the kernel ends who does."""
    while True:
        await trio.run_process(_hog_command(group, limit, _FIRST_TO_GO), capture_stdout=True, check=False)
        await trio.sleep(_AGAIN_AFTER)


@contextmanager
def _busy(loops: int) -> Iterator[None]:
    with ExitStack() as running:
        for _ in range(loops):
            running.enter_context(_process(_python(_BUSY)))
        yield


@contextmanager
def _hog(group: MemoryGroup, size: int, score: str) -> Iterator[None]:
    """Somebody who takes so much, and needs all of it all the time."""
    with _process(_hog_command(group, size, score)) as hog:
        assert hog.stdout is not None
        hog.stdout.readline()
        yield


def _hog_command(group: MemoryGroup, size: int, score: str) -> Sequence[str]:
    return *group.prefix, *_python(_HOG, str(size), score)


def _python(code: str, *arguments: str) -> Sequence[str]:
    return sys.executable, "-S", "-E", "-c", code, *arguments


@contextmanager
def _process(command: Sequence[str]) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
