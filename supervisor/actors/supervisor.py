"""The supervisor: what clients can ask of all conversations.

It satisfies `supervisor.control.service.ConversationService`. A command is put into its conversation's mailbox and its
reply waited for; who stops waiting cancels nothing. Queries read committed state and wait for no actor and no engine.
"""

import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

import structlog
import trio

from supervisor import __version__
from supervisor.actors.actor import refusal
from supervisor.actors.booting import BootOrder
from supervisor.actors.bus import Bus
from supervisor.actors.capacity import CapacityGate
from supervisor.actors.clock import Clock
from supervisor.actors.context import ActorContext, sandbox_key
from supervisor.actors.creations import Creations
from supervisor.actors.engines import EngineSight
from supervisor.actors.handle import ConversationHandle
from supervisor.actors.mailbox import WAKING, Answer, CommandMessage, Reply
from supervisor.actors.registry import Registry
from supervisor.actors.subscription import subscribe
from supervisor.control.service import (
    AgentAccess,
    ConversationPage,
    DaemonInfo,
    EngineStatus,
    StartRequest,
    Stopped,
    Subscription,
)
from supervisor.conversation.errors import (
    ConversationdError,
    EngineUnavailable,
    Forbidden,
    NotFound,
    ShuttingDown,
)
from supervisor.conversation.events import Created, RecordedEvent, StatusChanged
from supervisor.conversation.ids import ConversationId, new_conversation_id
from supervisor.conversation.lifecycle import Act, Command, Refuse, Status, decide
from supervisor.conversation.record import ConversationRecord, Phase
from supervisor.conversation.spec import LocalImage, SandboxSpec, resolve_spec
from supervisor.journal.changes import AlreadyExists, Create
from supervisor.journal.journal import Journal

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Supervisor:
    """See the module. `registry` has every conversation of the journal that needs an actor."""

    def __init__(
        self,
        *,
        registry: Registry,
        journal: Journal,
        bus: Bus,
        clock: Clock,
        context: ActorContext,
        engines: Mapping[str, EngineSight],
        creations: Creations,
    ) -> None:
        self._registry = registry
        self._journal = journal
        self._bus = bus
        self._clock = clock
        self._context = context
        self._engines = engines
        self._creations = creations
        self._capacity = CapacityGate(registry, lambda: context.settings().capacity, creations)
        self._started_at = clock.now()
        self._started = trio.current_time()
        self._closing = False
        self._under_way = 0
        self._settled = trio.Event()

    def close(self) -> None:
        """Take no command from now on."""
        self._closing = True
        if not self._under_way:
            self._settled.set()

    async def settle(self, within: float) -> None:
        """After `close`: give the commands that somebody waits for some seconds to end by themselves."""
        with trio.move_on_after(within):
            await self._settled.wait()

    async def wind_down(self, command: Command) -> None:
        """After `close`: pause, or stop, every conversation that this is legal for; failures are in their records."""
        await trio.lowlevel.checkpoint()
        messages = []
        for handle in self._registry.all():
            if isinstance(decide(command, handle.record.status), Act) and handle.record.status is not Status.ERROR:
                message = CommandMessage(command)
                handle.send_last(message)
                messages.append(message)
        for message in messages:
            try:
                await message.reply.wait()
            except ConversationdError as error:
                _log.warning("daemon.wind_down_failed", command=command, error=str(error))

    # Queries.

    async def info(self) -> DaemonInfo:
        """Who the daemon is and how it does; never waits for the engine."""
        await trio.lowlevel.checkpoint()
        engine = self._engines[self._context.settings().sandbox.provider]
        return DaemonInfo(
            version=__version__,
            pid=os.getpid(),
            started_at=self._started_at,
            uptime=trio.current_time() - self._started,
            instance=self._journal.instance,
            engine=EngineStatus(
                engine.answers,
                engine.info.version if engine.info else None,
                engine.info.api_version if engine.info else None,
                engine.provider.name,
                engine.provider.caution,
            ),
            capacity=self._capacity.measure(),
            seq=self._journal.last_seq,
        )

    async def get(self, conversation: ConversationId) -> ConversationRecord:
        """The conversation as it is."""
        handle = self._registry.find(conversation)
        if handle is not None:
            await trio.lowlevel.checkpoint()
            return handle.record
        record = await self._journal.record(conversation)
        if record is None:
            raise NotFound(f"there is no conversation {conversation}")
        return record

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
        if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < _LONGEST_CURSOR):
            raise NotFound("this cursor is none that a list has given: begin again without it")
        page = await self._journal.page(statuses, labels, limit, int(cursor or 0), newest_first=newest_first)
        return ConversationPage(page.records, None if page.next_after is None else str(page.next_after))

    async def connect(self, conversation: ConversationId) -> AgentAccess:
        """How to reach the agent server; RUNNING only."""
        record = await self.get(conversation)
        verdict = decide(Command.CONNECT, record.status)
        if isinstance(verdict, Refuse):
            raise refusal(Command.CONNECT, record.status, verdict.hint)
        if record.sandbox is None or record.sandbox.url is None:
            raise NotFound(f"conversation {conversation} has no port to connect to: its spec sets none")
        return AgentAccess(record.sandbox.url, sandbox_key(record))

    def access(self, record: ConversationRecord) -> AgentAccess | None:
        """How the agent server of this record's sandbox is reached, while it boots and while it is frozen, too."""
        launched = record.phase in _LAUNCHED if record.status is Status.STARTING else record.status in _REACHABLE
        if not launched or record.sandbox is None or record.sandbox.url is None:
            return None
        return AgentAccess(record.sandbox.url, sandbox_key(record))

    def defaults(self) -> SandboxSpec:
        """What the sandbox of a start is made from that asks for nothing."""
        return self._context.settings().sandbox

    async def find_image(self, image: str) -> LocalImage | None:
        """Look for an image on the host of the default provider's engine; None says that it is not there."""
        return await self._context.providers[self.defaults().provider].find_image(image)

    async def logs(self, conversation: ConversationId, tail: int) -> Sequence[str]:
        """The last lines of the sandbox's output; none once the sandbox is removed."""
        record = await self.get(conversation)
        if record.sandbox is None:
            return ()
        return await self._context.provider(record).logs(record.sandbox.name, tail)

    @asynccontextmanager
    async def follow_logs(self, conversation: ConversationId, tail: int) -> AsyncIterator[AsyncIterator[str]]:
        """The last lines and then each new one, until the sandbox ends."""
        record = await self.get(conversation)
        if record.sandbox is None:
            raise NotFound(f"conversation {conversation} has no sandbox to read logs from")
        async with self._context.provider(record).follow_logs(record.sandbox.name, tail) as lines:
            yield lines

    async def history(self, conversation: ConversationId, since: int, limit: int) -> Sequence[RecordedEvent]:
        """The conversation's recorded events after `since`, oldest first, also of one that was deleted."""
        events = await self._journal.events(since, None, conversation, limit)
        if not events:
            await self.get(conversation)
        return events

    def subscribe(
        self, since: int | None, ids: frozenset[ConversationId] | None, *, snapshot: bool
    ) -> AbstractAsyncContextManager[Subscription]:
        """Subscribe to all events, or to those of some conversations; `since` None means from now on."""
        return subscribe(self._journal, self._bus, since, ids, snapshot=snapshot)

    # Commands.

    async def start(self, request: StartRequest) -> ConversationRecord:
        """Start a conversation, or answer with the one that is there as the life cycle says."""
        self._require_open()
        conversation = request.id or new_conversation_id()
        async with self._creations.starting(request.idempotency_key, conversation) as known:
            handle = self._registry.find(conversation)
            if known is not None:
                return known
            # From here nothing may be waited for until the key is in use.
            begun = await self._create(conversation, request) if handle is None else self._begin(handle, request)
        return begun if isinstance(begun, ConversationRecord) else (await self._await(begun)).record

    async def pause(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """Pause the agent and freeze its sandbox."""
        return (await self._command(CommandMessage(Command.PAUSE, within=within), conversation)).record

    async def resume(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """Thaw the sandbox, or boot it again if it is cold, and let the agent go on."""
        return (await self._command(CommandMessage(Command.RESUME, within=within), conversation)).record

    async def stop(self, conversation: ConversationId, within: float | None, *, force: bool) -> Stopped:
        """End the sandbox: gracefully, or at once and before anything else with `force`."""
        answer = await self._command(CommandMessage(Command.STOP, within=within, force=force), conversation)
        return Stopped(answer.record, answer.acted)

    async def restart(self, conversation: ConversationId, within: float | None, *, force: bool) -> ConversationRecord:
        """Start a stopped or failed conversation again in its workspace."""
        message = CommandMessage(Command.RESTART, within=within, force=force)
        return (await self._command(message, conversation)).record

    async def archive(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """Remove a stopped conversation's sandbox and keep its record."""
        return (await self._command(CommandMessage(Command.ARCHIVE, within=within), conversation)).record

    async def delete(self, conversation: ConversationId) -> None:
        """Remove a stopped or archived conversation's record and workspace."""
        await self._command(CommandMessage(Command.DELETE), conversation)

    async def _command(self, message: CommandMessage, conversation: ConversationId) -> Answer:
        """Put a command into its conversation's mailbox, after all that wait for that, and wait for its answer."""
        if not message.is_forced_stop:
            self._require_open()
        handle = self._registry.find(conversation)
        if handle is not None and not self._creations.is_claimed(conversation):
            reply = self._send(handle, message)
        else:
            reply = await self._deliver_in_turn(message, conversation)
        return await self._await(reply)

    async def _deliver_in_turn(self, message: CommandMessage, conversation: ConversationId) -> Reply[Answer]:
        async with self._creations.claiming(conversation):
            handle = self._registry.find(conversation)
            if handle is not None:
                return self._send(handle, message)
            return await self._deliver_without_actor(message, conversation)

    def _send(self, handle: ConversationHandle, message: CommandMessage) -> Reply[Answer]:
        if message.is_forced_stop:
            return handle.force_stop()
        wakes = message.command in WAKING and isinstance(decide(message.command, handle.record.status), Act)
        if wakes:
            self._capacity.require()
        handle.send(message)
        if wakes:
            self._capacity.wake(handle, message)
        return message.reply

    async def _await(self, reply: Reply[Answer]) -> Answer:
        self._under_way += 1
        try:
            return await reply.wait()
        finally:
            self._under_way -= 1
            if self._closing and not self._under_way:
                self._settled.set()

    async def _deliver_without_actor(self, message: CommandMessage, conversation: ConversationId) -> Reply[Answer]:
        """A conversation without an actor is ARCHIVED; only `delete` gives it one, for as long as that takes.

        Any other one was created by a commit that was given up on and then succeeded: it gets its actor now. Until that
        is decided the conversation is claimed: a start may be making it at this very moment, and its record may be
        there to be read before the start has heard of that.
        """
        self._require_open()
        record = await self.get(conversation)
        verdict = decide(message.command, record.status)
        if isinstance(verdict, Act) or record.status is not Status.ARCHIVED:
            return self._send(self._registry.take_up(record), message)
        if isinstance(verdict, Refuse):
            raise refusal(message.command, record.status, verdict.hint)
        message.reply.answer(Answer(record, acted=False))
        return message.reply

    def _begin(self, handle: ConversationHandle, request: StartRequest) -> Reply[Answer] | ConversationRecord:
        """Start a conversation that is there: its reply, or its record for somebody who does not wait."""
        waits = request.wait or not isinstance(decide(Command.START, handle.record.status), Act)
        reply = self._send(handle, CommandMessage(Command.START, within=request.timeout))
        return reply if waits else handle.record

    async def _create(self, conversation: ConversationId, request: StartRequest) -> Reply[Answer] | ConversationRecord:
        record = self._new_record(conversation, self._admit(request), request)
        order = BootOrder(Command.START, within=request.timeout)
        born = (Created(record.agent, record.spec.image), StatusChanged(None, Status.STARTING, "start"))
        try:
            with self._creations.making(record, request.idempotency_key):
                await self._journal.commit(Create(record, born, request.idempotency_key))
                handle = self._registry.take_up(record, order)
        except AlreadyExists:
            return await self._deliver_without_actor(CommandMessage(Command.START), conversation)
        return order.reply if request.wait else handle.record

    def _admit(self, request: StartRequest) -> SandboxSpec:
        settings = self._context.settings()
        spec = resolve_spec(settings.sandbox, request.spec, settings.allow)
        agent = request.agent or settings.agent
        if agent not in self._context.drivers:
            raise Forbidden(f"there is no agent driver {agent!r}; there are {sorted(self._context.drivers)}", "agent")
        if spec.provider not in self._engines:
            raise Forbidden(
                f"there is no sandbox provider {spec.provider!r} in this daemon; there are {sorted(self._engines)}, "
                "and what the config allows since the daemon's start comes with its next one",
                "spec.provider",
            )
        self._capacity.require()
        if not self._engines[spec.provider].answers:
            raise EngineUnavailable(
                f"the {spec.provider} engine does not answer: is it running, and may we use it? "
                "`[sandbox] provider` in the config chooses another kind of sandbox"
            )
        return spec

    def _new_record(self, conversation: ConversationId, spec: SandboxSpec, request: StartRequest) -> ConversationRecord:
        now = self._clock.now()
        return ConversationRecord(
            id=conversation,
            agent=request.agent or self._context.settings().agent,
            status=Status.STARTING,
            spec=spec,
            session_key=secrets.token_urlsafe(32),
            created_at=now,
            updated_at=now,
            last_active_at=now,
            request=request.request,
            labels=request.labels,
        )

    def _require_open(self) -> None:
        if self._closing:
            raise ShuttingDown("the daemon is ending: ask again when it is back")


_LONGEST_CURSOR: Final = 19
_LAUNCHED: Final = (Phase.BOOT, Phase.AGENT)
_REACHABLE: Final = (Status.RUNNING, Status.PAUSED)
