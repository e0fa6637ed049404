"""A `ConversationService` that does what the test says, and remembers what it was asked."""

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import attrs
import trio

from supervisor.control.service import (
    AgentAccess,
    Capacity,
    ConversationPage,
    DaemonInfo,
    EngineStatus,
    SlowSubscriber,
    StartRequest,
    Stopped,
)
from supervisor.conversation.events import RecordedEvent
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord, Observed, SandboxRef
from supervisor.conversation.spec import LocalImage, PullPolicy, SandboxSpec

NOW = datetime(2025, 11, 22, 12, 30, 15, 42, tzinfo=UTC)
SESSION_KEY = "the-session-key"


def make_record(conversation: str = "c1", **changes: Any) -> ConversationRecord:  # noqa: ANN401 - any field
    """A running conversation, with some fields changed."""
    spec = SandboxSpec("docker", "img:1", PullPolicy.MISSING, None, {}, 8000, None, "/workspace", 1, 1.0, 10, "n", True)
    record = ConversationRecord(
        ConversationId(conversation),
        "v1",
        Status.RUNNING,
        spec,
        SESSION_KEY,
        NOW,
        NOW,
        NOW,
        observed=Observed.LIVE,
        incarnation=1,
        sandbox=SandboxRef("docker", "conv-c1", "img:1", "3f2a", "http://127.0.0.1:49153"),
    )
    return attrs.evolve(record, **changes)


def make_event(seq: int, conversation: str | None = "c1", data: str = "{}") -> RecordedEvent:
    """An event as the journal holds it."""
    return RecordedEvent(seq, NOW, None if conversation is None else ConversationId(conversation), "status", data)


class ScriptedSubscription:
    """Events from a list, then from a channel; an exception in the channel is raised."""

    def __init__(
        self,
        seq: int,
        conversations: tuple[ConversationRecord, ...] | None,
        replay: tuple[RecordedEvent, ...],
        live: trio.MemoryReceiveChannel[RecordedEvent | Exception],
    ) -> None:
        self.seq = seq
        self.conversations = conversations
        self._replay = deque(replay)
        self._live = live

    def __aiter__(self) -> AsyncIterator[RecordedEvent]:
        return self

    async def __anext__(self) -> RecordedEvent:
        await trio.lowlevel.checkpoint()
        if self._replay:
            return self._replay.popleft()
        try:
            item = await self._live.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        if isinstance(item, Exception):
            raise item
        return item


class ScriptedLines:
    """Lines from a channel, then a failure if there is one."""

    def __init__(self, lines: trio.MemoryReceiveChannel[str], failure: Exception | None) -> None:
        self._lines = lines
        self._failure = failure

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        try:
            return await self._lines.receive()
        except trio.EndOfChannel:
            raise (self._failure or StopAsyncIteration) from None


class ScriptedService:
    """What tests set: `failure` is raised by whatever is asked, `gate` is waited for by commands."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.failure: Exception | None = None
        self.gate: trio.Event | None = None
        self.waiting = trio.Event()
        self.held = 0
        self.abandoned = trio.Event()
        self.record = make_record()
        self.images: dict[str, LocalImage] = {}
        self.last_seq: int | None = None
        self.replay: tuple[RecordedEvent, ...] = ()
        self.lines: tuple[str, ...] = ("one", "two")
        self.log_failure: Exception | None = None
        self.closing_failure: Exception | None = None
        self.subscribers: list[trio.MemorySendChannel[RecordedEvent | Exception]] = []
        self.followers: list[trio.MemorySendChannel[str]] = []
        self.closed_subscriptions = 0

    async def _do(self, *call: object) -> None:
        self.calls.append(call)
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        if self.gate is not None:
            self.waiting.set()
            self.held += 1
            try:
                await self.gate.wait()
            except trio.Cancelled:
                self.abandoned.set()
                raise

    async def info(self) -> DaemonInfo:
        """`info`, as scripted."""
        await self._do("info")
        engine = EngineStatus(True, "20.10", "1.41", "docker", "no walls")
        return DaemonInfo("0.1.0", 7, NOW, 1.5, "abc", engine, Capacity(1, 2, 3, 4), 42)

    async def start(self, request: StartRequest) -> ConversationRecord:
        """`start`, as scripted."""
        await self._do("start", request)
        return attrs.evolve(self.record, id=request.id or self.record.id)

    async def pause(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """`pause`, as scripted."""
        await self._do("pause", conversation, within)
        return attrs.evolve(self.record, status=Status.PAUSED)

    async def resume(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """`resume`, as scripted."""
        await self._do("resume", conversation, within)
        return self.record

    async def stop(self, conversation: ConversationId, within: float | None, *, force: bool) -> Stopped:
        """`stop`, as scripted."""
        await self._do("stop", conversation, within, force)
        return Stopped(attrs.evolve(self.record, status=Status.STOPPED), was_running=True)

    async def restart(self, conversation: ConversationId, within: float | None, *, force: bool) -> ConversationRecord:
        """`restart`, as scripted."""
        await self._do("restart", conversation, within, force)
        return self.record

    async def archive(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """`archive`, as scripted."""
        await self._do("archive", conversation, within)
        return attrs.evolve(self.record, status=Status.ARCHIVED)

    async def delete(self, conversation: ConversationId) -> None:
        """`delete`, as scripted."""
        await self._do("delete", conversation)

    async def get(self, conversation: ConversationId) -> ConversationRecord:
        """`get`, as scripted."""
        await self._do("get", conversation)
        return self.record

    async def list(
        self,
        statuses: Sequence[Status],
        labels: Mapping[str, str],
        limit: int,
        cursor: str | None,
        *,
        newest_first: bool = False,
    ) -> ConversationPage:
        """`list`, as scripted."""
        assert not newest_first
        await self._do("list", tuple(statuses), dict(labels), limit, cursor)
        if cursor is None:
            return ConversationPage((make_record("c1"), make_record("c2")), "c2")
        return ConversationPage((make_record("c3"),), None)

    async def connect(self, conversation: ConversationId) -> AgentAccess:
        """`connect`, as scripted."""
        await self._do("connect", conversation)
        return AgentAccess("http://127.0.0.1:49153", SESSION_KEY)

    def access(self, record: ConversationRecord) -> AgentAccess | None:
        """`access`: there is one as long as the record has a URL."""
        url = None if record.sandbox is None else record.sandbox.url
        return None if url is None else AgentAccess(url, SESSION_KEY)

    def defaults(self) -> SandboxSpec:
        """`defaults`: those of the scripted record."""
        return self.record.spec

    async def find_image(self, image: str) -> LocalImage | None:
        """`find_image`, among those of the script."""
        await self._do("find_image", image)
        return self.images.get(image)

    async def logs(self, conversation: ConversationId, tail: int) -> Sequence[str]:
        """`logs`, as scripted."""
        await self._do("logs", conversation, tail)
        return self.lines

    @asynccontextmanager
    async def follow_logs(self, conversation: ConversationId, tail: int) -> AsyncIterator[AsyncIterator[str]]:
        """`follow_logs`, as scripted."""
        await self._do("follow_logs", conversation, tail)
        send, receive = trio.open_memory_channel[str](100)
        self.followers.append(send)
        for line in self.lines:
            send.send_nowait(line)
        yield ScriptedLines(receive, self.log_failure)

    async def history(self, conversation: ConversationId, since: int, limit: int) -> Sequence[RecordedEvent]:
        """`history`, as scripted."""
        await self._do("history", conversation, since, limit)
        return (make_event(1), make_event(2))

    @asynccontextmanager
    async def subscribe(
        self, since: int | None, ids: frozenset[ConversationId] | None, *, snapshot: bool
    ) -> AsyncIterator[ScriptedSubscription]:
        """`subscribe`, as scripted."""
        await self._do("subscribe", since, ids, snapshot)
        send, receive = trio.open_memory_channel[RecordedEvent | Exception](10_000)
        self.subscribers.append(send)
        replay = tuple(event for event in self.replay if since is None or event.seq > since)
        try:
            yield ScriptedSubscription(
                self.last_seq or since or 10, (self.record,) if snapshot else None, replay, receive
            )
        finally:
            self.closed_subscriptions += 1
        if self.closing_failure is not None:
            raise self.closing_failure

    def publish(self, *events: RecordedEvent) -> None:
        """Tell every subscriber."""
        for subscriber in self.subscribers:
            for event in events:
                subscriber.send_nowait(event)

    def overflow(self) -> None:
        """Every subscriber's buffer overflows."""
        for subscriber in self.subscribers:
            subscriber.send_nowait(SlowSubscriber())
