"""The boot: what brings a conversation from STARTING to RUNNING, attempt after attempt.

An attempt goes through the phases `image`, `create`, `boot` and `agent`, each under its deadline. What cannot heal ends
the boot there and then; a sandbox that died, or did not get ready, is tried again as the restart policy allows; an
engine that does not answer is waited for. The deadline of the whole is the caller's cancel scope.
"""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, NoReturn

import attrs
import trio

from supervisor.actors.context import ActorContext
from supervisor.actors.findings import HOPELESS_EXIT_CODES, Died, describe_death, failure_of
from supervisor.actors.keeper import RecordKeeper
from supervisor.actors.monitor import SandboxDied, SandboxMonitor, SandboxMoved
from supervisor.actors.restarts import log_tail, scheduled, told
from supervisor.conversation.errors import (
    AgentRefused,
    AgentUnavailable,
    ConversationdError,
    EngineUnavailable,
    ImageUnavailable,
    SandboxFailed,
)
from supervisor.conversation.events import HealthChanged, PhaseChanged, Progress
from supervisor.conversation.record import (
    ConversationRecord,
    ExecutionStatus,
    FailureCode,
    Intent,
    Observed,
    Phase,
    SandboxRef,
)
from supervisor.conversation.restart import Cause, GiveUp, decide_restart
from supervisor.sandbox.port import PullProgress, SandboxState, SandboxView

_ENGINE_RETRY_FIRST: Final = 0.1
_ENGINE_RETRY_MOST: Final = 5.0
_AGENT_RETRY: Final = 0.25


@attrs.define(eq=False, slots=False)
class BootFailed(Exception):
    """The boot cannot succeed; `error` is for the caller, `failure` for the record."""

    failure: FailureCode
    error: ConversationdError


@attrs.frozen
class Booted:
    """A sandbox that is ready and whose agent has accepted the conversation."""

    view: SandboxView
    execution: ExecutionStatus | None


class Boot:
    """One boot of one conversation.

    `patience`, if it is set, is a scope whose deadline starts over whenever an image pull advances: a pull may take as
    long as bytes come. With `waits_for_engine` it does so, too, while the engine does not answer. `monitor` watches
    over the sandbox that is booted. `last_trouble` is what the engine, or the agent server, last said when it could not
    do what it was asked.
    """

    def __init__(self, keeper: RecordKeeper, context: ActorContext) -> None:
        self._keeper = keeper
        self._context = context
        self._provider = context.provider(keeper.record)
        self._driver = context.driver(keeper.record)
        self.monitor = SandboxMonitor(self._provider)
        self._engine_backoff = _ENGINE_RETRY_FIRST
        self.patience: trio.CancelScope | None = None
        self.waits_for_engine = False
        self.last_trouble = ""

    async def run(self) -> Booted:
        """Try until it runs.

        Raises:
            BootFailed: it cannot, or the restart policy is spent.
        """
        while True:
            try:
                booted = await self._try_once()
            except EngineUnavailable as error:
                await self._await_engine(error)
            except ImageUnavailable as error:
                raise BootFailed(FailureCode.IMAGE_UNAVAILABLE, error) from error
            except AgentRefused as error:
                raise BootFailed(FailureCode.AGENT_REFUSED, error) from error
            except ConversationdError as error:
                raise BootFailed(FailureCode.ENGINE_REFUSED, error) from error
            else:
                if booted is not None:
                    return booted

    async def _try_once(self) -> Booted | None:
        """One attempt; None says that it failed and that the next one is scheduled."""
        await self._await_backoff()
        try:
            return await self._attempt()
        except SandboxDied as failure:
            await self._retry_later(failure.died)
            return None

    async def _attempt(self) -> Booted:
        view = await self._running_sandbox()
        if view is None:
            view = await self._launch()
        while True:
            self._check_alive(view)
            await self._note_launched(view)
            try:
                await self._phase(Phase.BOOT, view, partial(self.await_ready, view))
                return await self._hand_over(view)
            except SandboxMoved as moved:
                view = moved.view

    async def _note_launched(self, view: SandboxView) -> None:
        record = self._keeper.record
        launched = attrs.evolve(
            record, phase=Phase.BOOT, intent=None, observed=Observed.LIVE, sandbox=_reference(record, view)
        )
        await self._keeper.save(launched, PhaseChanged(Phase.BOOT, record.incarnation))

    async def _running_sandbox(self) -> SandboxView | None:
        """The sandbox that an earlier attempt, or an earlier life of ours, has launched for this incarnation."""
        await trio.lowlevel.checkpoint()
        reference = self._keeper.record.sandbox
        if reference is None:
            return None
        view = await self._provider.inspect(reference.name)
        if view is not None and view.state is SandboxState.PAUSED:
            view = await self._thaw(reference.name)
        if view is None or view.state is SandboxState.CREATED:
            return None
        if view.state is SandboxState.EXITED and not self._is_launching:
            return None
        return view

    async def _thaw(self, name: str) -> SandboxView | None:
        await trio.lowlevel.checkpoint()
        try:
            await self._provider.unpause(name)
        except SandboxFailed:
            return None  # it ended meanwhile
        return await self._provider.inspect(name)

    @property
    def _is_launching(self) -> bool:
        """Whether this incarnation's launch was begun and never seen to succeed: it is asked for again by its name."""
        return self._keeper.record.intent is Intent.CREATE

    async def _launch(self) -> SandboxView:
        timeouts = self._context.settings().timeouts
        await self._enter(Phase.IMAGE)
        await self._provider.ensure_image(self._keeper.record.spec, self._tell_progress, timeouts.pull_stall)
        if self._is_launching:
            await self._enter(Phase.CREATE)
        else:
            await self._make_room()
        with trio.move_on_after(timeouts.create):
            return await self._provider.launch(self._context.plan(self._keeper.record))
        raise EngineUnavailable(f"the engine did not create the sandbox within {timeouts.create:g} s")

    async def _make_room(self) -> None:
        """Remove the last incarnation's sandbox, then commit the intent to make the next one."""
        record = self._keeper.record
        if record.sandbox is not None:
            await self._provider.remove(record.sandbox.name)
        elif record.incarnation:
            # By its own name: an engine that did not answer may have kept what the record let go.
            await self._provider.remove(self._provider.sandbox_name(record.id, record.incarnation))
        incarnation = record.incarnation + 1
        name = self._provider.sandbox_name(record.id, incarnation)
        await self._keeper.save(
            attrs.evolve(
                record,
                phase=Phase.CREATE,
                incarnation=incarnation,
                intent=Intent.CREATE,
                sandbox=SandboxRef(record.spec.provider, name, record.spec.image),
            ),
            PhaseChanged(Phase.CREATE, incarnation),
        )

    async def _hand_over(self, view: SandboxView) -> Booted:
        record = self._keeper.record
        await self._enter(Phase.AGENT)
        go_on = was_at_work(record)
        session = self._context.session(record, view)
        accepted: ExecutionStatus | None = None

        async def begin() -> None:
            nonlocal accepted
            accepted = await self._driver.begin(session, record.request, go_on=go_on)

        await self._phase(Phase.AGENT, view, lambda: self.insist(begin))
        return Booted(view, accepted)

    async def await_ready(self, view: SandboxView) -> None:
        """Return once the agent server can be used; never for a pending sandbox, which has to move first."""
        if view.is_pending:
            await trio.sleep_forever()
        session = self._context.session(self._keeper.record, view)
        await self.insist(lambda: self._driver.wait_ready(session))

    async def insist(self, ask: Callable[[], Awaitable[None]]) -> None:
        """Ask the agent server until it answers."""
        while True:
            try:
                return await ask()
            except AgentUnavailable as error:
                self.last_trouble = str(error)
                self._keeper.log.info("agent.unavailable", error=str(error))
                await trio.sleep(_AGENT_RETRY)

    async def _phase(self, phase: Phase, view: SandboxView, work: Callable[[], Awaitable[None]]) -> None:
        """Do a phase's work under its deadline, and stop at once if the sandbox ends meanwhile."""
        timeouts = self._context.settings().timeouts
        limit = timeouts.boot if phase is Phase.BOOT else timeouts.agent
        with trio.move_on_after(limit) as scope:
            await self.monitor.while_alive(view, work)
        if scope.cancelled_caught:
            raise SandboxDied(Died(Cause.UNHEALTHY, f"the sandbox did not get through phase {phase} in {limit:g} s"))

    def _check_alive(self, view: SandboxView) -> None:
        if view.state is not SandboxState.RUNNING:
            raise SandboxDied(describe_death(view))

    async def _retry_later(self, died: Died) -> None:
        await trio.lowlevel.checkpoint()
        record, settings = self._keeper.record, self._context.settings()
        if died.exit_code in HOPELESS_EXIT_CODES:
            await self._give_up(died, "its command was not found or is not executable: mend the image or `command`")
        decision = decide_restart(
            settings.restart, record.restart_history, died.cause, self._keeper.now(), self._context.random.random()
        )
        if isinstance(decision, GiveUp):
            await self._give_up(died, decision.reason)
        await self._end_attempt()
        await self._keeper.save(scheduled(record, decision), told(record, died, decision, settings.restart))

    async def _give_up(self, died: Died, reason: str) -> NoReturn:
        tail = await log_tail(self._provider.logs, self._keeper.record)
        error = SandboxFailed(f"{died.message}; {reason}", died.exit_code, died.oom_killed, tail)
        raise BootFailed(failure_of(died), error)

    async def _end_attempt(self) -> None:
        await trio.lowlevel.checkpoint()
        reference = self._keeper.record.sandbox
        assert reference is not None  # noqa: S101 - what died had a name
        await self._provider.kill(reference.name)

    async def _await_backoff(self) -> None:
        await trio.lowlevel.checkpoint()
        record, policy = self._keeper.record, self._context.settings().restart
        if record.next_restart_at is None:
            return
        # Bounded by the policy, so that a wall clock that was stepped cannot make it long.
        wait = (record.next_restart_at - self._keeper.now()).total_seconds()
        await trio.sleep(min(max(wait, 0.0), policy.backoff_max * (1 + policy.jitter)))
        await self._keeper.save(attrs.evolve(self._keeper.record, next_restart_at=None))

    async def _await_engine(self, error: EngineUnavailable) -> None:
        self.last_trouble = str(error)
        self._keeper.log.warning("boot.engine_unavailable", error=str(error))
        if self._keeper.record.observed is not Observed.UNKNOWN:
            unknown = attrs.evolve(self._keeper.record, observed=Observed.UNKNOWN)
            await self._keeper.save(unknown, HealthChanged(Observed.UNKNOWN, str(error)))
        await trio.sleep(self._engine_backoff)
        self._engine_backoff = min(2 * self._engine_backoff, _ENGINE_RETRY_MOST)
        if self.waits_for_engine:
            self._start_over()

    async def _enter(self, phase: Phase) -> None:
        record = self._keeper.record
        coming = record.incarnation + (phase is Phase.IMAGE and not self._is_launching)
        await self._keeper.save(attrs.evolve(record, phase=phase), PhaseChanged(phase, coming))

    def _start_over(self) -> None:
        if self.patience is not None:
            self.patience.deadline = trio.current_time() + self._context.settings().timeouts.start

    async def _tell_progress(self, progress: PullProgress) -> None:
        self._start_over()
        await self._keeper.note(Progress(Phase.IMAGE, progress.current, progress.total))


def was_at_work(record: ConversationRecord) -> bool:
    """Whether the agent has to go on by itself once its server is there again.

    After a restart of ours that is also so when it was last seen idle: it may have been about to begin.
    """
    if record.run_on_resume or record.execution_status is ExecutionStatus.RUNNING:
        return True
    return record.restarts > 0 and record.execution_status is ExecutionStatus.IDLE


def _reference(record: ConversationRecord, view: SandboxView) -> SandboxRef:
    image = view.image or record.spec.image
    return SandboxRef(record.spec.provider, view.name, image, view.id, view.url, view.session_key)
