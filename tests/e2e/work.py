"""A conversation at work, seen from every side: its daemon, its engine, its agent server, its model and its files."""

import io
import sqlite3
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from typing import Any, Final

import attrs
import httpx2
import trio
from docker import APIClient
from docker.errors import NotFound

from supervisor.agent.v1 import agent_conversation_id
from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, Conversation, Event, EventSubscription, connect
from supervisor.conversation.ids import ConversationId
from tests.daemon_process import DaemonProcess
from tests.e2e.llm_stub import API_KEY, STEPS_FILE, LlmStub, append_line, bridge_gateway, serve_llm

PATIENCE: Final = 240.0
"""Seconds of real time after which a test that waits has failed."""

_LOOK_EVERY: Final = 0.05
_FROZEN_SECONDS: Final = 0.5


@attrs.frozen(eq=False)
class AgentAnswer:
    """What the agent server itself answers: JSON that is its own affair."""

    status: int
    body: Any


@attrs.define(eq=False)
class Work:
    """One conversation of one daemon. `seen` holds its events as far as a test has waited for them."""

    id: ConversationId
    client: ControlClient
    llm: LlmStub
    _raw: APIClient
    _events: EventSubscription
    _http: httpx2.AsyncClient
    seen: list[Event] = attrs.field(factory=list)

    async def start(self) -> Conversation:
        """Start it, with a request that lets the agent work with its model at once."""
        return await self.client.start(self.id, request=self.llm.request_body())

    async def told(self, kind: str, **data: object) -> Event:
        """Read on in the conversation's events until this one comes."""
        async for event in self._events:
            self.seen.append(event)
            if event.kind == kind and data.items() <= event.data.items():
                return event
        raise AssertionError(f"the events ended before {kind} {data}")

    async def asked(self, count: int) -> None:
        """Wait until the agent has asked its model so many times."""
        await trio.to_thread.run_sync(self.llm.wait_asked, count, PATIENCE, abandon_on_cancel=True)

    async def container(self) -> dict[str, Any]:
        """What the engine says of the sandbox."""
        sandbox = (await self.client.get(self.id)).sandbox
        assert sandbox is not None
        found: dict[str, Any] = self._raw.inspect_container(sandbox.name)
        return found

    async def kill_container(self) -> None:
        """What an administrator, or the kernel, may do at any time."""
        self._raw.kill((await self.container())["Id"])

    async def steps(self) -> list[str]:
        """The lines that the agent has written so far; frozen and ended sandboxes can be looked at, too."""
        container = await self.container()
        return read_steps(self._raw, container["Id"])

    async def written(self, step: int) -> None:
        """Wait until the agent has written the line of a step."""

        async def is_written() -> bool:
            return f"step-{step}" in await self.steps()

        await until(is_written)

    async def ask_agent(self, method: str, path: str = "", *, key: str | None = None) -> AgentAnswer:
        """Ask the agent server about the conversation, by what `connect` gives, or with another key."""
        access = await self.client.connect(self.id)
        headers = {"X-Session-API-Key": access.session_api_key if key is None else key}
        url = f"{access.url}/api/conversations/{agent_conversation_id(self.id)}{path}"
        answer = await self._http.request(method, url, headers=headers)
        return AgentAnswer(answer.status_code, answer.json())

    async def history(self, kind: str) -> list[str]:
        """The ids of the agent's own events of a kind, oldest first."""
        answer = await self.ask_agent("GET", f"/events/search?kind={kind}&limit=100")
        return [event["id"] for event in answer.body["items"]]

    async def pause_noted(self) -> None:
        """Wait until the agent server has noted that it is to pause."""

        async def is_noted() -> bool:
            return bool(await self.history("PauseEvent"))

        await until(is_noted)

    async def is_frozen(self) -> bool:
        """Whether every process of the sandbox stands still: the engine says so, and its server does not answer."""
        sandbox = (await self.client.get(self.id)).sandbox
        assert sandbox is not None
        with trio.move_on_after(_FROZEN_SECONDS) as waiting:
            await self._http.get(f"{sandbox.url}/health")
        return waiting.cancelled_caught and (await self.container())["State"]["Paused"] is True


def read_steps(raw: APIClient, container: str) -> list[str]:
    """The lines that the agent of a container has written so far, read without running anything inside."""
    with suppress(NotFound):
        chunks, _ = raw.get_archive(container, f"/workspace/{STEPS_FILE}")
        return lines_of(b"".join(chunks))
    return []


def lines_of(archive: bytes) -> list[str]:
    """The lines of the one file in a tar."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile(STEPS_FILE)
        assert file is not None
        return file.read().decode().split()


async def until(is_so: Callable[[], Awaitable[bool]]) -> None:
    """Look until something is so that nobody tells; the deadline is the caller's."""
    while True:
        if await is_so():
            return
        await trio.sleep(_LOOK_EVERY)


@asynccontextmanager
async def work_of(daemon: DaemonProcess, raw: APIClient, llm: LlmStub, name: str = "works") -> AsyncIterator[Work]:
    """Connect to the daemon, and hear everything of one conversation, from the beginning."""
    async with (
        connect(UnixAddress(daemon.socket)) as client,
        client.subscribe(since=0, ids=[name]) as events,
        httpx2.AsyncClient(timeout=None, trust_env=False) as http,
    ):
        yield Work(ConversationId(name), client, llm, raw, events, http)


@contextmanager
def model(raw: APIClient, steps: int, command: Callable[[int], str] = append_line) -> Iterator[LlmStub]:
    """A model where the engine's containers can reach it."""
    with serve_llm(bridge_gateway(raw), steps, command) as llm:
        yield llm


def long_step(step: int) -> Callable[[int], str]:
    """Commands of which this one never ends by itself once it has written its line."""
    return lambda number: append_line(number) + ("; sleep 1000" if number == step else "")


def secrets_told(daemon: DaemonProcess) -> list[str]:
    """Every line of a daemon's log, and every event, that holds a key of a session or of the model."""
    with closing(sqlite3.connect(daemon.state_dir / "journal.db")) as journal:
        events = [data for (data,) in journal.execute("SELECT data FROM events")]
    keys = daemon.session_keys
    assert keys
    return [line for line in (*daemon.log.read_text().splitlines(), *events) if holds_secret(line, keys)]


def holds_secret(text: str, session_keys: AbstractSet[str]) -> bool:
    """Whether a text holds the model's key or one of these."""
    return any(secret in text for secret in (API_KEY, *session_keys))
