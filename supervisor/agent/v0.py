"""The driver `v0`: the older OpenHands server, nested in the sandbox, over its HTTP API.

It follows `openhands/server/conversation_manager/docker_nested_conversation_manager.py` of OpenHands 0.59 (2025), and
the routes that this asks, in `openhands/server/routes/`: `manage_conversations.py`, `settings.py`, `secrets.py` and
`conversation.py`.

The request of a start is made of that server's own bodies; what is left out is not sent, what makes no sense is the
server's to refuse:

- `settings`: the body of `POST /api/settings`, `{"llm_model": ..., "llm_api_key": ..., "llm_base_url": ...}`. The
  server starts no conversation before it has been given some.
- `provider_tokens`: that of `POST /api/add-git-providers`, `{"github": {"token": ..., "host": ...}}`. The server asks
  the provider whether each is good.
- `secrets`: a list of those of `POST /api/secrets`, `{"name": ..., "value": ..., "description": ...}`.
- All the rest is that of `POST /api/conversations`: `initial_user_msg`, `repository`, `selected_branch`,
  `git_provider`, `image_urls`, `conversation_instructions`, `mcp_config` and so on. The server refuses keys that it
  does not know.

It listens on port 3000, or where its variable `port` says: that has to be the port of the spec.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Final
from urllib.parse import quote

import attrs
import httpx2
import trio

from supervisor.agent.backoff import Backoff
from supervisor.agent.http import call, look, open_client, understood
from supervisor.agent.port import AgentSession
from supervisor.agent.teller import Teller
from supervisor.agent.v0_wire import (
    INTERRUPTED,
    Conversation,
    EventPage,
    Mark,
    left_at,
    parse_conversation,
    parse_events,
)
from supervisor.conversation.errors import AgentRefused, AgentUnavailable
from supervisor.conversation.json import JsonObject, JsonValue
from supervisor.conversation.record import ExecutionStatus
from supervisor.exchange import Answer

_MANAGER: Final = "openhands.server.conversation_manager.standalone_conversation_manager.StandaloneConversationManager"
_READY_SECONDS: Final = 5.0
_STATUS_SECONDS: Final = 10.0
# The server answers ten requests a second from one address, whoever sends them, and makes the others wait.
_FOLLOW_SECONDS: Final = (0.5, 5.0)
_TAKEN_UP_SECONDS: Final = (0.25, 1.0)
_STOPPED_TRIES: Final = 3
_STOPPED_SECONDS: Final = 1.0
_PAGE: Final = 20
_KNOWN: Final = frozenset({httpx2.codes.BAD_REQUEST})
_MISSING: Final = frozenset({httpx2.codes.NOT_FOUND})
_OWN_KEYS: Final = frozenset({"settings", "provider_tokens", "secrets"})
_GO_ON: Final[JsonObject] = {"action": "message", "args": {"content": "continue"}}


@asynccontextmanager
async def open_v0_driver() -> AsyncIterator["V0Driver"]:
    """Open the driver, with the HTTP client that all its conversations share."""
    async with open_client() as client:
        yield V0Driver(client)


@attrs.frozen
class V0Driver:
    """See `AgentDriver`."""

    _client: httpx2.AsyncClient
    name: str = attrs.field(default="v0", init=False)
    thaws_ready: bool = attrs.field(default=False, init=False)
    """Its `/alive` is all that is asked after a thaw, so it is asked: that a process runs is not that it answers."""

    def environment(self, session_key: str, secret: str, workspace: str) -> Mapping[str, str]:
        """What the nested manager sets, for this workspace, and everything that the server keeps placed in it."""
        return {
            "SESSION_API_KEY": session_key,
            "JWT_SECRET": secret,
            "CONVERSATION_MANAGER_CLASS": _MANAGER,
            "SERVE_FRONTEND": "0",
            "RUNTIME": "local",
            "ALLOW_SET_CONVERSATION_ID": "1",
            "WORKSPACE_BASE": workspace,
            "FILE_STORE_PATH": f"{workspace.rstrip('/')}/.openhands",
            # 0 is for ever: a conversation that waits for its user is not closed.
            "SANDBOX_CLOSE_DELAY": "0",
            "SKIP_DEPENDENCY_CHECK": "1",
            "INITIAL_NUM_WARM_SERVERS": "1",
        }

    async def wait_ready(self, session: AgentSession) -> None:
        """Return once the server says that it is alive: it listens when all of it is loaded.

        Raises:
            AgentRefused: something else listens there, or the sandbox has no port.
        """
        backoff = Backoff(0.002, 0.25)
        while True:
            try:
                with trio.move_on_after(_READY_SECONDS):
                    return await self.probe(session)
            except AgentUnavailable:
                pass
            await backoff.sleep()

    async def probe(self, session: AgentSession) -> None:
        """Ask once whether the server is alive."""
        await look(self._client, session, "/alive")

    async def begin(self, session: AgentSession, request: JsonObject, *, go_on: bool) -> ExecutionStatus | None:
        """See `AgentDriver`. A conversation of which the server's disk knows more than its name is taken up from there.

        It then waits for its user. To go on by itself it needs a message, `continue`: nothing else makes that server's
        agent take a step.
        """
        known = await self._conversation(session)
        past = _Past() if known is None else await self._past(session)
        if known is None or not (known.loops or past.left):
            await self._hand_over(session, request)
        elif not known.loops:
            await self._post(session, "start", {"providers_set": []})
        if go_on and past.left in INTERRUPTED:
            await self._go_on(session, since=-1 if known is not None and known.loops else past.newest)
        return await self._status(session)

    async def _hand_over(self, session: AgentSession, request: JsonObject) -> None:
        async def post(path: str, body: JsonValue, accept: frozenset[int] = frozenset()) -> Answer:
            return await call(self._client, session, "POST", path, body, accept=accept, source=request)

        if (settings := request.get("settings")) is not None:
            await post("/api/settings", settings)
        if (tokens := request.get("provider_tokens")) is not None:
            await post("/api/add-git-providers", {"provider_tokens": tokens})
        for secret in _items(request.get("secrets")):
            if (await post("/api/secrets", secret, _KNOWN)).status in _KNOWN:
                # An attempt that was cut short may have left one of this name.
                await self._forget_secret(session, secret)
                await post("/api/secrets", secret)
        rest = {name: value for name, value in request.items() if name not in _OWN_KEYS}
        await post("/api/conversations", {**rest, "conversation_id": session.conversation})

    async def _forget_secret(self, session: AgentSession, secret: JsonValue) -> None:
        name = secret.get("name") if isinstance(secret, Mapping) else None
        await call(self._client, session, "DELETE", f"/api/secrets/{quote(str(name), safe='')}", accept=_MISSING)

    async def _go_on(self, session: AgentSession, since: int) -> None:
        """Give the agent its message once it waits for one, unless its user was faster."""
        backoff = Backoff(*_TAKEN_UP_SECONDS)
        while True:
            newest = next(iter((await self._past(session, since)).marks), Mark.LOADING)
            if newest is not Mark.LOADING:
                break
            known = await self._conversation(session)
            if known is None or known.failed:
                return
            await backoff.sleep()
        if newest is Mark.WAITING:
            await self._post(session, "events", _GO_ON)

    async def pause(self, session: AgentSession, runs: Callable[[], Awaitable[None]]) -> None:
        """Only looked at: the freeze of its container is its pause.

        The server knows a state `paused`, but from that nothing brings an agent back to work that is not a new message.
        """
        if await self._status(session) is ExecutionStatus.RUNNING:
            await runs()

    async def run(self, session: AgentSession) -> None:  # noqa: ARG002 -- the port's shape
        """Nothing to tell: it was not paused by us, and what is thawed goes on."""
        await trio.lowlevel.checkpoint()

    async def interrupt(self, session: AgentSession) -> None:
        """See `AgentDriver`. The conversation is closed; for a while it is seen to that the server has done so."""
        await self._post(session, "stop")
        for _ in range(_STOPPED_TRIES):
            known = await self._conversation(session)
            if known is None or known.stopped:
                return
            await trio.sleep(_STOPPED_SECONDS)

    async def follow(self, session: AgentSession, report: Callable[[ExecutionStatus], None]) -> None:
        """See `AgentDriver`. It asks again and again, soon after a change and less often while there is none."""
        teller = Teller(report)
        backoff = Backoff(*_FOLLOW_SECONDS)
        while True:
            with suppress(AgentUnavailable, AgentRefused), trio.move_on_after(_STATUS_SECONDS):
                if teller.tell(await self._status(session)):
                    backoff.reset()
            await backoff.sleep()

    async def _status(self, session: AgentSession) -> ExecutionStatus | None:
        known = await self._conversation(session)
        if known is None:
            return None
        return known.execution(next(iter((await self._past(session)).marks), Mark.LOADING))

    async def _conversation(self, session: AgentSession) -> Conversation | None:
        return understood(parse_conversation, await call(self._client, session, "GET", _path(session)))

    async def _past(self, session: AgentSession, since: int = -1) -> "_Past":
        """Read back in the events after `since` until they say what the agent was at."""
        past = _Past()
        query = f"start_id={since + 1}&reverse=true&limit={_PAGE}"
        end = ""
        while True:
            page = await self._events(session, f"{query}{end}")
            past = _Past((*past.marks, *page.marks), max(past.newest, page.newest))
            if past.left or not (page.events and page.has_more):
                return past
            end = f"&end_id={page.oldest - 1}"

    async def _events(self, session: AgentSession, query: str) -> EventPage:
        answer = await call(self._client, session, "GET", f"{_path(session)}/events?{query}", accept=_MISSING)
        return EventPage((), has_more=False) if answer.status in _MISSING else understood(parse_events, answer)

    async def _post(self, session: AgentSession, what: str, body: JsonObject | None = None) -> None:
        await call(self._client, session, "POST", f"{_path(session)}/{what}", body)


@attrs.frozen
class _Past:
    """What the newest events tell, newest first, as far back as is needed, and the newest one's id."""

    marks: tuple[Mark, ...] = ()
    newest: int = -1

    @property
    def left(self) -> Mark | None:
        return left_at(self.marks)


def _items(value: JsonValue) -> tuple[JsonValue, ...]:
    """The items of a list; anything else is one item, for the server to refuse."""
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _path(session: AgentSession) -> str:
    return f"/api/conversations/{session.conversation}"
