"""Churn for a long time, with nothing that grows."""

from typing import Final

import trio

from tests.torture.meter import Holding, Tolerance, holding, typical
from tests.torture.scene import Scene, open_scene
from tests.torture.trial import Bench, Finding

_SHORT: Final = 20.0
_WARM_UP: Final = 0.2
_SAMPLES: Final = 40
_WINDOW: Final = 8


async def run(bench: Bench) -> Finding:
    """What it holds after the warm-up, the first fifth, beside what it holds at the end: medians, under way."""
    seconds, crowd = bench.pick(bench.minutes * 60, _SHORT), bench.pick(20, 6)
    tolerance = bench.pick(Tolerance(memory=1.1), Tolerance(memory=1.25))
    async with open_scene(bench) as scene:
        async with scene.churn(crowd).going_on():
            samples = await _sample(scene, seconds)
        lost = await scene.audit()
    first = round(len(samples) * _WARM_UP)
    before, after = typical(samples[first : first + _WINDOW]), typical(samples[-_WINDOW:])
    figures = f"after warm-up: {before}; at the end: {after}; {tolerance}; {scene.tell()}"
    grown = tolerance.exceeded(before, after)
    return Finding(f"churn of {crowd} conversations", f"{seconds / 60:.1f} minutes", figures, (*lost, *grown))


async def _sample(scene: Scene, seconds: float) -> list[Holding]:
    await trio.lowlevel.checkpoint()
    samples = []
    for _ in range(_SAMPLES):
        await trio.sleep(seconds / _SAMPLES)
        samples.append(holding(scene.daemon.pid))
        scene.bench.say(f"{len(samples)} of {_SAMPLES}: {samples[-1]}; {scene.tell()}")
    return samples
