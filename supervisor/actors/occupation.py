"""What goes on for a conversation beside its mailbox: a boot while STARTING, probing and following while RUNNING.

There is at most one such activity, and whoever is going to act on the sandbox ends it first, so that there is always
one hand on it.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial

import trio

from supervisor.actors.activity import Activity
from supervisor.actors.attend import attend
from supervisor.actors.boot import Boot
from supervisor.actors.booting import BootOrder, OrderedBoot
from supervisor.actors.context import ActorContext
from supervisor.actors.keeper import RecordKeeper
from supervisor.actors.mailbox import BootEnded, Mailbox
from supervisor.conversation.errors import Conflict, ConversationdError
from supervisor.conversation.lifecycle import Status
from supervisor.sandbox.port import SandboxView


class Occupation:
    """One actor's. `view` is its sandbox as it was last seen; the mailbox gets what the activity has to report."""

    def __init__(
        self,
        keeper: RecordKeeper,
        context: ActorContext,
        mailbox: Mailbox,
        first_boot: BootOrder,
    ) -> None:
        self.view: SandboxView | None = None
        self._keeper = keeper
        self._context = context
        self._mailbox = mailbox
        self._order = first_boot
        self._boot: Boot | None = None
        self._activity: Activity | None = None
        self._nursery: trio.Nursery | None = None

    @contextmanager
    def within(self, nursery: trio.Nursery) -> Iterator[None]:
        """Run activities in this nursery, for as long as the context lasts."""
        self._nursery = nursery
        try:
            yield
        finally:
            self._nursery = None

    def start_soon(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something else beside the mailbox, for as long as there is somebody to do it."""
        if self._nursery is not None:
            self._nursery.start_soon(work)

    @property
    def is_booting(self) -> bool:
        """Whether a sandbox is being brought up."""
        return self._boot is not None

    def poke(self) -> None:
        """Something may have happened to the sandbox that is being brought up."""
        if self._boot is not None:
            self._boot.monitor.poke()

    def cancel(self) -> None:
        """Ask the activity to end, without waiting for it."""
        if self._activity is not None:
            self._activity.cancel()

    async def end(self) -> None:
        """End the activity and void what it reported; whoever ordered a boot that is not done by now is told."""
        if self._activity is not None:
            await self._activity.end()
            self._activity = None
            self._boot = None
            self._mailbox.void_reports()
        self.fail_order(Conflict("the start was ended before it was done: its conversation's status says how"))
        await trio.lowlevel.checkpoint()

    def fail_order(self, error: ConversationdError) -> None:
        """Answer whoever ordered the last boot, if nobody has."""
        self._order.reply.fail(error)

    async def attend(self) -> None:
        """Probe and follow, if that is what the status wants and nothing else goes on."""
        await trio.lowlevel.checkpoint()
        record = self._keeper.record
        if self._activity is None and record.status is Status.RUNNING and self.view is not None:
            self._start(Activity(partial(attend, record, self.view, self._context, self._mailbox.hint)))

    def boot(self, order: BootOrder | None = None) -> None:
        """Begin to boot, by the order that was given first if there is no other."""
        self._order = order or self._order
        self._boot = Boot(self._keeper, self._context)
        ordered = OrderedBoot(self._keeper, self._context, self._boot, self._order)
        self._start(Activity(partial(self._carry_out, ordered)))

    @contextmanager
    def booting(self) -> Iterator[Boot]:
        """A boot that the actor carries out itself, as a part of a command."""
        self._boot = Boot(self._keeper, self._context)
        try:
            yield self._boot
        finally:
            self._boot = None

    async def _carry_out(self, ordered: OrderedBoot) -> None:
        self.view = await ordered.run()
        self._activity = None
        self._boot = None
        self._mailbox.hint(BootEnded())

    def _start(self, activity: Activity) -> None:
        self._activity = activity
        self.start_soon(activity.run)
