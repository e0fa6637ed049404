"""Agent servers in memory: one in each container that runs, and a driver that talks to them.

A server boots for a while, may die of that, and may answer badly. What an agent does is kept in the conversation's
workspace, so it outlives the container as it does with the real server.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from random import Random
from typing import Final

import attrs
import trio

from supervisor.agent.port import AgentSession
from supervisor.conversation.errors import AgentRefused, AgentUnavailable
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject
from supervisor.conversation.record import ExecutionStatus
from tests.simulation.docker import Container, Engine

_ANSWERS_WITHIN: Final = 5.0
_AGAIN_AFTER: Final = 0.25
_CONFLICT: Final = 409
_WINDING_UP: Final = (ExecutionStatus.PAUSED, ExecutionStatus.IDLE)


class Fate(StrEnum):
    """What becomes of a server that boots."""

    READY = "gets ready"
    EXITS = "exits with code 1"
    CRASHES = "crashes with code 139"
    NOT_FOUND = "is not there: code 127"
    OUT_OF_MEMORY = "is killed for its memory"
    SLEEPS = "never gets ready"


class Manner(StrEnum):
    """How a server answers one request: what the driver `v1` makes of that is said where it is asked."""

    REFUSES = "answers with 422"
    CONFLICTS = "answers with 409"
    IS_FULL = "answers with 429"
    FAILS = "answers with 500"
    GARBLES = "does it and answers with garbage"
    LOSES = "does it, and the answer is lost"
    HANGS = "does not answer"


_REFUSALS: Final[Mapping[Manner | None, int]] = {Manner.REFUSES: 422, Manner.CONFLICTS: _CONFLICT}
_TROUBLES: Final[Mapping[Manner | None, int]] = {Manner.IS_FULL: 429, Manner.FAILS: 500}
_ENDS: Final[Mapping[Fate, int]] = {Fate.EXITS: 1, Fate.CRASHES: 139, Fate.NOT_FOUND: 127, Fate.OUT_OF_MEMORY: 137}


@attrs.define(eq=False)
class Mind:
    """What an agent does. `paused_in` is the container in which it was last asked to pause."""

    status: ExecutionStatus = ExecutionStatus.RUNNING
    step_ends: float = 0.0
    paused_in: str = ""
    changed: trio.Event = attrs.field(factory=trio.Event)

    def become(self, status: ExecutionStatus) -> None:
        """Do something else from now on."""
        self.status = status
        self.changed.set()
        self.changed = trio.Event()


@attrs.define(eq=False)
class Server:
    """One run of the agent server in a container; what an earlier one has begun there it finds in the workspace."""

    container: Container
    ready_at: float
    seen_ready: bool = False
    has_begun: bool = False


@attrs.frozen(eq=False)
class Heard:
    """A request that has come to its server, which is going to do it."""

    server: Server
    manner: Manner | None

    def answer(self, *, is_read: bool) -> None:
        """It is done; `is_read` is whether the driver looks at more than the status of the answer.

        Raises:
            AgentUnavailable: the driver cannot know that.
        """
        if self.manner is Manner.LOSES:
            raise AgentUnavailable("the connection broke before the answer came")
        if self.manner is Manner.GARBLES and is_read:
            raise AgentUnavailable("the agent server's answer makes no sense")


class Agents:
    """All agents of the host; the `AgentDriver` of every life of the daemon is made from it."""

    def __init__(self, random: Random, engine: Engine, nursery: trio.Nursery) -> None:
        self.minds: dict[ConversationId, Mind] = {}
        self.servers: dict[str, Server] = {}
        self.fates: deque[Fate] = deque()
        self.manners: dict[str, deque[Manner]] = {}
        self.boot_time = 0.5
        self.step_time = 0.2
        self.deaf_until = -1.0
        self._random = random
        self._engine = engine
        self._nursery = nursery
        engine.on_start = self._boot
        engine.on_volume_removed = lambda conversation: self.minds.pop(conversation, None)

    def spoil_next(self, what: str, manner: Manner, times: int) -> None:
        """Let the next requests of a kind be answered in a manner."""
        self.manners.setdefault(what, deque()).extend([manner] * times)

    def serving(self, container: Container) -> bool:
        """Whether the server in a container is up and would answer."""
        server = self.servers.get(container.id)
        return container.status == "running" and server is not None and trio.current_time() >= server.ready_at

    def _boot(self, container: Container) -> None:
        fate = self.fates.popleft() if self.fates else Fate.READY
        takes = self.boot_time * self._random.uniform(0.5, 1.5)
        ready_at = trio.current_time() + takes if fate is Fate.READY else float("inf")
        before = self.servers.get(container.id)
        self.servers[container.id] = Server(container, ready_at, has_begun=before is not None and before.has_begun)
        if fate in _ENDS:
            self._nursery.start_soon(self._die, container, container.started, takes, fate)

    async def _die(self, container: Container, start: int, takes: float, fate: Fate) -> None:
        await trio.sleep(takes)
        if container.started == start:
            self._engine.end(container, _ENDS[fate], oom=fate is Fate.OUT_OF_MEMORY)


@attrs.frozen(eq=False)
class SimulatedDriver:
    """Satisfies `AgentDriver` for one life of the daemon; a dead one's requests go nowhere."""

    agents: Agents
    is_dead: Callable[[], bool]
    name: str = "v1"
    thaws_ready: bool = False

    def environment(self, session_key: str, secret: str, workspace: str) -> Mapping[str, str]:
        """Nothing that matters here."""
        return {}

    async def wait_ready(self, session: AgentSession) -> None:
        """As the port says."""
        while True:
            try:
                heard = await self._reach(session, "ready")
                heard.answer(is_read=False)
            except AgentUnavailable:
                await trio.sleep(_AGAIN_AFTER)
            else:
                heard.server.seen_ready = True
                return

    async def probe(self, session: AgentSession) -> None:
        """As the port says."""
        (await self._reach(session, "probe")).answer(is_read=False)

    async def begin(self, session: AgentSession, request: JsonObject, *, go_on: bool) -> ExecutionStatus | None:
        """As the port says: one that it knows, because nobody heard of its beginning, is as it left it."""
        heard = await self._reach(session, "begin")
        heard.server.has_begun = True
        mind = self.agents.minds.setdefault(session.conversation, Mind())
        if go_on and mind.status is ExecutionStatus.PAUSED:
            mind.become(ExecutionStatus.RUNNING)
        heard.answer(is_read=True)
        return mind.status

    async def pause(self, session: AgentSession, runs: Callable[[], Awaitable[None]]) -> None:
        """As the port says: it is asked at once, and waited for until its step has ended.

        What it does is asked first: of a server that garbles that nothing more is wanted.
        """
        heard = await self._reach(session, "pause")
        mind = self._mind(session)
        if heard.manner is Manner.GARBLES or mind.status is not ExecutionStatus.RUNNING:
            heard.answer(is_read=True)
            return
        await runs()
        mind.paused_in = heard.server.container.id
        mind.step_ends = trio.current_time() + self.agents.step_time * self.agents._random.uniform(0.5, 1.5)
        mind.become(ExecutionStatus.PAUSED)
        heard.answer(is_read=False)
        await trio.sleep(mind.step_ends - trio.current_time())
        (await self._reach(session, "pause")).answer(is_read=False)

    async def run(self, session: AgentSession) -> None:
        """As the port says: a server that says 409 is asked again, unless its agent runs."""
        while True:
            if await self._does_run(session):
                return
            await trio.sleep(_AGAIN_AFTER)

    async def _does_run(self, session: AgentSession) -> bool:
        """Ask once; while a step is to end after a pause it cannot be run again."""
        await trio.lowlevel.checkpoint()
        try:
            heard = await self._reach(session, "run")
        except AgentRefused as refused:
            if refused.status != _CONFLICT:
                raise
            return self._mind(session).status not in _WINDING_UP
        mind = self._mind(session)
        if trio.current_time() < mind.step_ends:
            return mind.status not in _WINDING_UP
        if mind.status is ExecutionStatus.PAUSED:
            mind.become(ExecutionStatus.RUNNING)
        heard.answer(is_read=False)
        return True

    async def interrupt(self, session: AgentSession) -> None:
        """As the port says."""
        (await self._reach(session, "interrupt")).answer(is_read=False)

    async def follow(self, session: AgentSession, report: Callable[[ExecutionStatus], None]) -> None:
        """As the port says."""
        while True:
            try:
                (await self._reach(session, "follow")).answer(is_read=True)
                mind = self._mind(session)
            except (AgentUnavailable, AgentRefused):
                await trio.sleep(1.0)
                continue
            report(mind.status)
            with trio.move_on_after(30.0):
                await mind.changed.wait()

    def _mind(self, session: AgentSession) -> Mind:
        mind = self.agents.minds.get(session.conversation)
        if mind is None:
            raise AgentRefused("the server knows no such conversation", 404, "")
        return mind

    async def _reach(self, session: AgentSession, what: str) -> Heard:
        """One request, as far as the server that does what it asks for."""
        waiting = self.agents.manners.get(what)
        manner = waiting.popleft() if waiting else None
        await trio.sleep(0.002)
        hangs = manner is Manner.HANGS or trio.current_time() < self.agents.deaf_until
        if hangs or not await self._is_thawed(session):
            await trio.sleep(_ANSWERS_WITHIN)
            raise AgentUnavailable("no answer in time")
        server = self._serving(session)
        if server is None or self.is_dead():
            raise AgentUnavailable("the connection was refused")
        if manner in _REFUSALS:
            raise AgentRefused(f"the agent server refused with {_REFUSALS[manner]}", _REFUSALS[manner], "")
        if manner in _TROUBLES:
            raise AgentUnavailable(f"the agent server answered {_TROUBLES[manner]}")
        return Heard(server, manner)

    async def _is_thawed(self, session: AgentSession) -> bool:
        """Nothing answers from a frozen container: it may be thawed in time."""
        await trio.lowlevel.checkpoint()
        for _ in range(5):
            container = self._container(session)
            if container is None or container.status != "paused":
                return True
            await trio.sleep(_ANSWERS_WITHIN / 5)
        return False

    def _container(self, session: AgentSession) -> Container | None:
        port = session.published.port if session.published is not None else None
        return next((one for one in self.agents._engine.containers.values() if one.port == port), None)

    def _serving(self, session: AgentSession) -> Server | None:
        container = self._container(session)
        if container is None or not self.agents.serving(container):
            return None
        return self.agents.servers[container.id]
