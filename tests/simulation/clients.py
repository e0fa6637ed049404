"""Clients of the simulated daemon: they ask, hang up, lose their connections, and write down what they were told."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from functools import partial
from typing import Final

import attrs
import trio

from supervisor.actors.supervisor import Supervisor
from supervisor.control.service import SlowSubscriber, StartRequest
from supervisor.conversation.errors import ConversationdError
from supervisor.conversation.events import RecordedEvent
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import AnswerAsIs, decide
from supervisor.conversation.record import ConversationRecord
from supervisor.journal.changes import JournalError
from tests.simulation.host import Host, Life
from tests.simulation.script import EFFECTS, Kind, Step

SLACK: Final = 75.0
"""Seconds that a command may take beyond its deadline: a stop goes on for 30 with SIGKILL and forced removal, a call
under way is waited for up to a second, a pause is undone in 5, and what the actor sees in between it settles first."""

FORCED_WITHIN: Final = 95.0
"""Seconds until a forced stop is answered: 30 of its own, and at the most 60 for an engine call that is under way."""

CALM_SLACK: Final = 5.0
"""The same on a host where nothing goes wrong: a half-made sandbox is removed, a pause is undone."""

_DEFAULTS: Final[Mapping[Kind, float]] = {
    Kind.START: 60.0,
    Kind.START_WITH_KEY: 60.0,
    Kind.START_NOT_WAITING: 0.0,
    Kind.PAUSE: 10.0,
    Kind.RESUME: 20.0,
    Kind.STOP: 10.0,
    Kind.FORCE_STOP: 0.0,
    Kind.RESTART: 60.0,
    Kind.FORCE_RESTART: 70.0,
    Kind.ARCHIVE: 20.0,
    Kind.DELETE: 60.0,
}
_SENT_APART: Final = 0.001
_PROMISE_NOTHING: Final = (Kind.START_NOT_WAITING, Kind.START_WITH_KEY)
"""A key answers with what it has started, however that is now."""

_REQUEST: Final = {"initial_message": {"run": True}}


@attrs.define(eq=False)
class Asked:
    """A command and what became of it."""

    number: int
    step: Step
    at: float
    by: float
    life: Life
    answered: float | None = None
    hung_up: bool = False
    error: Exception | None = None
    told: ConversationRecord | None = None

    @property
    def lost(self) -> bool:
        """Whether nobody waited for its answer any more: the client, or the daemon, was gone."""
        return self.answered is None and (self.hung_up or self.life.dead or self.life.scope.cancel_called)


class Clients:
    """Everybody who asks the daemon for something; `calm` says that nothing is going to happen to its host."""

    def __init__(self, host: Host, *, calm: bool) -> None:
        self.asked: list[Asked] = []
        self.heard: list[RecordedEvent] = []
        self.wrong: list[str] = []
        self._host = host
        self._slack, self._forced_within = (CALM_SLACK, CALM_SLACK) if calm else (SLACK, FORCED_WITHIN)
        self._unsent: list[Step] = []
        self._horizon: dict[str, float] = {}
        self._calls: list[tuple[trio.CancelScope, Asked]] = []
        self._reading = trio.CancelScope()
        host.reader = self.read

    def ask(self, step: Step) -> None:
        """Send a command, as soon as there is a daemon to send it to."""
        life = self._host.life
        if life is None or life.scope.cancel_called or life.supervision is None or life.connections is None:
            self._unsent.append(step)
            return
        now = trio.current_time()
        limit = min(step.number or 1e9, _DEFAULTS[step.kind])
        if step.kind is Kind.FORCE_STOP:
            by = now + self._forced_within
        else:
            by = self._horizon[step.what] = max(now, self._horizon.get(step.what, 0.0)) + limit + self._slack
        asked = Asked(len(self.asked), step, now, by, life)
        self.asked.append(asked)
        life.connections.start_soon(self._command, asked, life.supervision.supervisor)

    def hang_up(self) -> None:
        """Everybody who waits for an answer, or for the daemon, goes away."""
        self._unsent.clear()
        for scope, asked in self._calls:
            asked.hung_up = True
            scope.cancel()

    def leave(self) -> None:
        """The subscriber's connection breaks."""
        self._reading.cancel()

    async def read(self, life: Life) -> None:
        """Subscribe for as long as the daemon lives: from the last that was heard, whatever ends the connection."""
        assert life.supervision is not None
        unsent, self._unsent = self._unsent, []
        for step in unsent:
            self.ask(step)
            await trio.sleep(_SENT_APART)  # so that they arrive in the order in which they were asked
        while True:
            with trio.CancelScope() as self._reading:
                await self._read_on(life.supervision.supervisor)
            await trio.sleep(0.05)

    async def _read_on(self, supervisor: Supervisor) -> None:
        await trio.lowlevel.checkpoint()
        since = self.heard[-1].seq if self.heard else 0
        try:
            async with supervisor.subscribe(since, None, snapshot=False) as events:
                async for event in events:
                    self._hear(event)
        except (SlowSubscriber, JournalError, ConversationdError):
            pass

    def _hear(self, event: RecordedEvent) -> None:
        if event.seq > self._host.last_seq:
            self.wrong.append(f"event {event.seq} was told before it was durable")
        if event.seq != (self.heard[-1].seq if self.heard else 0) + 1:
            self.wrong.append(f"event {event.seq} was told after {self.heard[-1].seq if self.heard else 0}")
        self.heard.append(event)

    async def _command(self, asked: Asked, supervisor: Supervisor) -> None:
        await trio.lowlevel.checkpoint()
        with trio.CancelScope() as scope:
            self._calls.append((scope, asked))
            await trio.lowlevel.checkpoint()
            try:
                asked.told = await self._carry_out(asked.step, supervisor)
            except (ConversationdError, JournalError) as error:
                asked.error = error
        self._calls.remove((scope, asked))
        if asked.hung_up or asked.life.dead:
            return
        asked.answered = trio.current_time()
        if asked.told is None:
            return
        self.wrong.extend(self._wrong_with(asked, asked.told))

    def _wrong_with(self, asked: Asked, told: ConversationRecord) -> Iterator[str]:
        if told not in self._host.versions.get((told.id, told.updated_at), ()):
            yield f"{asked.step} was answered with a record that was never durable"
        effect = EFFECTS[asked.step.kind]
        as_is = asked.step.kind in _PROMISE_NOTHING or isinstance(decide(effect.command, told.status), AnswerAsIs)
        if told.status is not effect.after and not as_is:
            yield f"{asked.step} was answered and {told.id} is {told.status}, not {effect.after}"
        if asked.step.kind is Kind.FORCE_STOP and self._runs(told):
            yield f"{asked.step} was answered and its container runs"

    def _runs(self, record: ConversationRecord) -> bool:
        return any(
            one.is_alive and not one.is_run_by_somebody and one.conversation == record.id
            for one in self._host.engine.containers.values()
        )

    async def _carry_out(self, step: Step, supervisor: Supervisor) -> ConversationRecord | None:
        conversation, within = ConversationId(step.what), step.number or None
        request = StartRequest(id=conversation, request=_REQUEST, timeout=within)
        commands: Mapping[Kind, Callable[[], Awaitable[ConversationRecord | None]]] = {
            Kind.START: lambda: supervisor.start(request),
            Kind.START_NOT_WAITING: lambda: supervisor.start(attrs.evolve(request, wait=False)),
            Kind.START_WITH_KEY: lambda: supervisor.start(attrs.evolve(request, idempotency_key=f"key-{step.what}")),
            Kind.PAUSE: lambda: supervisor.pause(conversation, within),
            Kind.RESUME: lambda: supervisor.resume(conversation, within),
            Kind.STOP: partial(_stop, supervisor, conversation, within, force=False),
            Kind.FORCE_STOP: partial(_stop, supervisor, conversation, within, force=True),
            Kind.RESTART: lambda: supervisor.restart(conversation, within, force=False),
            Kind.FORCE_RESTART: lambda: supervisor.restart(conversation, within, force=True),
            Kind.ARCHIVE: lambda: supervisor.archive(conversation, within),
            Kind.DELETE: partial(_delete, supervisor, conversation),
        }
        return await commands[step.kind]()


async def _stop(
    supervisor: Supervisor, conversation: ConversationId, within: float | None, *, force: bool
) -> ConversationRecord:
    return (await supervisor.stop(conversation, within, force=force)).record


async def _delete(supervisor: Supervisor, conversation: ConversationId) -> None:
    await supervisor.delete(conversation)


COMMANDS: Final = frozenset(_DEFAULTS)
