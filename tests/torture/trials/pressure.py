"""A host that has nothing left for the daemon: every core busy, and most of the memory taken."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import trio

from supervisor.control.client import connect
from tests.torture.churn import Pace
from tests.torture.scene import open_scene
from tests.torture.trial import Bench, Finding

_GIB: Final = 2**30
_BUSY: Final = "while True: pass"
_HOG: Final = """
import sys
taken = bytearray(int(sys.argv[1]))
for page in range(0, len(taken), 4096):
    taken[page] = 1
print("taken", flush=True)
while True:
    for page in range(0, len(taken), 4096):
        taken[page] = 1
"""
_PACE: Final = Pace(within=120.0, patience=240.0)


async def run(bench: Bench) -> Finding:
    """Under churn: it is slower, and that is all."""
    seconds, crowd = bench.pick(120.0, 6.0), bench.pick(20, 4)
    memory = _memory(bench)
    async with open_scene(bench) as scene:
        with _under_pressure(bench.pick(4, 2) * (os.cpu_count() or 1), memory):
            async with scene.churn(crowd, _PACE).going_on():
                await trio.sleep(seconds)
            async with connect(scene.address) as client:
                await client.info()
        lost = await scene.audit()
    did = f"{bench.pick(4, 2)} busy loops a core and {memory / _GIB:.1f} GiB taken, under a churn of {crowd}"
    return Finding(did, f"{seconds:g} s", scene.tell(), lost)


def _memory(bench: Bench) -> int:
    """How much to take: half of what is free at the most, so that nobody here can run out."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    return min(free // 2, bench.pick(12 * _GIB, _GIB // 2))


@contextmanager
def _under_pressure(loops: int, memory: int) -> Iterator[None]:
    with ExitStack() as running:
        for _ in range(loops):
            running.enter_context(_process(_BUSY))
        hog = running.enter_context(_process(_HOG, str(memory)))
        assert hog.stdout is not None
        hog.stdout.readline()
        yield


@contextmanager
def _process(code: str, *arguments: str) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-S", "-E", "-c", code, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()
