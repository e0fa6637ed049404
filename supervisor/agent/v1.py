"""The driver `v1`: the OpenHands agent server of version 1, over its HTTP API and its events socket."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Final

import attrs
import httpx2
import trio

from supervisor.agent.backoff import Backoff
from supervisor.agent.events_socket import EventsSocket, open_events
from supervisor.agent.http import call, look, open_client, understood
from supervisor.agent.port import AgentSession
from supervisor.agent.teller import Teller
from supervisor.agent.wire import parse_conversation, parse_message_page
from supervisor.conversation.errors import AgentRefused, AgentUnavailable
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject
from supervisor.conversation.record import ExecutionStatus
from supervisor.exchange import Answer

_NAMESPACE: Final = uuid.UUID("5c1f3bd0-6a8e-4f4c-9d52-1e3f0f5b7a11")
_CONFLICT: Final = frozenset({httpx2.codes.CONFLICT})
_READY_SECONDS: Final = 5.0
_STATUS_SECONDS: Final = 10.0
_RUN_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 30.0
_SUBSCRIBED_SECONDS: Final = 0.25
_SNAPSHOT_SECONDS: Final = 1.0

_LAST_MESSAGE: Final = "kind=MessageEvent&sort_order=TIMESTAMP_DESC&limit=1"
_INTERRUPTED: Final = frozenset({ExecutionStatus.ERROR, ExecutionStatus.PAUSED, ExecutionStatus.RUNNING})
_WINDING_UP: Final = frozenset({ExecutionStatus.PAUSED, ExecutionStatus.IDLE})
# What follows the subscription in any order of its last two: the state at that time, the one that the pause call
# publishes, and the one that the end of the run publishes.
_SNAPSHOTS_OF_A_PAUSE: Final = 3


def agent_conversation_id(conversation: ConversationId) -> uuid.UUID:
    """The agent server's id of a conversation: its own where that is a UUID, else one that is always the same."""
    try:
        return uuid.UUID(conversation)
    except ValueError:
        return uuid.uuid5(_NAMESPACE, conversation)


@asynccontextmanager
async def open_v1_driver() -> AsyncIterator["V1Driver"]:
    """Open the driver, with the HTTP client that all its conversations share."""
    async with open_client() as client:
        yield V1Driver(client)


@attrs.frozen
class V1Driver:
    """See `AgentDriver`."""

    _client: httpx2.AsyncClient
    name: str = attrs.field(default="v1", init=False)
    thaws_ready: bool = attrs.field(default=False, init=False)

    def environment(self, session_key: str, secret: str, workspace: str) -> Mapping[str, str]:
        """The keys, and everything that the server keeps placed in the workspace, where it outlives the container."""
        state = f"{workspace.rstrip('/')}/.openhands"
        return {
            "OH_SESSION_API_KEYS_0": session_key,
            "OH_SECRET_KEY": secret,
            "OH_CONVERSATIONS_PATH": f"{state}/conversations",
            "OH_BASH_EVENTS_DIR": f"{state}/bash_events",
            "OH_PERSISTENCE_DIR": state,
            "OH_WORKSPACE_PATH": workspace,
            # A killed server's lease would keep the next one from its conversations for 45 s; no other shares them.
            "OH_LEASE_TTL_SECONDS": "0",
            "HOME": workspace,
            # Where this list cannot be fetched, the failure is logged amid the imports, which then deadlock:
            # every second boot died of it.
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }

    async def wait_ready(self, session: AgentSession) -> None:
        """Return once the server says that it is ready.

        Raises:
            AgentRefused: something else listens there, or the sandbox has no port.
        """
        backoff = Backoff(0.002, 0.25)
        while True:
            try:
                with trio.move_on_after(_READY_SECONDS):
                    await look(self._client, session, "/ready")
                    return
            except AgentUnavailable:
                pass
            await backoff.sleep()

    async def probe(self, session: AgentSession) -> None:
        """Ask for the server's health once."""
        await look(self._client, session, "/health")

    async def begin(self, session: AgentSession, request: JsonObject, *, go_on: bool) -> ExecutionStatus | None:
        """See `AgentDriver`. The server keeps a conversation that it knows, and ignores the rest of the body."""
        body = {**request, "conversation_id": str(agent_conversation_id(session.conversation))}
        place = request.get("workspace", {})
        if isinstance(place, Mapping):
            body["workspace"] = {"working_dir": session.workspace, **place}
        status = understood(
            parse_conversation, await call(self._client, session, "POST", "/api/conversations", body)
        ).status
        if not go_on or not await self._was_interrupted(session, status, request):
            return status
        await self.run(session)
        return await self._status_of_new_run(session)

    async def _was_interrupted(
        self, session: AgentSession, status: ExecutionStatus | None, request: JsonObject
    ) -> bool:
        if status is ExecutionStatus.IDLE and _asks_to_run(request):
            # It is idle for a moment between the first message and its run, too, and nobody else would start that.
            answer = await call(self._client, session, "GET", f"{_path(session)}/events/search?{_LAST_MESSAGE}")
            return understood(parse_message_page, answer).ends_with_user
        await trio.lowlevel.checkpoint()
        return status in _INTERRUPTED

    async def _status_of_new_run(self, session: AgentSession) -> ExecutionStatus | None:
        # The server answers before the run has begun, and says until then what it said before.
        backoff = Backoff(0.01, 0.25)
        with trio.move_on_after(_RUN_SECONDS):
            while await self._status(session) in _INTERRUPTED - {ExecutionStatus.RUNNING}:
                await backoff.sleep()
        return await self._status(session)

    async def pause(self, session: AgentSession, runs: Callable[[], Awaitable[None]]) -> None:
        """See `AgentDriver`.

        The server's own pause waits for a running tool, but not for a call to the LLM that is under way: it answers,
        says `paused`, and still carries out what the LLM says then. Only the events socket tells when the run is over.
        """
        if await self._status(session) is not ExecutionStatus.RUNNING:
            return
        snapshots = _Snapshots()
        async with self._events(session) as events, trio.open_nursery() as nursery:
            nursery.start_soon(snapshots.watch, events)
            await self._pause_and_wait(session, snapshots, runs)
            nursery.cancel_scope.cancel()

    async def _pause_and_wait(
        self, session: AgentSession, snapshots: "_Snapshots", runs: Callable[[], Awaitable[None]]
    ) -> None:
        # The first snapshot has to wait for a running tool: without one after this time the subscription surely stands.
        with trio.move_on_after(_SUBSCRIBED_SECONDS):
            await snapshots.reached(1)
        if snapshots.count and snapshots.last is not ExecutionStatus.RUNNING:
            return
        await runs()
        await self._post(session, "pause")
        await snapshots.reached(_SNAPSHOTS_OF_A_PAUSE)

    async def run(self, session: AgentSession) -> None:
        """See `AgentDriver`. A run that is to end after a pause is waited for: only then can it be run again."""
        backoff = Backoff(0.01, 0.5)
        while (await self._post(session, "run", accept=_CONFLICT)).status in _CONFLICT:
            if not await self._is_winding_up(session):
                return
            await backoff.sleep()

    async def _is_winding_up(self, session: AgentSession) -> bool:
        if await self._status(session) in _WINDING_UP:
            return True
        # That was told from the server's disk, which may learn of a pause only when the model has answered; a snapshot
        # knows of it at once. None comes while a tool runs: then nobody can say, and nobody is kept waiting.
        snapshots = _Snapshots()
        async with self._events(session) as events, trio.open_nursery() as nursery:
            nursery.start_soon(snapshots.watch, events)
            with trio.move_on_after(_SNAPSHOT_SECONDS):
                await snapshots.reached(1)
            nursery.cancel_scope.cancel()
        return snapshots.last in _WINDING_UP

    async def interrupt(self, session: AgentSession) -> None:
        """See `AgentDriver`. Servers that cannot interrupt are asked to pause."""
        missing = frozenset({httpx2.codes.NOT_FOUND})
        if (await self._post(session, "interrupt", accept=missing)).status in missing:
            await self._post(session, "pause")

    async def follow(self, session: AgentSession, report: Callable[[ExecutionStatus], None]) -> None:
        """See `AgentDriver`."""
        teller = Teller(report)
        backoff = Backoff(0.1, 5.0)
        while True:
            with suppress(AgentUnavailable, AgentRefused):
                await self._follow_once(session, teller, backoff)
            await backoff.sleep()

    async def _follow_once(self, session: AgentSession, teller: Teller, backoff: Backoff) -> None:
        async with self._events(session) as events:
            while True:
                teller.tell(await self._status_soon(session))
                backoff.reset()
                # Whatever a socket may lose, the next look at the status makes good.
                with trio.move_on_after(_POLL_SECONDS):
                    await _tell_events(events, teller)

    async def _status_soon(self, session: AgentSession) -> ExecutionStatus | None:
        with trio.move_on_after(_STATUS_SECONDS):
            return await self._status(session)
        raise AgentUnavailable(f"the agent server did not tell its status within {_STATUS_SECONDS:g} s")

    async def _status(self, session: AgentSession) -> ExecutionStatus | None:
        return understood(parse_conversation, await call(self._client, session, "GET", _path(session))).status

    async def _post(self, session: AgentSession, what: str, *, accept: frozenset[int] = frozenset()) -> Answer:
        return await call(self._client, session, "POST", f"{_path(session)}/{what}", accept=accept)

    def _events(self, session: AgentSession) -> AbstractAsyncContextManager[EventsSocket]:
        return open_events(session, f"/sockets/events/{agent_conversation_id(session.conversation)}")


class _Snapshots:
    """Counts the snapshots that the events socket brings, from the first one on."""

    def __init__(self) -> None:
        self.count = 0
        self.last: ExecutionStatus | None = None
        self._changed = trio.Event()

    async def watch(self, events: EventsSocket) -> None:
        while True:
            event = await events.next_event()
            if event is not None and event.full:
                self.count, self.last = self.count + 1, event.status
                self._changed.set()
                self._changed = trio.Event()

    async def reached(self, count: int) -> None:
        while self.count < count:
            await self._changed.wait()
        await trio.lowlevel.checkpoint()


async def _tell_events(events: EventsSocket, teller: Teller) -> None:
    while True:
        event = await events.next_event()
        if event is not None:
            teller.tell(event.status)


def _asks_to_run(request: JsonObject) -> bool:
    """Whether the caller wants the first message worked on, and not only put there."""
    message = request.get("initial_message")
    return isinstance(message, Mapping) and message.get("run") is True


def _path(session: AgentSession) -> str:
    return f"/api/conversations/{agent_conversation_id(session.conversation)}"
