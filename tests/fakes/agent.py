"""An agent server in memory: a driver on simulated time, whose faults are switched on by tests."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs
import trio

from supervisor.agent.port import AgentSession
from supervisor.agent.teller import Teller
from supervisor.conversation.errors import AgentUnavailable
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject
from supervisor.conversation.record import ExecutionStatus

_INTERRUPTED: Final = frozenset(
    {ExecutionStatus.IDLE, ExecutionStatus.ERROR, ExecutionStatus.PAUSED, ExecutionStatus.RUNNING}
)


@attrs.define
class FakeConversation:
    """What the fake server knows of one conversation."""

    status: ExecutionStatus = ExecutionStatus.RUNNING
    changed: trio.Event = attrs.field(factory=trio.Event)
    begun: int = 0
    told_to_go_on: int = 0
    server: str = ""
    """The key of the server that has it."""


class FakeAgent:
    """Satisfies `AgentDriver`."""

    def __init__(self, name: str = "v1") -> None:
        self.name = name
        self.thaws_ready = False
        self.conversations: dict[ConversationId, FakeConversation] = {}
        self.boot_time = 0.05
        self.healthy = True
        # Whether the conversation's sandbox runs: nothing answers from one that is frozen or gone.
        self.runs: Callable[[ConversationId], bool] = lambda conversation: True
        # Whether a server listens where the session says.
        self.listens: Callable[[AgentSession], bool] = lambda session: True
        self.calls: list[str] = []
        self._gates: dict[str, trio.Event] = {}
        self._failures: dict[str, list[Exception]] = {}

    def close_gate(self, call: str) -> None:
        """Let calls of this name wait until the gate opens."""
        self._gates[call] = trio.Event()

    def open_gate(self, call: str) -> None:
        """Let the calls that wait, and all later ones, through."""
        self._gates.pop(call).set()

    def fail_next(self, call: str, error: Exception, times: int = 1) -> None:
        """Let the next calls of this name raise an error."""
        self._failures.setdefault(call, []).extend([error] * times)

    def does(self, conversation: ConversationId, status: ExecutionStatus) -> None:
        """Let the agent do something else."""
        known = self.conversations[conversation]
        known.status = status
        known.changed.set()
        known.changed = trio.Event()

    def environment(self, session_key: str, secret: str, workspace: str) -> Mapping[str, str]:
        """As the port says."""
        return {"KEY": session_key, "SECRET": secret, "WORKSPACE": workspace}

    async def wait_ready(self, session: AgentSession) -> None:
        """As the port says."""
        await self._answer("wait_ready")
        await trio.sleep(self.boot_time)
        while True:
            if self.runs(session.conversation) and self.listens(session):
                return
            await trio.sleep(0.25)

    async def probe(self, session: AgentSession) -> None:
        """As the port says."""
        await self._answer("probe", session.conversation)
        if not self.healthy:
            raise AgentUnavailable("the fake agent is not well")

    async def begin(self, session: AgentSession, request: JsonObject, *, go_on: bool) -> ExecutionStatus | None:
        """As the port says."""
        await self._answer("begin", session.conversation)
        known = self.conversations.setdefault(session.conversation, FakeConversation())
        known.begun += 1
        known.told_to_go_on += go_on
        if known.server not in ("", session.session_key) and known.status is ExecutionStatus.RUNNING:
            self.does(session.conversation, ExecutionStatus.ERROR)
        known.server = session.session_key
        if go_on and known.status in _INTERRUPTED:
            self.does(session.conversation, ExecutionStatus.RUNNING)
        return known.status

    async def pause(self, session: AgentSession, runs: Callable[[], Awaitable[None]]) -> None:
        """As the port says."""
        was_running = self.conversations[session.conversation].status is ExecutionStatus.RUNNING
        if was_running:
            await runs()
        await self._answer("pause", session.conversation)
        if was_running:
            self.does(session.conversation, ExecutionStatus.PAUSED)

    async def run(self, session: AgentSession) -> None:
        """As the port says."""
        await self._answer("run", session.conversation)
        self.does(session.conversation, ExecutionStatus.RUNNING)

    async def interrupt(self, session: AgentSession) -> None:
        """As the port says."""
        await self._answer("interrupt", session.conversation)
        if self.conversations[session.conversation].status is ExecutionStatus.RUNNING:
            self.does(session.conversation, ExecutionStatus.PAUSED)

    async def follow(self, session: AgentSession, report: Callable[[ExecutionStatus], None]) -> None:
        """As the port says."""
        await self._answer("follow")
        teller = Teller(report)
        while True:
            known = self.conversations[session.conversation]
            teller.tell(known.status)
            await known.changed.wait()

    async def _answer(self, call: str, conversation: ConversationId | None = None) -> None:
        self.calls.append(call)
        await trio.lowlevel.checkpoint()
        if call in self._gates:
            await self._gates[call].wait()
        if self._failures.get(call):
            raise self._failures[call].pop(0)
        if conversation is not None and not self.runs(conversation):
            raise AgentUnavailable("the fake agent's sandbox does not run")
