"""A daemon that runs out of file descriptors, because of clients that come and stay."""

import re
from typing import Final

import trio

from supervisor.control.client import CannotConnect, ConnectionLost, connect
from tests.torture.ledger import Steadiness
from tests.torture.meter import holding
from tests.torture.scene import Scene, open_scene
from tests.torture.trial import Bench, Finding
from tests.torture.waiting import comes_true

_LIMIT: Final = 128
_CLIENTS: Final = 2 * _LIMIT
_OUT_WITHIN: Final = 60.0
_TRY_AGAIN_AFTER: Final = 0.2
_NO_DESCRIPTOR: Final = re.compile("Too many open files|unable to open database file")


async def run(bench: Bench) -> Finding:
    """Under churn: nothing is lost while there are none, and everything goes on when there are some again."""
    rounds, crowd = bench.pick(10, 1), bench.pick(10, 4)
    prefix = ["prlimit", f"--nofile={_LIMIT}", "--"]
    steadiness = Steadiness(trouble=_NO_DESCRIPTOR)
    async with open_scene(bench, steadiness=steadiness, prefix=prefix) as scene:
        async with scene.churn(crowd).going_on():
            for number in range(rounds):
                await _exhaust(scene)
                bench.say(f"round {number + 1} of {rounds}: {scene.tell()}")
        lost = await scene.audit()
    did = f"all of the daemon's {_LIMIT} descriptors used up by clients, under a churn of {crowd}"
    return Finding(did, f"{rounds} times", scene.tell(), lost)


async def _exhaust(scene: Scene) -> None:
    await trio.sleep(scene.bench.pick(5.0, 1.5))
    async with trio.open_nursery() as nursery:
        for _ in range(_CLIENTS):
            nursery.start_soon(_come_and_stay, scene)
        if not await comes_true(lambda: holding(scene.daemon.pid).descriptors >= _LIMIT - 1, _OUT_WITHIN):
            scene.ledger.lose(f"the daemon's descriptors were not used up in {_OUT_WITHIN:g} s: nothing was tried")
        await trio.sleep(scene.bench.pick(10.0, 2.0))
        nursery.cancel_scope.cancel()


async def _come_and_stay(scene: Scene) -> None:
    while True:
        try:
            async with connect(scene.address, within=5.0) as client:
                await client.info()
                await trio.sleep_forever()
        except (CannotConnect, ConnectionLost):
            await trio.sleep(_TRY_AGAIN_AFTER)
