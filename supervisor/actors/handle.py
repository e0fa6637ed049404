"""The handle of one conversation: what the supervisor keeps of it while its actors come and go."""

from collections.abc import Callable
from functools import partial
from typing import Final

import structlog
import trio

from supervisor.actors.actor import ConversationActor
from supervisor.actors.booting import BootOrder
from supervisor.actors.context import ActorContext
from supervisor.actors.ends import fail
from supervisor.actors.keeper import RecordKeeper
from supervisor.actors.mailbox import Answer, CommandMessage, Mailbox, Reply, Strays
from supervisor.conversation.errors import InternalError, ShuttingDown
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord, FailureCode
from supervisor.incidents import report_incident
from supervisor.journal.changes import JournalError

_BACKOFF_FIRST: Final = 0.1
_BACKOFF_MOST: Final = 30.0
_REFUSED_FOR: Final = 1.0
"""Where there is room for some and not for others, the others try again no more often than that."""
_CRASHES_TOLERATED: Final = 5
_HEALTHY_AFTER: Final = 600.0


class ConversationHandle:
    """One conversation's mailbox, record and current actor."""

    def __init__(
        self,
        keeper: RecordKeeper,
        context: ActorContext,
        retire: Callable[["ConversationHandle"], None],
        first_boot: BootOrder | None = None,
    ) -> None:
        self._keeper = keeper
        self._context = context
        self._mailbox = Mailbox()
        self._new_actor = partial(ConversationActor, keeper, self._mailbox, context, partial(retire, self))
        self._actor = self._new_actor(first_boot)
        self._crashes = 0
        self._refusals = 0
        self._patience = trio.CancelScope()
        self.adopted = trio.Event()

    @property
    def record(self) -> ConversationRecord:
        """The record as it was last committed."""
        return self._keeper.record

    def wants(self, sandbox: str) -> bool:
        """Whether the record names this sandbox as its own."""
        return self.record.sandbox is not None and self.record.sandbox.name == sandbox

    def send(self, message: CommandMessage) -> None:
        """Put a command into the mailbox.

        Raises:
            Busy: it is full.
        """
        self._mailbox.put(message)

    def send_last(self, message: CommandMessage) -> None:
        """Put the last command of all into the mailbox, full or not."""
        self._mailbox.put_last(message)

    def force_stop(self) -> Reply[Answer]:
        """End the sandbox now, whatever the actor is doing."""
        reply: Reply[Answer] = Reply()
        self._mailbox.force_stop(reply)
        self._actor.preempt()
        self._patience.cancel()
        return reply

    def look(self) -> None:
        """Something may have happened to the sandbox."""
        self._actor.look()

    def find_strays(self, provider: str, names: frozenset[str]) -> None:
        """A provider has sandboxes of this conversation that its record does not want: remove them in turn."""
        self._mailbox.hint(Strays(provider, names))

    async def supervise(self) -> None:
        """Run the actor; replace one that raises over the same record, mailbox and sandbox, until one finishes."""
        structlog.contextvars.bind_contextvars(conversation=self.record.id)
        await trio.lowlevel.checkpoint()
        try:
            while True:
                began = trio.current_time()
                try:
                    return await self._run_actor()
                except* Exception as crash:  # noqa: BLE001 - a bug of ours must not end another conversation
                    await self._replace(crash, trio.current_time() - began)
        finally:
            ending = ShuttingDown("the daemon is ending: ask again when it is back")
            self._actor.fail_current(ending)
            self._mailbox.refuse_all(ending)
            self.adopted.set()

    async def _run_actor(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tell_adopted, self._actor)
            await self._actor.run()
            nursery.cancel_scope.cancel()

    async def _tell_adopted(self, actor: ConversationActor) -> None:
        await actor.adopted.wait()
        self.adopted.set()

    async def _replace(self, crash: ExceptionGroup[Exception], lived: float) -> None:
        record = self.record
        error = report_incident(
            "actor.crashed", "actor", conversation=record.id, error=crash, incarnation=record.incarnation
        )
        self._actor.fail_current(error)
        self.adopted.set()  # as well as it could be: nobody else's start may wait for it
        if lived > _HEALTHY_AFTER:
            self._crashes = self._refusals = 0
        # The next one may find nothing better: it comes at once at first, and then ever later.
        with trio.CancelScope() as self._patience:
            if crash.split(JournalError)[1] is None:
                await self._await_journal()
            else:
                self._crashes += 1
                await trio.sleep(_backoff(self._crashes))
            if not self._mailbox.has_forced_stop:  # it can kill without the journal
                await self._keeper.settle()
        await self._count(error)
        self._actor = self._new_actor()
        self._actor.look()

    async def _await_journal(self) -> None:
        """A journal that cannot be written is nobody's bug: it is waited for, until others can write again."""
        self._crashes = 0
        self._refusals += 1
        with trio.move_on_after(_backoff(self._refusals)):
            await trio.sleep(_REFUSED_FOR)
            await self._keeper.until_journal_writes()

    async def _count(self, error: InternalError) -> None:
        """Reload the record, and give the conversation up if it crashes every actor."""
        await trio.lowlevel.checkpoint()
        try:
            await self._keeper.reload()
            if self._crashes > _CRASHES_TOLERATED and self.record.status in _CAN_FAIL:
                await fail(self._keeper, FailureCode.INTERNAL, error)
        except JournalError as failure:
            self._keeper.log.warning("actor.crash_not_counted", error=str(failure))
        except Exception:
            self._keeper.log.exception("actor.crash_not_counted")


def _backoff(failures: int) -> float:
    return min(_BACKOFF_MOST, _BACKOFF_FIRST * 2.0 ** min(failures - 1, 16))


_CAN_FAIL: Final = (Status.STARTING, Status.RUNNING, Status.PAUSED)
