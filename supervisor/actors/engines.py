"""The sight of one engine: whether it answers, and whether what it runs is what the records want.

Events are hints. The truth is a list of all our sandboxes, taken whenever the engine comes into sight and once a
minute: what no record wants is removed, and where a record and the list differ the conversation's actor has a look.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Final

import structlog
import trio

from supervisor.actors.clock import Clock
from supervisor.actors.creations import Creations
from supervisor.actors.handle import ConversationHandle
from supervisor.actors.registry import Registry
from supervisor.conversation.errors import ConversationdError
from supervisor.conversation.events import DaemonChanged
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import Observed
from supervisor.journal.changes import JournalError, Note
from supervisor.journal.journal import Journal
from supervisor.sandbox.port import EngineInfo, OwnedSandbox, SandboxProvider, SandboxState

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_SWEEP_EVERY: Final = 60.0
_WATCH_AGAIN_AFTER: Final = 1.0
_INFO_WITHIN: Final = 10.0
_REMOVED_WITHIN: Final = 10.0
_COMES_LATE_BY: Final = timedelta(days=1)

_WANTED_STATE: Final = {Status.RUNNING: SandboxState.RUNNING, Status.PAUSED: SandboxState.PAUSED}
_ENDED: Final = (SandboxState.EXITED, SandboxState.CREATED)


class EngineSight:
    """Watches one provider's engine for the registry; satisfies `EngineObserver`."""

    def __init__(self, provider: SandboxProvider, journal: Journal, clock: Clock) -> None:
        self.provider = provider
        self._journal = journal
        self._clock = clock
        self._registry: Registry | None = None
        self._creations: Creations | None = None
        self._changed = trio.Event()
        self._reason = ""
        self._told = True
        self.answers = False
        self.info: EngineInfo | None = None
        self.first_word = trio.Event()

    async def run(self) -> None:
        """Watch, and sweep when there is a reason to; until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            while True:
                with trio.move_on_after(_SWEEP_EVERY):
                    await self._changed.wait()
                self._changed = trio.Event()
                await self._guard(self._tell)
                await self._guard(self.sweep)

    def engine_connected(self) -> None:
        """The engine is in sight (again)."""
        self._see(answers=True, reason="")

    def engine_lost(self, reason: str) -> None:
        """The engine does not answer."""
        self._see(answers=False, reason=reason)

    def sandbox_changed(self, conversation: ConversationId) -> None:
        """Let the conversation's actor have a look."""
        handle = self._registry.find(conversation) if self._registry is not None else None
        if handle is not None:
            handle.look()

    async def first_sweep(self, registry: Registry, creations: Creations) -> None:
        """From now on keep this registry's conversations and the engine together, and do so once before returning."""
        self._registry, self._creations = registry, creations
        await self._guard(self.sweep)

    async def sweep(self) -> None:
        """Compare the engine's list with the records, once.

        Raises:
            EngineUnavailable: the engine did not answer.
        """
        await trio.lowlevel.checkpoint()
        if self._registry is None or self._creations is None or not self.answers:
            return
        owned = await self.provider.list_owned()
        # The list is older than the records now are, and a name is recorded before its sandbox is made: whatever of the
        # list is not recorded by now is wanted by nobody.
        for conversation, sandboxes in _by_conversation(owned).items():
            handle = self._registry.find(conversation)
            if handle is None:
                await self._remove_orphans(conversation, sandboxes, self._registry, self._creations)
            else:
                self._compare(handle, sandboxes)
        self._look_at_doubtful(self._registry, owned)
        await self._remove_late_workspaces(self._registry, self._creations)

    def _see(self, *, answers: bool, reason: str) -> None:
        self._told = self._told and answers == self.answers and self.first_word.is_set()
        self.answers, self._reason = answers, reason
        self.first_word.set()
        self._changed.set()
        for handle in self._registry.all() if self._registry is not None else ():
            if handle.record.spec.provider == self.provider.name:
                handle.look()

    async def _watch(self) -> None:
        while True:
            try:
                await self.provider.watch(self)
            except Exception:  # noqa: BLE001 - a provider's bug must not end the sight of its engine
                _log.exception("engine.watch_failed", provider=self.provider.name)
            await trio.sleep(_WATCH_AGAIN_AFTER)

    async def _guard(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what is done again soon if it fails; what fails here must end nothing."""
        await trio.lowlevel.checkpoint()
        try:
            await work()
        except (ConversationdError, JournalError) as error:
            _log.warning("engine.sweep_failed", provider=self.provider.name, error=str(error))
        except Exception:  # noqa: BLE001 - a provider's bug must not end the sight of its engine
            _log.exception("engine.sweep_failed", provider=self.provider.name)

    async def _tell(self) -> None:
        await trio.lowlevel.checkpoint()
        if self._told:
            return
        self._told = True
        if self.answers:
            await self._guard(self._ask_who)
            what, message = "engine_connected", f"{self.provider.name}: the engine answers"
        else:
            what, message = "engine_lost", f"{self.provider.name}: {self._reason}"
        _log.info("engine.sight", provider=self.provider.name, what=what, reason=self._reason)
        changed = DaemonChanged(what, message, self.provider.name)
        try:
            await self._journal.commit(Note(None, self._clock.now(), (changed,)))
        except JournalError:
            self._told = False  # it is told at the next look
            raise

    async def _ask_who(self) -> None:
        with trio.move_on_after(_INFO_WITHIN):
            self.info = await self.provider.engine()

    def _compare(self, handle: ConversationHandle, sandboxes: Sequence[OwnedSandbox]) -> None:
        """What a conversation does not want its actor removes in turn: it may be about to take it over."""
        strays = frozenset(sandbox.name for sandbox in sandboxes if not handle.wants(sandbox.name))
        if strays:
            handle.find_strays(self.provider.name, strays)
        if any(_differs(handle.record.status, one.state) for one in sandboxes if one.name not in strays):
            handle.look()

    async def _remove_orphans(
        self,
        conversation: ConversationId,
        sandboxes: Sequence[OwnedSandbox],
        registry: Registry,
        creations: Creations,
    ) -> None:
        """Nobody makes the conversation anew meanwhile: its first sandbox could have the name of one of these."""
        async with creations.claiming(conversation):
            for sandbox in sandboxes if registry.find(conversation) is None else ():
                _log.warning("sandbox.orphan", name=sandbox.name, conversation=conversation)
                await self._remove(partial(self.provider.remove, sandbox.name))

    async def _remove_late_workspaces(self, registry: Registry, creations: Creations) -> None:
        """Remove the workspaces that an engine made, asked for in vain, after their conversation had been deleted.

        That it was deleted, and lately, must be written. A journal that was restored from a backup does not know what
        was made since, and an id that it knows to be deleted long ago may have been used again.
        """
        since = self._clock.now() - _COMES_LATE_BY
        listed = await self.provider.list_workspaces()
        unknown = [conversation for conversation in listed if registry.find(conversation) is None]
        for conversation in sorted(await self._journal.deleted(unknown, since)) if unknown else ():
            async with creations.claiming(conversation):
                if registry.find(conversation) is None and await self._journal.deleted({conversation}, since):
                    _log.warning("workspace.orphan", conversation=conversation, provider=self.provider.name)
                    await self._remove(partial(self.provider.remove_workspace, conversation))

    async def _remove(self, removal: Callable[[], Awaitable[None]]) -> None:
        """Try it for a while: whoever wants to make the conversation waits, and the next sweep tries again."""
        with trio.move_on_after(_REMOVED_WITHIN):
            await self._guard(removal)

    def _look_at_doubtful(self, registry: Registry, owned: Sequence[OwnedSandbox]) -> None:
        """Look where something is missing, was begun and not ended, or was last seen not to answer."""
        names = {sandbox.name for sandbox in owned}
        for handle in registry.all():
            record = handle.record
            if record.spec.provider != self.provider.name:
                continue
            known = record.sandbox is not None and record.sandbox.name in names
            missing = record.status in _WANTED_STATE and not known
            if missing or record.intent is not None or record.observed is Observed.UNKNOWN:
                handle.look()


def _by_conversation(owned: Sequence[OwnedSandbox]) -> Mapping[ConversationId, Sequence[OwnedSandbox]]:
    by_conversation: dict[ConversationId, list[OwnedSandbox]] = {}
    for sandbox in owned:
        by_conversation.setdefault(sandbox.conversation, []).append(sandbox)
    return by_conversation


def _differs(status: Status, state: SandboxState) -> bool:
    if status in _WANTED_STATE:
        return state is not _WANTED_STATE[status]
    ended = state in _ENDED
    return (status is Status.STARTING and ended) or (status is Status.STOPPED and not ended)
