"""What the control channel needs of the daemon: the commands and queries of `protocol.md` as typed calls.

Every call may raise a `ConversationdError`; the channel sends it with its code and data. `within` is the command's own
deadline in seconds, None for the config's: it bounds the work, which goes on if the caller goes away.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

import attrs

from supervisor.conversation.events import RecordedEvent
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord
from supervisor.conversation.spec import LocalImage, SandboxSpec, SpecOverrides


@attrs.frozen
class StartRequest:
    """`conversation.start`. `timeout` is seconds; without `wait` the answer comes once the start is durable."""

    id: ConversationId | None = None
    agent: str | None = None
    spec: SpecOverrides = attrs.field(factory=SpecOverrides)
    request: JsonObject = attrs.field(factory=dict, repr=False)
    labels: Mapping[str, str] = attrs.field(factory=dict)
    wait: bool = True
    timeout: float | None = None
    idempotency_key: str | None = None


@attrs.frozen
class Stopped:
    """What `conversation.stop` answers with."""

    record: ConversationRecord
    was_running: bool


@attrs.frozen
class ConversationPage:
    """One page of a list; `next_cursor` is None on the last one, and goes on in the same order."""

    items: tuple[ConversationRecord, ...]
    next_cursor: str | None


@attrs.frozen
class AgentAccess:
    """How a caller reaches the agent server of a conversation."""

    url: str
    session_api_key: str = attrs.field(repr=False)


@attrs.frozen
class Capacity:
    """How many conversations run and start, and how many may; 0 means without limit."""

    running: int
    starting: int
    max_running: int
    max_starting: int


@attrs.frozen
class EngineStatus:
    """The default provider's engine: whether it answers, the versions that it last told, and what to know of it."""

    reachable: bool
    version: str | None
    api_version: str | None
    provider: str = ""
    caution: str = ""


@attrs.frozen
class DaemonInfo:
    """`daemon.info` without the protocol's own name. `uptime` is seconds; `instance` is the state directory's id."""

    version: str
    pid: int
    started_at: datetime
    uptime: float
    instance: str
    engine: EngineStatus
    capacity: Capacity
    seq: int


class SlowSubscriber(Exception):
    """The subscriber's bounded buffer overflowed: it has to come back with `since`."""


class Subscription(Protocol):
    """Events in order, each once. Iteration raises `SlowSubscriber` when the buffer overflowed."""

    @property
    def seq(self) -> int:
        """The sequence number that the subscription starts after."""

    @property
    def conversations(self) -> tuple[ConversationRecord, ...] | None:
        """The conversations as they are at `seq`, if a snapshot was asked for."""

    def __aiter__(self) -> AsyncIterator[RecordedEvent]:
        """Everything after `seq`, first what is recorded, then live; ends only by cancellation or an error."""


class ConversationService(Protocol):
    """All that a client can ask."""

    async def info(self) -> DaemonInfo:
        """Who the daemon is and how it does; never waits for the engine."""

    async def start(self, request: StartRequest) -> ConversationRecord:
        """Start a conversation, or answer with the one that is there as the life cycle says."""

    async def pause(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """Pause the agent and freeze its sandbox."""

    async def resume(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """Thaw the sandbox, or boot it again if it is cold, and let the agent go on."""

    async def stop(self, conversation: ConversationId, within: float | None, *, force: bool) -> Stopped:
        """End the sandbox: gracefully, or at once and before anything else with `force`."""

    async def restart(self, conversation: ConversationId, within: float | None, *, force: bool) -> ConversationRecord:
        """Start a stopped or failed conversation again in its workspace."""

    async def archive(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """Remove a stopped conversation's sandbox and keep its record."""

    async def delete(self, conversation: ConversationId) -> None:
        """Remove a stopped or archived conversation's record and workspace."""

    async def get(self, conversation: ConversationId) -> ConversationRecord:
        """The conversation as it is."""

    async def list(
        self,
        statuses: Sequence[Status],
        labels: Mapping[str, str],
        limit: int,
        cursor: str | None,
        *,
        newest_first: bool = False,
    ) -> ConversationPage:
        """Conversations that have one of the statuses (any, if none is given) and all of the labels, oldest first."""

    async def connect(self, conversation: ConversationId) -> AgentAccess:
        """How to reach the agent server; RUNNING only."""

    def access(self, record: ConversationRecord) -> AgentAccess | None:
        """How the agent server of this record's sandbox is reached, while it boots and while it is frozen, too.

        None where it has no sandbox that was launched, or no port.
        """

    def defaults(self) -> SandboxSpec:
        """What the sandbox of a start is made from that asks for nothing."""

    async def find_image(self, image: str) -> LocalImage | None:
        """Look for an image on the host of the default provider's engine; None says that it is not there."""

    async def logs(self, conversation: ConversationId, tail: int) -> Sequence[str]:
        """The last lines of the sandbox's output."""

    def follow_logs(self, conversation: ConversationId, tail: int) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """The last lines and then each new one, until the sandbox ends."""

    async def history(self, conversation: ConversationId, since: int, limit: int) -> Sequence[RecordedEvent]:
        """The conversation's recorded events after `since`, oldest first."""

    def subscribe(
        self, since: int | None, ids: frozenset[ConversationId] | None, *, snapshot: bool
    ) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to all events, or to those of some conversations; `since` None means from now on.

        Raises:
            HistoryGone: events after `since` are no longer kept.
        """
