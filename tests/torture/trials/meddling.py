"""Containers killed, frozen, thawed, stopped, restarted, removed and renamed by somebody else."""

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import attrs
import docker
import trio
from docker.errors import APIError

from supervisor.control.client import connect
from supervisor.conversation.lifecycle import Status
from tests.torture.ledger import Steadiness
from tests.torture.scene import Scene, open_scene
from tests.torture.trial import Bench, Finding
from tests.torture.workspaces import start_with_token


@attrs.frozen
class _Meddling:
    """Something to do to a container, and the engine's event that says that it was done."""

    act: Callable[[docker.APIClient, str], object]
    event: str


_MEDDLING: Final = {
    "kill": _Meddling(lambda raw, container: raw.kill(container), "die"),
    "stop": _Meddling(lambda raw, container: raw.stop(container, timeout=1), "die"),
    "restart": _Meddling(lambda raw, container: raw.restart(container, timeout=1), "die"),
    "remove": _Meddling(lambda raw, container: raw.remove_container(container, force=True), "destroy"),
    "rename": _Meddling(lambda raw, container: raw.rename(container, f"elsewhere-{container[:8]}"), "rename"),
    "freeze": _Meddling(lambda raw, container: raw.pause(container), "pause"),
    "thaw": _Meddling(lambda raw, container: raw.unpause(container), "unpause"),
}
_POINTLESS: Final = {(Status.PAUSED, "freeze"), (Status.RUNNING, "thaw")}
_VICTIMS: Final = tuple(
    (f"{status.lower()}-{kind}", status, meddling)
    for kind, meddling in _MEDDLING.items()
    for status in (Status.RUNNING, Status.PAUSED)
    if (status, kind) not in _POINTLESS
)


async def run(bench: Bench) -> Finding:
    """Whatever is done to a sandbox, its conversation ends in the status that it had, over the same workspace."""
    rounds = bench.pick(10, 1)
    done: Counter[str] = Counter({name: 0 for name, _, _ in _VICTIMS})
    async with open_scene(bench, steadiness=Steadiness(die=True)) as scene:
        for number in range(rounds):
            await _meddle_with_all(scene, done)
            bench.say(f"round {number + 1} of {rounds}: {scene.tell()}")
        for name, count in done.items():
            if not count:
                scene.ledger.lose(f"{name} never took effect: nothing was tried")
        lost = await scene.audit()
    did = f"containers of running and of paused conversations: {', '.join(_MEDDLING)}"
    return Finding(did, f"{done.total()} times", scene.tell(f"of {len(_VICTIMS) * rounds} tried"), lost)


async def _meddle_with_all(scene: Scene, done: Counter[str]) -> None:
    """Each kind of meddling to a running and to a paused conversation, all at once; count what took effect."""
    async with trio.open_nursery() as nursery:
        for name, status, _ in _VICTIMS:
            nursery.start_soon(_bring, scene, name, status)
    async with trio.open_nursery() as nursery:
        for name, _, meddling in _VICTIMS:
            nursery.start_soon(_meddle, scene, name, meddling, done)
    for problem in await scene.settled():
        scene.ledger.lose(f"after meddling: {problem}")
    async with connect(scene.address) as client:
        await scene.check_all(client)


async def _bring(scene: Scene, name: str, status: Status) -> None:
    async with connect(scene.address) as client:
        account = scene.ledger.account(name)
        if account.status is None:
            account.learn(await start_with_token(client, name), Status.RUNNING)
        else:
            account.learn(await client.restart(name, force=True), Status.RUNNING)
        if status is Status.PAUSED:
            account.learn(await client.pause(name), Status.PAUSED)


async def _meddle(scene: Scene, name: str, meddling: _Meddling, done: Counter[str]) -> None:
    async with connect(scene.address) as client:
        sandbox = (await client.get(name)).sandbox
    assert sandbox is not None
    assert sandbox.id is not None
    done[name] += await trio.to_thread.run_sync(_takes_effect, scene.raw, meddling, sandbox.id)


def _takes_effect(raw: docker.APIClient, meddling: _Meddling, container: str) -> bool:
    """Do it, and ask the engine whether it was done."""
    since = int(time.time())
    with suppress(APIError):  # the daemon may be quicker to end what died than somebody else is to start it again
        meddling.act(raw, container)
    filters = {"container": container, "event": meddling.event}
    return any(raw.events(since=since, until=int(time.time()) + 1, filters=filters))
