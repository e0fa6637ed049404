"""A boot that was ordered: kept within its deadline, its outcome in the record, and whoever ordered it answered."""

import attrs
import trio

from supervisor.actors import effects, ends
from supervisor.actors.boot import Boot, Booted, BootFailed
from supervisor.actors.context import ActorContext
from supervisor.actors.keeper import RecordKeeper
from supervisor.actors.mailbox import Answer, Reply
from supervisor.conversation.errors import CommandTimeout, ConversationdError
from supervisor.conversation.events import CommandEnded, Event, StatusChanged
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import FailureCode, Intent
from supervisor.sandbox.port import SandboxView


@attrs.frozen(eq=False)
class BootOrder:
    """Who waits for a boot, and for how long it may take (None: the config says).

    One that no command asked for waits for an engine that does not answer for as long as it takes.
    """

    command: Command | None = None
    reply: Reply[Answer] = attrs.field(factory=Reply)
    within: float | None = None

    def done(self) -> tuple[Event, ...]:
        """What is told of the command when it has been carried out."""
        return () if self.command is None else (CommandEnded(self.command, "done"),)

    def failed(self, error: ConversationdError) -> tuple[Event, ...]:
        """What is told of the command when it has failed."""
        return () if self.command is None else (CommandEnded(self.command, "failed", error.code, error.message),)


class OrderedBoot:
    """Runs a boot until it has brought its conversation to RUNNING or to ERROR."""

    def __init__(self, keeper: RecordKeeper, context: ActorContext, boot: Boot, order: BootOrder) -> None:
        self._keeper = keeper
        self._context = context
        self._boot = boot
        self._order = order
        boot.waits_for_engine = order.command is None

    async def run(self) -> SandboxView | None:
        """Boot, and answer; the sandbox that runs, or None after a failure."""
        await trio.lowlevel.checkpoint()
        try:
            while (booted := await self._boot_within_deadline()) is None:
                pass
        except ConversationdError as error:
            self._order.reply.fail(error)
            return None
        self._order.reply.answer(Answer(self._keeper.record, acted=True))
        return booted.view

    async def _boot_within_deadline(self) -> Booted | None:
        """None says to go on: nobody waits for this boot, and the engine is what it waits for."""
        within = limit(self._order.within, self._context.settings().timeouts.start)
        failed: BootFailed | None = None
        with trio.move_on_after(within) as patience:
            if self._order.within is None:
                self._boot.patience = patience
            await trio.lowlevel.checkpoint()
            try:
                booted = await self._boot.run()
                await self._commit_running(booted)
            except BootFailed as failure:
                failed = failure
            else:
                return booted
        if failed is not None:
            await ends.fail_boot(self._keeper, self._context, failed, *self._order.failed(failed.error))
            raise failed.error
        if self._order.command is None and not self._context.engine_answers(self._keeper.record.spec.provider):
            return None
        error = self._timeout(within)
        left = None if await ends.discard_in_time(self._keeper, self._context) else Intent.CREATE
        await ends.fail(self._keeper, FailureCode.START_TIMEOUT, error, *self._order.failed(error), intent=left)
        raise error

    def _timeout(self, within: float) -> CommandTimeout:
        trouble = f": {self._boot.last_trouble}" if self._boot.last_trouble else ""
        phase = self._keeper.record.phase
        return CommandTimeout(f"the conversation did not start within {within:g} s (phase {phase}){trouble}")

    async def _commit_running(self, booted: Booted) -> None:
        record = effects.running(self._keeper.record, booted.view, booted.execution)
        change = StatusChanged(Status.STARTING, Status.RUNNING, "ready")
        await self._keeper.move(record, change, *self._order.done())


def limit(within: float | None, most: float) -> float:
    """A command's deadline in seconds: the request's, capped by the config's."""
    return most if within is None else min(within, most)
