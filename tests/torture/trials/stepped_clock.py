"""The wall clock stepped an hour to either side, for the daemon alone: libfaketime moves it under a running process."""

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import trio

from supervisor.control.client import connect
from supervisor.conversation.lifecycle import Status
from tests.torture.ledger import Steadiness
from tests.torture.scene import Scene, moment, open_scene
from tests.torture.trial import Bench, Finding
from tests.torture.workspaces import start_with_token

_HOUR: Final = 3600
_STEPS: Final = (_HOUR, 0, -_HOUR, 0)
_VICTIM: Final = "victim"
_BACK_WITHIN: Final = 30.0
_FETCH: Final = "apt-get download -q libfaketime"


async def run(bench: Bench) -> Finding:
    """Under churn, and over a sandbox that dies around each step: no order, backoff or deadline comes of the clock."""
    rounds, crowd, steps = bench.pick(10, 1), bench.pick(10, 4), bench.pick(_STEPS, (_HOUR, -_HOUR))
    clock = bench.directory / "clock"
    _set(clock, 0)
    environ = await trio.to_thread.run_sync(_faked, bench.directory, clock)
    async with open_scene(bench, steadiness=Steadiness(victims=frozenset({_VICTIM})), environ=environ) as scene:
        async with connect(scene.address) as client:
            scene.ledger.account(_VICTIM).learn(await start_with_token(client, _VICTIM), Status.RUNNING)
        async with scene.churn(crowd).going_on():
            for number in range(rounds):
                for offset in steps:
                    await _step(scene, clock, offset)
                bench.say(f"round {number + 1} of {rounds}: {scene.tell()}")
        lost = await scene.audit()
    did = f"wall clock stepped an hour forth and back, under a churn of {crowd} and a death at each step"
    return Finding(did, f"{rounds * len(steps)} steps", scene.tell(), lost)


async def _step(scene: Scene, clock: Path, offset: int) -> None:
    """Step while a restart is waited for: it comes at its time nevertheless."""
    await trio.sleep(moment(scene.bench.random, 1.0))
    async with connect(scene.address) as client:
        sandbox = (await client.get(_VICTIM)).sandbox
        assert sandbox is not None
        seq = (await client.info()).seq
        await trio.to_thread.run_sync(scene.raw.kill, sandbox.name)
        _set(clock, offset)
        with trio.move_on_after(_BACK_WITHIN) as patience:
            async with client.subscribe(since=seq, ids=[_VICTIM]) as events:
                async for event in events:
                    if event.kind == "status" and event.data["to"] == Status.RUNNING:
                        _expect_offset(scene, event.at, offset)
                        break
        if patience.cancelled_caught:
            scene.ledger.lose(f"a sandbox that died at a step to {offset} s was not back in {_BACK_WITHIN:g} s")


def _expect_offset(scene: Scene, at: datetime, offset: int) -> None:
    """The step has to be one that the daemon really made."""
    if abs(at - datetime.now(UTC) - timedelta(seconds=offset)) > timedelta(seconds=60):
        scene.ledger.lose(f"the daemon's clock says {at}: it was not stepped to {offset} s")


def _set(clock: Path, offset: int) -> None:
    beside = clock.with_suffix(".new")
    beside.write_text(f"{offset:+d}\n")
    beside.rename(clock)


def _faked(directory: Path, clock: Path) -> dict[str, str]:
    """The environment in which only the wall clock is faked. The library is unpacked from Debian, and not installed."""
    command = f"({_FETCH} || (apt-get update -q && {_FETCH})) && dpkg-deb -x libfaketime_*.deb ."
    subprocess.run(["sh", "-c", command], check=True, cwd=directory, capture_output=True, text=True)
    library = next(directory.rglob("libfaketimeMT.so.1"))
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DONT_RESET": "1",
        "NO_FAKE_STAT": "1",
    }
