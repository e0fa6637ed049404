"""What an actor does about what it sees of its sandbox, when nobody asked for anything."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import attrs
import trio

from supervisor.actors import ends
from supervisor.actors.booting import BootOrder
from supervisor.actors.context import ActorContext
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
from supervisor.actors.occupation import Occupation
from supervisor.actors.restarts import log_tail, scheduled, told
from supervisor.conversation.errors import ConversationdError, EngineUnavailable, SandboxFailed
from supervisor.conversation.events import HealthChanged, StatusChanged
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import Observed
from supervisor.conversation.restart import Cause, GiveUp, decide_restart
from supervisor.sandbox.port import SandboxState, SandboxView

_COLD_PAUSE: Final = "the paused sandbox has ended: its memory is lost, and resume boots it again over its workspace"


class SandboxSight:
    """Looks at one actor's sandbox and brings it and the record together: what is unknown is never taken for dead."""

    def __init__(self, keeper: RecordKeeper, context: ActorContext, occupation: Occupation) -> None:
        self._keeper = keeper
        self._context = context
        self._occupation = occupation

    async def look(self) -> None:
        """Compare the sandbox with what its conversation's status wants, and do what follows from it."""
        await self._as_far_as_seen(self._look)

    async def end_unhealthy(self, sandbox: str, message: str) -> None:
        """Its probes failed: kill it if it runs, and go on as after any other death."""
        await self._occupation.end()
        await self._as_far_as_seen(partial(self._end_unhealthy, sandbox, message))
        await self._occupation.attend()

    def require_engine(self) -> None:
        """Ask nothing of an engine that is known to be away.

        Raises:
            EngineUnavailable: it is.
        """
        if not self._context.engine_answers(self._keeper.record.spec.provider):
            raise EngineUnavailable("the engine does not answer")

    async def _as_far_as_seen(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do what an engine may keep from being done: what could not be seen is unknown, and looked at again."""
        await trio.lowlevel.checkpoint()
        try:
            await work()
        except EngineUnavailable as error:
            await self._lose(str(error))
        except ConversationdError as error:
            self._keeper.log.warning("sandbox.not_settled", error=str(error))

    async def _look(self) -> None:
        record = self._keeper.record
        self.require_engine()
        provider = self._context.provider(record)
        view = await provider.inspect(record.sandbox.name) if record.sandbox is not None else None
        await self._settle(assess(record.status, view), view)

    async def _end_unhealthy(self, sandbox: str, message: str) -> None:
        provider = self._context.provider(self._keeper.record)
        view = await provider.inspect(sandbox)
        if view is not None and view.state is SandboxState.RUNNING:
            await provider.kill(view.name)
            await self._recover(Died(Cause.UNHEALTHY, message))
        else:
            await self._settle(assess(self._keeper.record.status, view), view)

    async def _settle(self, finding: Finding, view: SandboxView | None) -> None:
        await trio.lowlevel.checkpoint()
        last = self._occupation.view
        if last is not None and view is not None and (view.url, view.session_key) != (last.url, last.session_key):
            await self._occupation.end()  # someone else started it again: its port, or its key, is another one
        self._occupation.view = view
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
            reference = attrs.evolve(record.sandbox, url=view.url, session_key=view.session_key)
            seen = attrs.evolve(seen, sandbox=reference)
        if observed is not record.observed:
            cold = record.status is Status.PAUSED and observed is Observed.COLD
            await self._keeper.save(seen, HealthChanged(observed, _COLD_PAUSE if cold else f"sandbox {observed}"))
        elif seen != record:
            await self._keeper.save(seen)
        await self._occupation.attend()

    async def _lose(self, reason: str) -> None:
        await trio.lowlevel.checkpoint()
        record = self._keeper.record
        if record.status in (Status.RUNNING, Status.PAUSED) and record.observed is not Observed.UNKNOWN:
            unknown = attrs.evolve(record, observed=Observed.UNKNOWN)
            await self._keeper.save(unknown, HealthChanged(Observed.UNKNOWN, reason))

    async def _recover(self, died: Died) -> None:
        """A sandbox that should run has died: schedule its restart, or give up."""
        self._occupation.cancel()  # it ends while the death is recorded
        record, settings = self._keeper.record, self._context.settings()
        decision = decide_restart(
            settings.restart, record.restart_history, died.cause, self._keeper.now(), self._context.random.random()
        )
        if isinstance(decision, GiveUp):
            tail = await log_tail(self._context.provider(record).logs, record)
            error = SandboxFailed(f"{died.message}; {decision.reason}", died.exit_code, died.oom_killed, tail)
            await ends.fail(self._keeper, failure_of(died), error)
            self._log_death(died)
            await self._occupation.end()
            return
        await self._keeper.move(
            attrs.evolve(scheduled(record, decision), status=Status.STARTING),
            StatusChanged(record.status, Status.STARTING, died.cause, died.exit_code, died.oom_killed, died.message),
            told(record, died, decision, settings.restart),
        )
        self._log_death(died)
        await self._occupation.end()
        self._occupation.boot(BootOrder())

    def _log_death(self, died: Died) -> None:
        self._keeper.log.warning("sandbox.died", cause=died.cause, exit_code=died.exit_code, oom=died.oom_killed)
