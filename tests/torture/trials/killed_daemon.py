"""The daemon killed with -9, again and again, at random moments of its work and of its start."""

from typing import Final

import trio

from tests.torture.scene import Scene, moment, open_scene
from tests.torture.trial import Bench, Finding

_LIFE: Final = 2.5
_START: Final = 1.5
_WHILE_STARTING: Final = 0.25
"""How many of the kills hit the daemon while it starts."""


async def run(bench: Bench) -> Finding:
    """Kill it under a churn of conversations: none is lost, and no sandbox notices."""
    lives, crowd = bench.pick(100, 5), bench.pick(20, 6)
    async with open_scene(bench) as scene:
        started = []
        async with scene.churn(crowd).going_on():
            for life in range(lives):
                started.append(await _live(scene))
                bench.say(f"life {life + 1} of {lives}: {scene.tell()}")
        lost = await scene.audit()
    figures = scene.tell(f"ready again in {max(started):.1f} s at most")
    return Finding(f"daemon killed -9 under a churn of {crowd} conversations", f"{lives} times", figures, lost)


async def _live(scene: Scene) -> float:
    random = scene.bench.random
    await trio.sleep(moment(random, _LIFE))
    await scene.kill_daemon()
    while random.random() < _WHILE_STARTING:
        await scene.kill_daemon_while_it_starts(moment(random, _START))
    return await scene.start_daemon()
