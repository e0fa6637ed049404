"""Containers killed, frozen, thawed, stopped, restarted, removed and renamed by somebody else."""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import docker
import trio
from docker.errors import APIError

from supervisor.control.client import connect
from supervisor.conversation.lifecycle import Status
from tests.torture.ledger import Steadiness
from tests.torture.scene import Scene, open_scene
from tests.torture.trial import Bench, Finding
from tests.torture.workspaces import start_with_token

_Meddle = Callable[[docker.APIClient, str], object]

_MEDDLING: Final[dict[str, _Meddle]] = {
    "kill": lambda raw, container: raw.kill(container),
    "stop": lambda raw, container: raw.stop(container, timeout=1),
    "restart": lambda raw, container: raw.restart(container, timeout=1),
    "remove": lambda raw, container: raw.remove_container(container, force=True),
    "rename": lambda raw, container: raw.rename(container, f"elsewhere-{container[:8]}"),
    "freeze": lambda raw, container: raw.pause(container),
    "thaw": lambda raw, container: raw.unpause(container),
}
_POINTLESS: Final = {(Status.PAUSED, "freeze"), (Status.RUNNING, "thaw")}


async def run(bench: Bench) -> Finding:
    """Whatever is done to a sandbox, its conversation ends in the status that it had, over the same workspace."""
    rounds = bench.pick(10, 1)
    done = 0
    async with open_scene(bench, steadiness=Steadiness(die=True)) as scene:
        for number in range(rounds):
            done += await _meddle_with_all(scene)
            bench.say(f"round {number + 1} of {rounds}: {scene.tell()}")
        lost = await scene.audit()
    did = f"containers of running and of paused conversations: {', '.join(_MEDDLING)}"
    return Finding(did, f"{done} times", scene.tell(), lost)


async def _meddle_with_all(scene: Scene) -> int:
    """Each kind of meddling to a running and to a paused conversation, all at once."""
    victims = [
        (f"{status.lower()}-{kind}", status, meddle)
        for kind, meddle in _MEDDLING.items()
        for status in (Status.RUNNING, Status.PAUSED)
        if (status, kind) not in _POINTLESS
    ]
    async with trio.open_nursery() as nursery:
        for name, status, _ in victims:
            nursery.start_soon(_bring, scene, name, status)
    async with trio.open_nursery() as nursery:
        for name, _, meddle in victims:
            nursery.start_soon(_meddle, scene, name, meddle)
    for problem in await scene.settled():
        scene.ledger.lose(f"after meddling: {problem}")
    return len(victims)


async def _bring(scene: Scene, name: str, status: Status) -> None:
    async with connect(scene.address) as client:
        account = scene.ledger.account(name)
        if account.status is None:
            account.learn(await start_with_token(client, name), Status.RUNNING)
        else:
            account.learn(await client.restart(name, force=True), Status.RUNNING)
        if status is Status.PAUSED:
            account.learn(await client.pause(name), Status.PAUSED)


async def _meddle(scene: Scene, name: str, meddle: _Meddle) -> None:
    async with connect(scene.address) as client:
        sandbox = (await client.get(name)).sandbox
    assert sandbox is not None
    assert sandbox.id is not None
    with suppress(APIError):  # the daemon may be quicker to end what died than somebody else is to start it again
        await trio.to_thread.run_sync(meddle, scene.raw, sandbox.id)
