"""The engine killed with -9 and started again, alone and together with the daemon."""

from typing import Final

import attrs
import trio

from supervisor.control.client import ControlClient, connect
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import Observed
from tests.torture.ledger import Steadiness
from tests.torture.scene import Scene, moment, open_scene
from tests.torture.trial import Bench, Finding
from tests.torture.workspaces import start_with_token

_NOTICED_WITHIN: Final = 30.0
_LOOK_AGAIN_AFTER: Final = 0.05
_LIFE: Final = 3.0
_LIVE_RESTORE: Final = "--live-restore"


async def run(bench: Bench) -> Finding:
    """Without live-restore the engine ends its containers when it comes back: what ran is booted again."""
    return await _kill_engine(bench, live_restore=False)


async def run_with_live_restore(bench: Bench) -> Finding:
    """With live-restore the containers outlive it: not one of them is touched."""
    await trio.to_thread.run_sync(bench.engine.stop)
    await trio.to_thread.run_sync(bench.engine.start, _LIVE_RESTORE)
    try:
        return await _kill_engine(bench, live_restore=True)
    finally:
        with trio.CancelScope(shield=True):  # bounded by the engine's own time limits
            await trio.to_thread.run_sync(bench.engine.stop)
            await trio.to_thread.run_sync(bench.engine.start)


async def run_both(bench: Bench) -> Finding:
    """Engine and daemon killed within a moment of each other, under churn, and started again in either order."""
    rounds, crowd = bench.pick(20, 2), bench.pick(10, 5)
    steadiness = Steadiness(die=True)
    async with open_scene(bench, steadiness=steadiness) as scene:
        async with scene.churn(crowd).going_on():
            for number in range(rounds):
                await trio.sleep(moment(bench.random, _LIFE))
                await _kill_both(scene)
                bench.say(f"round {number + 1} of {rounds}: {scene.tell()}")
        lost = await scene.audit()
    return Finding(f"engine and daemon killed -9 under a churn of {crowd}", f"{rounds} times", scene.tell(), lost)


async def _kill_both(scene: Scene) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(scene.kill_daemon)
        await trio.sleep(moment(scene.bench.random, 0.1))
        nursery.start_soon(trio.to_thread.run_sync, scene.bench.engine.kill)
    starts = [scene.start_daemon, lambda: trio.to_thread.run_sync(scene.bench.engine.start)]
    scene.bench.random.shuffle(starts)
    async with trio.open_nursery() as nursery:
        for start in starts:
            nursery.start_soon(start)
            await trio.sleep(moment(scene.bench.random, 1.0))


@attrs.frozen
class _Boots:
    """Which boot each conversation is in, and the process of its sandbox as the engine tells it."""

    incarnations: dict[str, int]
    processes: dict[str, int]


async def _kill_engine(bench: Bench, *, live_restore: bool) -> Finding:
    rounds, running, paused = bench.pick(10, 1), bench.pick(10, 3), bench.pick(10, 2)
    async with open_scene(bench, steadiness=Steadiness(die=not live_restore)) as scene:
        names = await _populate(scene, running, paused)
        for number in range(rounds):
            await _round(scene, names, live_restore=live_restore)
            bench.say(f"round {number + 1} of {rounds}: {scene.tell()}")
        lost = await scene.audit()
    did = f"engine killed -9 under {running} running and {paused} paused, {'with' if live_restore else 'without'}"
    return Finding(f"{did} live-restore", f"{rounds} times", scene.tell(), lost)


async def _populate(scene: Scene, running: int, paused: int) -> dict[str, Status]:
    wanted = {f"runs{number}": Status.RUNNING for number in range(running)}
    wanted |= {f"pauses{number}": Status.PAUSED for number in range(paused)}
    async with connect(scene.address) as client:
        for name, status in wanted.items():
            scene.ledger.account(name).learn(await start_with_token(client, name), Status.RUNNING)
            if status is Status.PAUSED:
                scene.ledger.account(name).learn(await client.pause(name), status)
    return wanted


async def _round(scene: Scene, wanted: dict[str, Status], *, live_restore: bool) -> None:
    await trio.lowlevel.checkpoint()
    async with connect(scene.address) as client:
        before = await _boots(scene, client)
        await trio.to_thread.run_sync(scene.bench.engine.kill)
        await _expect_unknown(scene, client, wanted)
        await trio.to_thread.run_sync(scene.bench.engine.start, *([_LIVE_RESTORE] if live_restore else []))
        for problem in await scene.settled():
            scene.ledger.lose(f"after the engine's return: {problem}")
        after = {one.id: one for one in await client.list_all()}
        for name, status in wanted.items():
            if after[name].status is not status:
                scene.ledger.lose(f"{name} was {status} and is {after[name].status} after the engine's return")
        if live_restore:
            _expect_untouched(scene, before, await _boots(scene, client))
        await _thaw_and_freeze(scene, client, wanted)


async def _expect_unknown(scene: Scene, client: ControlClient, wanted: dict[str, Status]) -> None:
    """What does not answer is unknown, and never dead."""
    deadline = trio.current_time() + _NOTICED_WITHIN
    seen = {one.id: one for one in await client.list_all()}
    while any(one.observed is not Observed.UNKNOWN for one in seen.values()) and trio.current_time() < deadline:
        await trio.sleep(_LOOK_AGAIN_AFTER)
        seen = {one.id: one for one in await client.list_all()}
    for name, status in wanted.items():
        if (seen[name].status, seen[name].observed) != (status, Observed.UNKNOWN):
            scene.ledger.lose(f"{name} is {seen[name].status} ({seen[name].observed}) while the engine is away")


async def _boots(scene: Scene, client: ControlClient) -> _Boots:
    conversations = await client.list_all()
    processes = {}
    for one in conversations:
        if one.sandbox is not None and one.sandbox.id is not None:
            state = (await trio.to_thread.run_sync(scene.raw.inspect_container, one.sandbox.id))["State"]
            processes[one.id] = state["Pid"]
    return _Boots({one.id: one.incarnation for one in conversations}, processes)


def _expect_untouched(scene: Scene, before: _Boots, after: _Boots) -> None:
    for name, incarnation in before.incarnations.items():
        if (after.incarnations[name], after.processes[name]) != (incarnation, before.processes[name]):
            scene.ledger.lose(f"the sandbox of {name} did not outlive the engine")


async def _thaw_and_freeze(scene: Scene, client: ControlClient, wanted: dict[str, Status]) -> None:
    """What is paused, frozen or cold, can be resumed."""
    await trio.lowlevel.checkpoint()
    for name, status in wanted.items():
        if status is Status.PAUSED:
            scene.ledger.account(name).learn(await client.resume(name), Status.RUNNING)
            scene.ledger.account(name).learn(await client.pause(name), Status.PAUSED)
