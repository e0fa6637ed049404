"""The actor: one conversation's mailbox, read one message at a time.

Only the actor changes its record, its sandbox and its agent. Beside the mailbox one activity goes on, which belongs to
the status: a boot while STARTING, probing and following while RUNNING. A command that acts ends the activity first, so
that there is always one hand on the sandbox.
"""

from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

import attrs
import trio

from supervisor.actors import effects
from supervisor.actors.activity import Activity
from supervisor.actors.attend import attend
from supervisor.actors.boot import Boot, log_tail, scheduled, told
from supervisor.actors.booting import BootOrder, OrderedBoot, limit
from supervisor.actors.context import ActorContext, session_of
from supervisor.actors.findings import (
    AsExpected,
    Died,
    Finding,
    ShouldEnd,
    ShouldFreeze,
    ShouldThaw,
    assess,
    failure_of,
)
from supervisor.actors.keeper import RecordKeeper
from supervisor.actors.mailbox import (
    Answer,
    BootEnded,
    CommandMessage,
    ForcedStop,
    Look,
    Mailbox,
    Message,
    Unhealthy,
)
from supervisor.conversation.errors import (
    Conflict,
    ConversationdError,
    EngineUnavailable,
    InvalidTransition,
    NotFound,
    SandboxFailed,
)
from supervisor.conversation.events import CommandEnded, HealthChanged, StatusChanged
from supervisor.conversation.lifecycle import Act, Action, AnswerAsIs, Command, Refuse, Status, decide
from supervisor.conversation.record import ExecutionStatus, Intent, Observed
from supervisor.conversation.restart import Cause, GiveUp, decide_restart
from supervisor.sandbox.port import SandboxState, SandboxView


class ConversationActor:
    """See the module. Made anew over the same record, mailbox and sandbox when it raises.

    `retire` is called when the conversation needs no actor any more: from then on nothing is put into the mailbox.
    """

    def __init__(
        self,
        keeper: RecordKeeper,
        mailbox: Mailbox,
        context: ActorContext,
        retire: Callable[[], None],
        first_boot: BootOrder | None = None,
    ) -> None:
        self._retire = retire
        self._keeper = keeper
        self._mailbox = mailbox
        self._context = context
        self._order = first_boot or BootOrder()
        self._view: SandboxView | None = None
        self._boot: Boot | None = None
        self._activity: Activity | None = None
        self._acting: trio.CancelScope | None = None
        self._command: CommandMessage | None = None
        self._forced: ForcedStop | None = None
        self._nursery: trio.Nursery | None = None
        self.finished = False
        self.adopted = trio.Event()

    async def run(self) -> None:
        """Take up the conversation where its record stands, then take messages until it is archived or deleted."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await self._was_preempted(self._adopt)
                self.adopted.set()
                while not (self.finished and self._mailbox.is_empty):
                    await self._handle(await self._mailbox.take())
            finally:
                self._nursery = None
            self._retire()
            nursery.cancel_scope.cancel()

    def look(self) -> None:
        """Something may have happened to the sandbox: have a look at it soon."""
        if self._boot is not None:
            self._boot.poke()
        self._mailbox.hint(Look())

    def preempt(self) -> None:
        """A forced stop was put into the mailbox: give up what is being done, and kill without waiting for that."""
        busy = self._acting is not None or self._boot is not None
        if self._acting is not None:
            self._acting.cancel()
        if self._activity is not None:
            self._activity.cancel()
        if busy and self._nursery is not None:
            self._nursery.start_soon(self._kill_now)

    def fail_current(self, error: ConversationdError) -> None:
        """Answer what was being worked on when the actor ended, which was not its own wish."""
        self._order.reply.fail(error)
        if self._command is not None:
            self._command.reply.fail(error)
        for reply in self._forced.replies if self._forced is not None else ():
            reply.fail(error)

    async def _handle(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        match message:
            case ForcedStop():
                await self._force_stop(message)
            case CommandMessage():
                self._command = message
                if await self._was_preempted(partial(self._obey, message)) and self._command is not None:
                    message.reply.fail(Conflict(f"a forced stop came while {message.command} was being carried out"))
                self._command = None
            case Look():
                await self._was_preempted(self._look)
            case BootEnded():
                await self._was_preempted(self._begin_activity)
            case Unhealthy():
                await self._was_preempted(partial(self._end_unhealthy, message))
            case _:
                await self._note_execution(message.status)

    async def _was_preempted(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Do some work that a forced stop may cut short, and say whether one did."""
        with trio.CancelScope() as scope:
            self._acting = scope
            if self._mailbox.has_forced_stop:
                scope.cancel()
            try:
                await work()
            finally:
                self._acting = None
        return scope.cancelled_caught

    async def _obey(self, message: CommandMessage) -> None:
        await trio.lowlevel.checkpoint()
        record = self._keeper.record
        match decide(message.command, record.status, force=message.force):
            case AnswerAsIs():
                await trio.lowlevel.checkpoint()
                message.reply.answer(Answer(record, acted=False))
            case Refuse(hint):
                await trio.lowlevel.checkpoint()
                message.reply.fail(refusal(message.command, record.status, hint))
            case Act(action) if record.intent in _FINISHED_BY and action not in _FINISHED_BY[record.intent]:
                await trio.lowlevel.checkpoint()
                message.reply.fail(
                    Conflict(f"its {record.intent} was begun: it is carried on with as soon as the engine answers")
                )
            case verdict:
                await self._carry_out(verdict.action, message)

    async def _carry_out(self, action: Action, message: CommandMessage) -> None:
        await self._end_activity()
        try:
            await self._act(action, message)
        except ConversationdError as error:
            message.reply.fail(error)
            await self._keeper.note(CommandEnded(message.command, "failed", error.code, error.message))
            self._mailbox.hint(Look())
        else:
            if self._boot is None:
                message.reply.answer(Answer(self._keeper.record, acted=True))
                await self._note_done(action, message)
        await self._begin_activity()

    async def _note_done(self, action: Action, message: CommandMessage) -> None:
        await trio.lowlevel.checkpoint()
        if action is not Action.DELETE:
            await self._keeper.note(CommandEnded(message.command, "done"))

    async def _act(self, action: Action, message: CommandMessage) -> None:
        await trio.lowlevel.checkpoint()
        keeper, context, timeouts = self._keeper, self._context, self._context.settings().timeouts
        match action:
            case Action.PAUSE:
                await effects.pause(keeper, context, await self._seen(), limit(message.within, timeouts.pause))
            case Action.RESUME:
                await self._resume(limit(message.within, timeouts.resume))
            case Action.STOP:
                await effects.stop(keeper, context, limit(message.within, timeouts.stop), self._view)
            case Action.STOP_AND_BOOT:
                await effects.stop(keeper, context, timeouts.stop, self._view)
                await self._boot_again(message)
            case Action.BOOT:
                await self._boot_again(message)
            case Action.ARCHIVE:
                await effects.archive(keeper, context, limit(message.within, timeouts.archive))
                self.finished = True
            case _:  # Action.DELETE
                await self._delete()

    async def _delete(self) -> None:
        await effects.delete(self._keeper, self._context)
        # At once: no command may reach a conversation that is gone.
        self._mailbox.refuse_all(NotFound(f"conversation {self._keeper.record.id} was deleted"))
        self._retire()
        self.finished = True

    async def _seen(self) -> SandboxView:
        """The sandbox of a RUNNING conversation as it was last seen; looked at if it never was."""
        await trio.lowlevel.checkpoint()
        if self._view is None:
            await self._look()
        if self._keeper.record.status is not Status.RUNNING:
            raise refusal(Command.PAUSE, self._keeper.record.status, None)
        if self._view is None:
            raise EngineUnavailable("the engine does not answer: try again when it does")
        return self._view

    async def _resume(self, within: float) -> None:
        self._boot = Boot(self._keeper, self._context)
        try:
            self._view = await effects.resume(self._keeper, self._context, self._boot, self._view, within)
        finally:
            self._boot = None

    async def _boot_again(self, message: CommandMessage) -> None:
        record = self._keeper.record
        if record.status is Status.ERROR and record.sandbox is not None:
            # One that was kept for diagnosis may run still, and is not what a restart asks for.
            await self._context.provider(record).kill(record.sandbox.name)
        fresh = attrs.evolve(
            record,
            status=Status.STARTING,
            error=None,
            execution_status=None,
            restarts=0,
            restart_history=(),
            last_active_at=self._keeper.now(),
        )
        await self._keeper.move(fresh, StatusChanged(record.status, Status.STARTING, "restart"))
        self._start_boot(BootOrder(message.command, message.reply, message.within))
        self._command = None

    async def _force_stop(self, message: ForcedStop) -> None:
        self._forced = message
        await self._end_activity()
        acted = self._keeper.record.status not in (Status.STOPPED, Status.ARCHIVED)
        try:
            if acted:
                await effects.force_stop(self._keeper, self._context)
        except ConversationdError as error:
            for reply in message.replies:
                reply.fail(error)
        else:
            for reply in message.replies:
                reply.answer(Answer(self._keeper.record, acted))
            await self._keeper.note(CommandEnded(Command.STOP, "done"))
        self._forced = None
        if self._keeper.record.intent is not None:
            self._mailbox.hint(Look())
        await self._begin_activity()

    async def _kill_now(self) -> None:
        await trio.lowlevel.checkpoint()
        reference = self._keeper.record.sandbox
        if reference is not None:
            try:
                await self._context.provider(self._keeper.record).kill(reference.name)
            except Exception as error:  # noqa: BLE001 - the forced stop itself follows, whatever this was
                self._keeper.log.info("force_stop.kill_failed", error=str(error))

    # What the actor does on its own.

    async def _adopt(self) -> None:
        """Bring the world and the record together after the daemon, or the actor, was started."""
        record = self._keeper.record
        if record.status is Status.STARTING and record.intent in (None, Intent.CREATE):
            self._start_boot(self._order)
        elif record.intent is not None or record.status in (Status.RUNNING, Status.PAUSED):
            await self._look()
        await self._begin_activity()

    async def _look(self) -> None:
        await trio.lowlevel.checkpoint()
        record = self._keeper.record
        if record.intent in (Intent.STOP, Intent.ARCHIVE, Intent.DELETE):
            await self._finish_intent()
        elif record.status is not Status.STARTING:
            await self._look_at_sandbox()

    async def _look_at_sandbox(self) -> None:
        await trio.lowlevel.checkpoint()
        record = self._keeper.record
        try:
            self._require_engine()
            provider = self._context.provider(record)
            view = await provider.inspect(record.sandbox.name) if record.sandbox is not None else None
            await self._settle(assess(record.status, view), view)
        except EngineUnavailable as error:
            await self._lose_sight(str(error))
        except ConversationdError as error:
            self._keeper.log.warning("sandbox.not_settled", error=str(error))

    def _require_engine(self) -> None:
        if not self._context.engine_answers(self._keeper.record.spec.provider):
            raise EngineUnavailable("the engine does not answer")

    async def _settle(self, finding: Finding, view: SandboxView | None) -> None:
        await trio.lowlevel.checkpoint()
        if self._view is not None and view is not None and view.url != self._view.url:
            await self._end_activity()  # someone else started it again: its port has moved
        self._view = view
        match finding:
            case AsExpected(observed):
                await self._remember(observed, view)
            case Died():
                await self._recover(finding)
            case _:
                assert view is not None  # noqa: S101 - there is one that is not as it should be
                await self._mend(finding, view)

    async def _mend(self, finding: ShouldThaw | ShouldFreeze | ShouldEnd, view: SandboxView) -> None:
        """Do to the sandbox what its conversation's status wants."""
        record = self._keeper.record
        provider = self._context.provider(record)
        match finding:
            case ShouldThaw():
                await provider.unpause(view.name)
                await self._remember(Observed.LIVE, view)
                if record.execution_status is ExecutionStatus.RUNNING:
                    with trio.move_on_after(_RUN_WITHIN):
                        await self._context.driver(record).run(session_of(record, view))
            case ShouldFreeze():
                await provider.pause(view.name)
                await self._remember(Observed.LIVE, view)
            case _:  # ShouldEnd
                await provider.stop(view.name, self._context.settings().timeouts.grace)
                await self._remember(Observed.COLD, view)

    async def _remember(self, observed: Observed, view: SandboxView | None) -> None:
        record = self._keeper.record
        seen = attrs.evolve(record, observed=observed)
        if record.sandbox is not None and view is not None and view.url is not None:
            seen = attrs.evolve(seen, sandbox=attrs.evolve(record.sandbox, url=view.url))
        if observed is not record.observed:
            told = (
                _COLD_PAUSE if record.status is Status.PAUSED and observed is Observed.COLD else f"sandbox {observed}"
            )
            await self._keeper.save(seen, HealthChanged(observed, told))
        elif seen != record:
            await self._keeper.save(seen)
        await self._begin_activity()

    async def _lose_sight(self, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        record = self._keeper.record
        if record.status in (Status.RUNNING, Status.PAUSED) and record.observed is not Observed.UNKNOWN:
            unknown = attrs.evolve(record, observed=Observed.UNKNOWN)
            await self._keeper.save(unknown, HealthChanged(Observed.UNKNOWN, reason))

    async def _finish_intent(self) -> None:
        """Finish what an earlier life of ours, or an engine that went away, has left half done."""
        keeper, context = self._keeper, self._context
        await self._end_activity()
        try:
            self._require_engine()
            match keeper.record.intent:
                case Intent.STOP:
                    await effects.force_stop(keeper, context)
                case Intent.ARCHIVE:
                    await effects.archive(keeper, context, context.settings().timeouts.archive)
                    self.finished = True
                case _:  # Intent.DELETE
                    await self._delete()
        except ConversationdError as error:
            self._keeper.log.warning("intent.not_finished", intent=keeper.record.intent, error=str(error))

    async def _recover(self, died: Died) -> None:
        """A sandbox that should run has died: schedule its restart, or give up."""
        await self._end_activity()
        record, settings = self._keeper.record, self._context.settings()
        self._keeper.log.warning("sandbox.died", cause=died.cause, exit_code=died.exit_code, oom=died.oom_killed)
        decision = decide_restart(
            settings.restart, record.restart_history, died.cause, self._keeper.now(), self._context.random.random()
        )
        if isinstance(decision, GiveUp):
            tail = await log_tail(self._context.provider(record).logs, record)
            error = SandboxFailed(f"{died.message}; {decision.reason}", died.exit_code, died.oom_killed, tail)
            await effects.fail(self._keeper, failure_of(died), error)
            return
        await self._keeper.move(
            attrs.evolve(scheduled(record, decision), status=Status.STARTING),
            StatusChanged(record.status, Status.STARTING, died.cause, died.exit_code, died.oom_killed, died.message),
            told(record, died, decision),
        )
        self._start_boot(BootOrder())

    async def _end_unhealthy(self, report: Unhealthy) -> None:
        await trio.lowlevel.checkpoint()
        record = self._keeper.record
        if record.status is not Status.RUNNING or record.incarnation != report.incarnation or record.sandbox is None:
            return
        if record.intent is not None:
            await self._finish_intent()
            return
        await self._end_activity()
        provider = self._context.provider(record)
        try:
            view = await provider.inspect(record.sandbox.name)
            if view is not None and view.state is SandboxState.RUNNING:
                await provider.kill(view.name)
                await self._recover(Died(Cause.UNHEALTHY, report.message))
            else:
                await self._settle(assess(record.status, view), view)
        except EngineUnavailable as error:
            await self._lose_sight(str(error))
        except ConversationdError as error:
            self._keeper.log.warning("sandbox.not_settled", error=str(error))
        await self._begin_activity()

    async def _note_execution(self, status: ExecutionStatus) -> None:
        await trio.lowlevel.checkpoint()
        record = self._keeper.record
        if record.status is Status.RUNNING and record.execution_status is not status:
            changed = attrs.evolve(record, execution_status=status, last_active_at=self._keeper.now())
            await self._keeper.save(changed)

    # The activity that belongs to the status.

    async def _begin_activity(self) -> None:
        await trio.lowlevel.checkpoint()
        record = self._keeper.record
        if self._activity is None and record.status is Status.RUNNING and self._view is not None:
            self._start(Activity(partial(attend, record, self._view, self._context, self._mailbox.hint)))

    async def _end_activity(self) -> None:
        if self._activity is not None:
            await self._activity.end()
            self._activity = None
            self._boot = None
        self._order.reply.fail(Conflict("the start was ended before it was done: its conversation's status says how"))
        await trio.lowlevel.checkpoint()

    def _start(self, activity: Activity) -> None:
        assert self._nursery is not None  # noqa: S101 - run() has set it
        self._activity = activity
        self._nursery.start_soon(activity.run)

    def _start_boot(self, order: BootOrder) -> None:
        self._order = order
        self._boot = Boot(self._keeper, self._context)
        self._start(
            Activity(partial(self._carry_out_boot, OrderedBoot(self._keeper, self._context, self._boot, order)))
        )

    async def _carry_out_boot(self, ordered: OrderedBoot) -> None:
        self._view = await ordered.run()
        self._activity = None
        self._boot = None
        self._mailbox.hint(BootEnded())


# What may be done once an end was begun: to bring it to its end, or to go beyond it.
_FINISHED_BY: Final[Mapping[Intent | None, AbstractSet[Action]]] = {
    Intent.STOP: {Action.STOP, Action.STOP_AND_BOOT},
    Intent.ARCHIVE: {Action.ARCHIVE, Action.DELETE},
    Intent.DELETE: {Action.DELETE},
}
_RUN_WITHIN: Final = 10.0
_COLD_PAUSE: Final = "the paused sandbox has ended: its memory is lost, its files are kept, and resume boots it again"


def refusal(command: Command, status: Status, hint: str | None) -> InvalidTransition:
    """The error for a command that is not legal in a status."""
    advice = f"; {hint} would work" if hint else ""
    return InvalidTransition(f"{command} is not possible while {status}{advice}", status, command, hint)
