"""As many conversations as a host is asked for, all at the same moment."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

import trio

from supervisor.control.client import ControlClient, connect
from supervisor.conversation.lifecycle import Status
from tests.torture.ledger import Account
from tests.torture.scene import Scene, open_scene
from tests.torture.trial import Bench, Finding
from tests.torture.workspaces import start_with_token

_Work = Callable[[ControlClient, Account], Awaitable[None]]
_CONNECTED_WITHIN: Final = 60.0


async def run(bench: Bench) -> Finding:
    """Start all at once, pause all at once, stop all at once, delete all at once; each by a client of its own."""
    names = [f"crowd{number}" for number in range(bench.pick(200, 12))]
    figures = []
    async with open_scene(bench) as scene:
        for word, work in _WORKS.items():
            began = time.monotonic()
            async with trio.open_nursery() as nursery:
                for name in names:
                    nursery.start_soon(_alone, scene, name, work)
            figures.append(f"{word} in {time.monotonic() - began:.1f} s")
            for problem in await scene.settled():
                scene.ledger.lose(f"after all were {word}: {problem}")
            bench.say(figures[-1])
        lost = await scene.audit()
    return Finding(f"{len(names)} bare conversations at once", "once", f"{', '.join(figures)}; {scene.tell()}", lost)


async def _alone(scene: Scene, name: str, work: _Work) -> None:
    async with connect(scene.address, within=_CONNECTED_WITHIN) as client:
        await work(client, scene.ledger.account(name))


async def _start(client: ControlClient, account: Account) -> None:
    account.learn(await start_with_token(client, account.conversation), Status.RUNNING)


async def _pause(client: ControlClient, account: Account) -> None:
    account.learn(await client.pause(account.conversation), Status.PAUSED)


async def _resume(client: ControlClient, account: Account) -> None:
    account.learn(await client.resume(account.conversation), Status.RUNNING)


async def _stop(client: ControlClient, account: Account) -> None:
    account.learn((await client.stop(account.conversation)).conversation, Status.STOPPED)


async def _delete(client: ControlClient, account: Account) -> None:
    await client.delete(account.conversation)
    account.forget()


_WORKS: Final[dict[str, _Work]] = {
    "started": _start,
    "paused": _pause,
    "resumed": _resume,
    "stopped": _stop,
    "deleted": _delete,
}
