"""The actor: one conversation's mailbox, read one message at a time.

Only the actor changes its record, its sandbox and its agent: by commands here, by what it sees in `sight`, and by what
goes on beside the mailbox in `occupation`.
"""

from collections.abc import Awaitable, Callable, Mapping
from collections.abc import Set as AbstractSet
from functools import partial
from typing import Final

import attrs
import trio

from supervisor.actors import effects, ends
from supervisor.actors.booting import BootOrder, limit
from supervisor.actors.context import ActorContext
from supervisor.actors.keeper import RecordKeeper
from supervisor.actors.mailbox import (
    AgentRunsOn,
    Answer,
    BootEnded,
    CommandMessage,
    ForcedStop,
    Look,
    Mailbox,
    Message,
    Strays,
    Unhealthy,
)
from supervisor.actors.occupation import Occupation
from supervisor.actors.sight import SandboxSight
from supervisor.conversation.errors import (
    Conflict,
    ConversationdError,
    EngineUnavailable,
    InvalidTransition,
    NotFound,
)
from supervisor.conversation.events import CommandEnded, StatusChanged
from supervisor.conversation.lifecycle import Act, Action, AnswerAsIs, Command, Refuse, Status, decide
from supervisor.conversation.record import ConversationRecord, ExecutionStatus, Intent
from supervisor.sandbox.port import SandboxView


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
        self._occupation = Occupation(keeper, context, mailbox, first_boot or BootOrder())
        self._sight = SandboxSight(keeper, context, self._occupation)
        self._acting: trio.CancelScope | None = None
        self._command: CommandMessage | None = None
        self._forced: ForcedStop | None = None
        self._deleted = False
        self.adopted = trio.Event()

    async def run(self) -> None:
        """Take up the conversation where its record stands, then take messages until it is archived or deleted."""
        async with trio.open_nursery() as nursery:
            with self._occupation.within(nursery):
                await self._was_preempted(self._adopt)
                self.adopted.set()
                while not self._is_done:
                    await self._handle(await self._mailbox.take())
            self._retire()
            nursery.cancel_scope.cancel()

    @property
    def _is_done(self) -> bool:
        """Whether nothing is left to do: an archived conversation whose deletion was begun still has that."""
        record = self._keeper.record
        archived = record.status is Status.ARCHIVED and record.intent is None
        return self._mailbox.is_empty and (archived or self._deleted)

    def look(self) -> None:
        """Something may have happened to the sandbox: have a look at it soon."""
        self._occupation.poke()
        self._mailbox.hint(Look())

    def preempt(self) -> None:
        """A forced stop was put into the mailbox: give up what is being done, and kill without waiting for that."""
        if self._acting is not None or self._occupation.is_booting:
            self._occupation.start_soon(self._kill_now)
        if self._acting is not None:
            self._acting.cancel()
        self._occupation.cancel()

    def fail_current(self, error: ConversationdError) -> None:
        """Answer what was being worked on when the actor ended, which was not its own wish."""
        self._occupation.fail_order(error)
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
            case Strays():
                await self._was_preempted(partial(self._remove_strays, message))
            case BootEnded():
                await self._was_preempted(self._occupation.attend)
            case Unhealthy():
                await self._was_preempted(partial(self._end_unhealthy, message))
            case AgentRunsOn():
                await self._keeper.save(attrs.evolve(self._keeper.record, run_on_resume=False))
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
        await self._occupation.end()
        try:
            await self._act(action, message)
        except ConversationdError as error:
            message.reply.fail(error)
            await self._keeper.note(CommandEnded(message.command, "failed", error.code, error.message))
            self._mailbox.hint(Look())
        else:
            if not self._occupation.is_booting:
                message.reply.answer(Answer(self._keeper.record, acted=True))
        await self._occupation.attend()

    async def _act(self, action: Action, message: CommandMessage) -> None:
        await trio.lowlevel.checkpoint()
        keeper, context, timeouts = self._keeper, self._context, self._context.settings().timeouts
        view, done = self._occupation.view, CommandEnded(message.command, "done")
        match action:
            case Action.PAUSE:
                await effects.pause(keeper, context, await self._seen(), limit(message.within, timeouts.pause), done)
            case Action.RESUME:
                with self._occupation.booting() as boot:
                    within = limit(message.within, timeouts.resume)
                    self._occupation.view = await effects.resume(keeper, context, boot, view, within, done)
            case Action.STOP:
                await ends.stop(keeper, context, limit(message.within, timeouts.stop), view, done)
            case Action.STOP_AND_BOOT:
                await ends.stop(keeper, context, timeouts.stop, view)
                await self._boot_again(message)
            case Action.BOOT:
                await self._boot_again(message)
            case Action.ARCHIVE:
                await ends.archive(keeper, context, limit(message.within, timeouts.archive), done)
            case _:  # Action.DELETE
                await self._delete()

    async def _delete(self) -> None:
        await ends.delete(self._keeper, self._context)
        # At once: no command may reach a conversation that is gone.
        self._mailbox.refuse_all(NotFound(f"conversation {self._keeper.record.id} was deleted"))
        self._retire()
        self._deleted = True

    async def _seen(self) -> SandboxView:
        """The sandbox of a RUNNING conversation as it was last seen; looked at if it never was."""
        await trio.lowlevel.checkpoint()
        if self._occupation.view is None:
            await self._look()
        if self._keeper.record.status is not Status.RUNNING:
            raise refusal(Command.PAUSE, self._keeper.record.status, None)
        if self._occupation.view is None:
            raise EngineUnavailable("the engine does not answer: try again when it does")
        return self._occupation.view

    async def _boot_again(self, message: CommandMessage) -> None:
        record = self._keeper.record
        if record.status is Status.ERROR and record.sandbox is not None:
            # One that was kept for diagnosis may run still, and is not what a restart asks for.
            await self._context.provider(record).kill(record.sandbox.name)
        fresh = attrs.evolve(
            ends.uncounted(record),
            status=Status.STARTING,
            intent=None,
            error=None,
            execution_status=None,
            restarts=0,
            restart_history=(),
            last_active_at=self._keeper.now(),
        )
        await self._keeper.move(fresh, StatusChanged(record.status, Status.STARTING, "restart"))
        self._occupation.boot(BootOrder(message.command, message.reply, message.within))
        self._command = None

    async def _force_stop(self, message: ForcedStop) -> None:
        self._forced = message
        await self._occupation.end()
        acted = self._keeper.record.status not in (Status.STOPPED, Status.ARCHIVED)
        try:
            if acted:
                await ends.force_stop(self._keeper, self._context, CommandEnded(Command.STOP, "done"))
        except ConversationdError as error:
            for reply in message.replies:
                reply.fail(error)
        else:
            for reply in message.replies:
                reply.answer(Answer(self._keeper.record, acted))
        self._forced = None
        if self._keeper.record.intent is not None:
            self._mailbox.hint(Look())
        await self._occupation.attend()

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
            self._occupation.boot()
        elif record.intent is not None or record.status in (Status.RUNNING, Status.PAUSED):
            await self._look()
        await self._occupation.attend()

    async def _look(self) -> None:
        await trio.lowlevel.checkpoint()
        record = self._keeper.record
        if record.intent in _FINISHED_BY or _has_left_over(record):
            await self._finish_intent()
        elif record.status is not Status.STARTING:
            await self._sight.look()

    async def _remove_strays(self, strays: Strays) -> None:
        """Remove what our record does not want; while it boots it may want anything, and the next list comes."""
        await trio.lowlevel.checkpoint()
        provider = self._context.providers[strays.provider]
        wanted = self._keeper.record.sandbox
        for name in strays.names if not self._occupation.is_booting else ():
            if wanted is not None and wanted.name == name:
                continue
            self._keeper.log.warning("sandbox.orphan", name=name)
            try:
                await provider.remove(name)
            except ConversationdError as error:
                self._keeper.log.warning("sandbox.orphan_not_removed", name=name, error=str(error))

    async def _finish_intent(self) -> None:
        """Finish what an earlier life of ours, or an engine that went away, has left half done."""
        keeper, context = self._keeper, self._context
        await self._occupation.end()
        try:
            self._sight.require_engine()
            match keeper.record.intent:
                case Intent.STOP:
                    await ends.force_stop(keeper, context)
                case Intent.ARCHIVE:
                    await ends.archive(keeper, context, context.settings().timeouts.archive)
                case Intent.CREATE:
                    await ends.discard(keeper, context)
                case Intent.END:
                    await ends.end_failed(keeper, context)
                case _:  # Intent.DELETE
                    await self._delete()
        except ConversationdError as error:
            self._keeper.log.warning("intent.not_finished", intent=keeper.record.intent, error=str(error))

    async def _end_unhealthy(self, report: Unhealthy) -> None:
        await trio.lowlevel.checkpoint()
        record = self._keeper.record
        if record.status is not Status.RUNNING or record.incarnation != report.incarnation or record.sandbox is None:
            return
        if record.intent is not None:
            await self._finish_intent()
        else:
            await self._sight.end_unhealthy(record.sandbox.name, report.message)

    async def _note_execution(self, status: ExecutionStatus) -> None:
        await trio.lowlevel.checkpoint()
        record = self._keeper.record
        if record.status is Status.RUNNING and record.execution_status is not status:
            changed = attrs.evolve(record, execution_status=status, last_active_at=self._keeper.now())
            await self._keeper.save(changed)


# What may be done once an end was begun: to bring it to its end, or to go beyond it.
_FINISHED_BY: Final[Mapping[Intent | None, AbstractSet[Action]]] = {
    Intent.STOP: {Action.STOP, Action.STOP_AND_BOOT},
    Intent.ARCHIVE: {Action.ARCHIVE, Action.DELETE},
    Intent.DELETE: {Action.DELETE},
}


def _has_left_over(record: ConversationRecord) -> bool:
    """Whether a start that failed has left a sandbox that could not be removed, or ended, then."""
    return record.status is Status.ERROR and record.intent in (Intent.CREATE, Intent.END)


def refusal(command: Command, status: Status, hint: str | None) -> InvalidTransition:
    """The error for a command that is not legal in a status."""
    advice = f"; {hint} would work" if hint else ""
    return InvalidTransition(f"{command} is not possible while {status}{advice}", status, command, hint)
