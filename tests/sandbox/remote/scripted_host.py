"""A host in memory that answers by a script, on simulated time: whatever real hosts were seen to say, and worse."""

import json
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, TypeAlias

import attrs
import httpx2
import trio

from supervisor.conversation.ids import ConversationId
from supervisor.sandbox.remote import Host, RemoteProvider
from supervisor.sandbox.remote.address import parse_host_address
from tests.conformance.benches.bench import plan_of

KEY = "the-key-of-the-host"
OWNER = "0123456789abcdef"
C1 = ConversationId("c1")
NAME = "conversationd-01234567-c1-1"
PLAN = plan_of("remote", "image", ("serve",), 1)

Reply: TypeAlias = httpx2.Response | Exception | Callable[[], Awaitable[httpx2.Response]]


def runtime(**more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """A runtime as the host shows it, ready unless told otherwise."""
    return {
        "runtime_id": "r1",
        "session_id": NAME,
        "url": "https://r1.example/x",
        "session_api_key": "the-key-of-r1",
        "status": "running",
        "pod_status": "ready",
        "restart_count": 0,
        "restart_reasons": [],
        "pod_logs": "",
        "work_hosts": {},
        **more,
    }


def says(value: object, status: int = 200, **headers: str) -> httpx2.Response:
    """An answer of JSON; header names are written with underscores."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return httpx2.Response(status, content=json.dumps(value).encode(), headers=named)


def shows(**more: Any) -> httpx2.Response:  # noqa: ANN401 - JSON
    """The answer that is one runtime."""
    return says(runtime(**more))


def lists(*runtimes: dict[str, Any]) -> httpx2.Response:
    """The answer that is a list."""
    return says({"runtimes": list(runtimes)})


def missing() -> httpx2.Response:
    """The answer of a host that knows no such session."""
    return says({"detail": "Not Found"}, 404)


async def hang() -> httpx2.Response:
    """Never answer."""
    await trio.sleep_forever()
    raise AssertionError


@attrs.define
class ScriptedHost:
    """Answers `METHOD /path` with the next of its script, the last one again and again; remembers what it was asked."""

    replies: dict[str, list[Reply]] = attrs.field(factory=dict)
    asked: list[str] = attrs.field(factory=list)
    bodies: list[dict[str, Any]] = attrs.field(factory=list)
    times: list[float] = attrs.field(factory=list)

    def on(self, line: str, *replies: Reply) -> None:
        """Script the answers to a request."""
        self.replies[line] = list(replies)

    def count(self, line: str) -> int:
        """How often it was asked this."""
        return self.asked.count(line)

    def provider(self) -> RemoteProvider:
        """The provider under test, whose host this is."""
        client = httpx2.AsyncClient(transport=httpx2.MockTransport(self._answer), timeout=None)
        return RemoteProvider(Host(parse_host_address("https://host.example"), KEY, client, Random(0)), OWNER, 2**30)

    async def _answer(self, request: httpx2.Request) -> httpx2.Response:
        await trio.lowlevel.checkpoint()
        line = f"{request.method} {request.url.raw_path.decode()}"
        assert request.headers["X-API-Key"] == KEY
        self.asked.append(line)
        self.times.append(trio.current_time())
        if request.content:
            self.bodies.append(json.loads(request.content))
        script = self.replies.get(line, [missing()])
        reply = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(reply, Exception):
            raise reply
        answer = reply if isinstance(reply, httpx2.Response) else await reply()
        # Not read yet, as one that comes over the network.
        return httpx2.Response(answer.status_code, stream=httpx2.ByteStream(answer.content), headers=answer.headers)
