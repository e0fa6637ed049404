"""What OpenHands' front end asks the V1 routes again and again."""

from typing import Any, Final

import httpx2 as httpx
import trio

TASKS: Final = "/api/v1/app-conversations/start-tasks"
CONVERSATIONS: Final = "/api/v1/app-conversations"
SANDBOXES: Final = "/api/v1/sandboxes"


async def the_one(client: httpx.AsyncClient, path: str, name: str, one: str) -> dict[str, Any] | None:
    """What a look-up of one id answers."""
    answer = await client.get(path, params={name: one})
    assert answer.status_code == 200, answer.text
    (found,) = answer.json()
    return None if found is None else dict(found)


async def until_ready(client: httpx.AsyncClient, task: dict[str, Any]) -> dict[str, Any]:
    """Poll a start task as the front end does, until it is over."""
    await trio.lowlevel.checkpoint()
    while task["status"] not in ("READY", "ERROR"):
        await trio.sleep(0.05)
        found = await the_one(client, TASKS, "ids", task["id"])
        assert found is not None
        task = found
    return task
