"""The agent port: what an actor may ask of the agent server inside a sandbox.

A driver is one class that satisfies `AgentDriver`, and one line in the table of `supervisor.daemon`. Deadlines are the
caller's cancel scopes. Every call may raise `AgentUnavailable` (no answer, 429 or 5xx: asking again may help) and
`AgentRefused` (an answer that will not change by asking again). A driver keeps no state about conversations.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import attrs

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject
from supervisor.conversation.record import ExecutionStatus
from supervisor.sandbox.port import Endpoint


@attrs.frozen
class AgentSession:
    """One conversation's agent server: where it is, and the key that it wants.

    `published` and `direct` are those of `SandboxView`; both None for a sandbox without a port. `session_key` opens
    this sandbox only. `secret` is what its server encrypts with: it is never sent, and is kept out of what is told.
    """

    conversation: ConversationId
    workspace: str
    published: Endpoint | None
    direct: Endpoint | None
    session_key: str = attrs.field(repr=False)
    secret: str = attrs.field(repr=False)


class AgentDriver(Protocol):
    """How to talk to one kind of agent server; see the module for what all calls promise."""

    @property
    def name(self) -> str:
        """The name by which `conversation.start` chooses this driver."""

    @property
    def thaws_ready(self) -> bool:
        """Whether a server that was ready when it was frozen needs no asking once it is thawed."""

    def environment(self, session_key: str, secret: str, workspace: str) -> Mapping[str, str]:
        """The environment variables that this kind of server needs; they win over the caller's.

        `session_key` is to open this sandbox only; `secret` is the conversation's, for what is encrypted on its disk.
        """

    async def wait_ready(self, session: AgentSession) -> None:
        """Return as soon as the server can be used; try early and often, backing off from a few milliseconds.

        No key is shown: it is not known yet who answers.
        """

    async def probe(self, session: AgentSession) -> None:
        """One liveness probe, which shows no key: returns if the server lives.

        Raises:
            AgentUnavailable: it does not.
        """

    async def begin(self, session: AgentSession, request: JsonObject, *, go_on: bool) -> ExecutionStatus | None:
        """Hand the conversation to the server: `request` is the body of its start call, or it knows it from its disk.

        With `go_on` an agent that was interrupted by the end of the last sandbox is told to run again.
        """

    async def pause(self, session: AgentSession, runs: Callable[[], Awaitable[None]]) -> None:
        """Ask the agent to pause and wait until its running step has ended.

        If it runs, and only then, `runs` is awaited before it is asked: should no answer come, the caller knows that it
        has to let it go on.
        """

    async def run(self, session: AgentSession) -> None:
        """Tell the agent to run (again). Running already is fine."""

    async def interrupt(self, session: AgentSession) -> None:
        """Ask the agent to end its step now, so that what it did is on its disk before the sandbox ends."""

    async def follow(self, session: AgentSession, report: Callable[[ExecutionStatus], None]) -> None:
        """Report the execution status now and at each change; reconnects by itself, ends only by cancellation."""
