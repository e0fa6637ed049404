"""A state directory that gets full, and gets room again."""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import trio

from supervisor.control.client import connect
from supervisor.conversation.errors import ErrorCode
from tests.engine_host import run_as_root
from tests.torture.ledger import Steadiness
from tests.torture.scene import Scene, moment, open_scene
from tests.torture.trial import Bench, Finding
from tests.torture.waiting import comes_true

_ROOM: Final = 64 * 2**20
_BLOCK: Final = 4096
_REFUSED_WITHIN: Final = 30.0
_NO_ROOM: Final = re.compile("database or disk is full|No space left on device")


async def run(bench: Bench) -> Finding:
    """Under churn: what cannot be written is refused and undone, and everything goes on when there is room."""
    rounds, crowd = bench.pick(10, 2), bench.pick(10, 5)
    with _small_disk(bench.directory / "state") as disk:
        async with open_scene(bench, steadiness=Steadiness(trouble=_NO_ROOM)) as scene:
            async with scene.churn(crowd).going_on():
                for number in range(rounds):
                    await _fill_and_free(scene, disk / "ballast", with_kill=number % 2 == 1)
                    bench.say(f"round {number + 1} of {rounds}: {scene.tell()}")
            lost = await scene.audit()
    did = f"state directory full and free again under a churn of {crowd}, every other time killed -9 while full"
    return Finding(did, f"{rounds} times", scene.tell(), lost)


async def _fill_and_free(scene: Scene, ballast: Path, *, with_kill: bool) -> None:
    random = scene.bench.random
    await trio.sleep(0.5 + moment(random, scene.bench.pick(5.0, 1.0)))
    before = scene.ledger.refusals[ErrorCode.INTERNAL]

    def refused() -> bool:
        _fill(ballast)  # whatever became free meanwhile
        return scene.ledger.refusals[ErrorCode.INTERNAL] > before

    if not await comes_true(refused, _REFUSED_WITHIN):
        scene.ledger.lose(f"no command was refused in {_REFUSED_WITHIN:g} s on a full disk: nothing was tried")
    await trio.sleep(scene.bench.pick(5.0, 0.5) * random.random())
    async with connect(scene.address) as client:
        await client.info()
    if with_kill:
        await scene.kill_daemon()
    _free(ballast)
    if with_kill:
        await scene.start_daemon()


def _free(ballast: Path) -> None:
    ballast.unlink()


def _fill(ballast: Path) -> None:
    """Leave not one block free."""
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        while True:
            os.write(descriptor, bytes(_BLOCK * 16))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _small_disk(where: Path) -> Iterator[Path]:
    where.mkdir(mode=0o700)
    options = f"size={_ROOM},mode=0700,uid={os.getuid()},gid={os.getgid()}"
    run_as_root(["mount", "-t", "tmpfs", "-o", options, "conversationd-torture", str(where)])
    try:
        yield where
    finally:
        run_as_root(["umount", "--lazy", str(where)])
