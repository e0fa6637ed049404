"""An engine whose socket hangs, crawls, or breaks off in the middle of an answer."""

from typing import Final

import trio

from supervisor.conversation.record import FailureCode
from tests.torture.bad_socket import BadSocket, bad_socket
from tests.torture.churn import Pace
from tests.torture.ledger import Steadiness
from tests.torture.scene import Scene, moment, open_scene
from tests.torture.trial import Bench, Finding

_CALM: Final = 1.0
_PACE: Final = Pace(within=10.0)
_TOO_LATE: Final = frozenset({FailureCode.START_TIMEOUT, FailureCode.RESUME_TIMEOUT})
"""No sandbox is ended here. But a start, or a resume, whose client gives it 10 s may be too late: stalls are longer."""


async def run(bench: Bench) -> Finding:
    """Under churn: every command is answered, nothing unknown is called dead, and all is well when it flows again."""
    rounds, crowd = bench.pick(20, 2), bench.pick(10, 5)
    async with (
        bad_socket(bench.engine.base_url, bench.directory / "engine.sock") as engine,
        open_scene(bench, steadiness=Steadiness(failures=_TOO_LATE), environ={"DOCKER_HOST": engine.base_url}) as scene,
    ):
        async with scene.churn(crowd, _PACE).going_on():
            for number in range(rounds):
                await _stall_crawl_and_cut(scene, engine)
                bench.say(f"round {number + 1} of {rounds}: {engine.cuts} answers cut; {scene.tell()}")
        lost = await scene.audit()
    did = f"engine socket stalled, slowed down and cut in mid-reply under a churn of {crowd}"
    figures = scene.tell(f"{engine.cuts} answers cut")
    return Finding(did, f"{rounds} times each", figures, lost)


async def _stall_crawl_and_cut(scene: Scene, engine: BadSocket) -> None:
    random, longest = scene.bench.random, scene.bench.pick(40.0, 3.0)
    await trio.sleep(moment(random, _CALM))
    engine.stall()
    await trio.sleep(longest * random.random())
    engine.resume()
    await trio.sleep(moment(random, _CALM))
    engine.crawl(0.1)
    await trio.sleep(longest * random.random())
    engine.crawl(0.0)
    await trio.sleep(moment(random, _CALM))
    engine.cut_replies(scene.bench.pick(20, 10))
    await trio.sleep(_CALM)
    engine.cut_replies(0)
