"""What the commands do to a sandbox and its agent: each effect with its deadline and its way out.

Every function takes the keeper of the record that it changes, and what else is told when it is done. What it raises as
`ConversationdError` is the answer to the command; the actor looks at the sandbox afterwards, so that nothing half done
stays so.
"""

from functools import partial
from typing import Final

import attrs
import structlog
import trio

from supervisor.actors.boot import Boot, BootFailed
from supervisor.actors.context import ActorContext
from supervisor.actors.keeper import RecordKeeper
from supervisor.actors.monitor import SandboxDied, SandboxMoved
from supervisor.conversation.errors import CommandTimeout, ConversationdError, EngineUnavailable, SandboxFailed
from supervisor.conversation.events import Deleted, Event, StatusChanged
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import (
    ConversationRecord,
    ExecutionStatus,
    Failure,
    FailureCode,
    Intent,
    Observed,
    SandboxRef,
)
from supervisor.sandbox.port import SandboxState, SandboxView

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_UNDO_WITHIN: Final = 5.0
_INTERRUPT_WITHIN: Final = 5.0
_ENDED_WITHIN: Final = 10.0
FORCE_WITHIN: Final = 30.0


async def pause(keeper: RecordKeeper, context: ActorContext, view: SandboxView, within: float, *told: Event) -> None:
    """Ask the agent to pause, then freeze the sandbox; undone if that takes longer than `within` seconds.

    Raises:
        CommandTimeout: it was undone; the agent goes on as soon as it can.
    """
    record = keeper.record
    driver, session = context.driver(record), context.session(record, view)
    error: ConversationdError = CommandTimeout(f"the conversation could not be paused in {within:g} s; it runs on")
    with trio.move_on_after(within):
        await trio.lowlevel.checkpoint()
        try:
            was_running = await driver.pause(session, partial(_note_running, keeper)) or record.run_on_resume
            await context.provider(record).pause(view.name)
            paused = _paused(keeper.record, was_running=was_running)
            await keeper.move(paused, StatusChanged(record.status, Status.PAUSED, "pause"), *told)
        except ConversationdError as failure:
            error = failure
        else:
            return
    await _undo_pause(keeper, context, view)
    raise error


async def _note_running(keeper: RecordKeeper) -> None:
    """Before the agent is asked to pause, so that nothing that may happen to us or to it meanwhile leaves it paused."""
    await keeper.save(attrs.evolve(keeper.record, run_on_resume=True))


async def resume(
    keeper: RecordKeeper, context: ActorContext, boot: Boot, seen: SandboxView | None, within: float, *told: Event
) -> SandboxView:
    """Thaw the sandbox and let the agent go on; a cold one is booted again over its workspace.

    Raises:
        CommandTimeout: the conversation is in ERROR `resume_timeout`, its sandbox kept.
    """
    failed: BootFailed | None = None
    with trio.move_on_after(within):
        await trio.lowlevel.checkpoint()
        try:
            view, execution = await _thaw_or_boot(keeper, context, boot, seen)
            change = StatusChanged(Status.PAUSED, Status.RUNNING, "resume")
            await keeper.move(running(keeper.record, view, execution), change, *told)
        except BootFailed as failure:
            failed = failure
        else:
            return view
    if failed is not None:
        await fail_boot(keeper, context, failed)
        raise failed.error
    if not context.engine_answers(keeper.record.spec.provider):
        raise EngineUnavailable("the engine does not answer: the conversation stays paused, resume it when it does")
    error = CommandTimeout(f"the conversation could not be resumed within {within:g} s; its sandbox is kept as it is")
    await fail(keeper, FailureCode.RESUME_TIMEOUT, error)
    raise error


async def stop(
    keeper: RecordKeeper, context: ActorContext, within: float, view: SandboxView | None, *told: Event
) -> None:
    """End the sandbox: the agent is interrupted, then SIGTERM, the grace period, SIGKILL, and removal by force.

    One that the engine has never said to run has nothing to end gracefully.

    Raises:
        EngineUnavailable: only this can keep it from ending; it will be ended when the engine answers.
    """
    await _intend_to_stop(keeper)
    reference = keeper.record.sandbox
    if reference is not None and reference.id is not None:
        with trio.move_on_after(within):
            await _interrupt(keeper, context, view)
            grace = min(context.settings().timeouts.grace, within)
            try:
                await context.provider(keeper.record).stop(reference.name, grace)
                return await _stopped(keeper, *told)
            except ConversationdError as error:
                keeper.log.warning("stop.escalates", error=str(error))
    return await force_stop(keeper, context, *told)


async def force_stop(keeper: RecordKeeper, context: ActorContext, *told: Event) -> None:
    """End the sandbox by SIGKILL and, if that is not enough or not for good, by forced removal.

    Raises:
        EngineUnavailable: as for `stop`.
    """
    await _intend_to_stop(keeper)
    reference = keeper.record.sandbox
    if reference is not None:
        with trio.move_on_after(FORCE_WITHIN) as scope:
            await _kill_or_remove(keeper.record, context, reference)
        if scope.cancelled_caught:
            raise EngineUnavailable(f"the engine did not end sandbox {reference.name} in {FORCE_WITHIN:g} s: {_LATER}")
    await _stopped(keeper, *told)


async def archive(keeper: RecordKeeper, context: ActorContext, within: float, *told: Event) -> None:
    """Remove the sandbox; where the config wants it, export the workspace first and then remove that, too.

    Raises:
        CommandTimeout: it stays STOPPED; what was begun to be removed is removed later.
    """
    provider = context.provider(keeper.record)
    with trio.move_on_after(within):
        if keeper.record.intent is not Intent.ARCHIVE:
            # Once that is the intent what has to be exported is: it may be all that there is still of the workspace.
            exported = await _export(keeper.record, context)
            await keeper.save(attrs.evolve(keeper.record, intent=Intent.ARCHIVE, exported=exported))
        record = keeper.record
        if record.sandbox is not None:
            await provider.remove(record.sandbox.name)
        if record.exported:
            await provider.remove_workspace(record.id)
        archived = attrs.evolve(keeper.record, status=Status.ARCHIVED, intent=None, sandbox=None)
        return await keeper.move(archived, StatusChanged(Status.STOPPED, Status.ARCHIVED, "archive"), *told)
    raise CommandTimeout(f"the conversation could not be archived within {within:g} s; try again with a longer timeout")


async def delete(keeper: RecordKeeper, context: ActorContext) -> None:
    """Remove the sandbox, the workspace and the record, for ever."""
    provider = context.provider(keeper.record)
    await keeper.save(attrs.evolve(keeper.record, intent=Intent.DELETE))
    if keeper.record.sandbox is not None:
        await provider.remove(keeper.record.sandbox.name)
    await provider.remove_workspace(keeper.record.id)
    await keeper.delete(Deleted())


async def discard(keeper: RecordKeeper, context: ActorContext) -> None:
    """Remove a half-made sandbox that nobody wants any more.

    Raises:
        EngineUnavailable: the record still names it.
    """
    await trio.lowlevel.checkpoint()
    record = keeper.record
    if record.sandbox is not None:
        await context.provider(record).remove(record.sandbox.name)
        await keeper.save(attrs.evolve(_uncounted(record), sandbox=None, intent=None))


def _uncounted(record: ConversationRecord) -> ConversationRecord:
    """A record whose incarnation does not count if the engine never said that it made it.

    It may do so still. So the next sandbox gets the same name, which the engine gives to one container only. One that
    was seen counts: its key has been shown, and must not open another.
    """
    unseen = record.intent is Intent.CREATE and record.sandbox is not None and record.sandbox.id is None
    return attrs.evolve(record, incarnation=record.incarnation - unseen)


async def _intend_to_stop(keeper: RecordKeeper) -> None:
    await trio.lowlevel.checkpoint()
    if keeper.record.intent is not Intent.STOP:
        await keeper.save(attrs.evolve(_uncounted(keeper.record), intent=Intent.STOP))


async def fail_boot(keeper: RecordKeeper, context: ActorContext, failed: BootFailed, *events: Event) -> None:
    """End what runs still of a sandbox whose boot cannot succeed, and mark the conversation ERROR."""
    intent: Intent | None = Intent.END
    with trio.move_on_after(_ENDED_WITHIN):
        await trio.lowlevel.checkpoint()
        try:
            await _kill(keeper, context)
            intent = None
        except ConversationdError as error:
            keeper.log.warning("boot.sandbox_not_ended", error=str(error))
    await fail(keeper, failed.failure, failed.error, *events, intent=intent)


async def end_failed(keeper: RecordKeeper, context: ActorContext) -> None:
    """End the sandbox of a failed boot, which the engine did not end then; it is kept, with its output.

    Raises:
        EngineUnavailable: it is to be tried again.
    """
    await _kill(keeper, context)
    await keeper.save(attrs.evolve(keeper.record, intent=None))


async def _kill(keeper: RecordKeeper, context: ActorContext) -> None:
    await trio.lowlevel.checkpoint()
    reference = keeper.record.sandbox
    if reference is not None:
        await context.provider(keeper.record).kill(reference.name)


async def fail(
    keeper: RecordKeeper, code: FailureCode, error: ConversationdError, *events: Event, intent: Intent | None = None
) -> None:
    """Mark the conversation ERROR; what the sandbox's end told is kept with it.

    `intent` is what the engine has kept from being done to its sandbox and is done when it lets us: that of END, or
    that of CREATE as the sign of one that is half made and is removed.
    """
    told = error if isinstance(error, SandboxFailed) else SandboxFailed(error.message)
    failure = Failure(code, error.message, keeper.now(), told.exit_code, told.oom_killed, told.log_tail or ())
    record = keeper.record
    known = record if intent is Intent.CREATE else _uncounted(record)
    failed = attrs.evolve(known, status=Status.ERROR, error=failure, phase=None, intent=intent, next_restart_at=None)
    change = StatusChanged(
        record.status, Status.ERROR, code, told.exit_code, told.oom_killed, error.message, record.incarnation
    )
    await keeper.move(failed, change, *events)


def running(record: ConversationRecord, view: SandboxView, execution: ExecutionStatus | None) -> ConversationRecord:
    """The record of a conversation whose sandbox is ready and whose agent has accepted it."""
    reference = record.sandbox
    if reference is not None:
        reference = attrs.evolve(reference, id=view.id, url=view.url, session_key=view.session_key)
    return attrs.evolve(
        record,
        status=Status.RUNNING,
        sandbox=reference,
        observed=Observed.LIVE,
        execution_status=execution,
        run_on_resume=False,
        phase=None,
        intent=None,
        next_restart_at=None,
        error=None,
    )


def _paused(record: ConversationRecord, *, was_running: bool) -> ConversationRecord:
    execution = ExecutionStatus.PAUSED if was_running else record.execution_status
    return attrs.evolve(record, status=Status.PAUSED, execution_status=execution, run_on_resume=was_running)


async def _undo_pause(keeper: RecordKeeper, context: ActorContext, view: SandboxView) -> None:
    """Thaw; an agent that ran is told to go on by what attends to the conversation."""
    with trio.move_on_after(_UNDO_WITHIN):
        await trio.lowlevel.checkpoint()
        try:
            await context.provider(keeper.record).unpause(view.name)
        except ConversationdError as error:
            keeper.log.warning("pause.not_undone", error=str(error))


async def _thaw_or_boot(
    keeper: RecordKeeper, context: ActorContext, boot: Boot, seen: SandboxView | None
) -> tuple[SandboxView, ExecutionStatus | None]:
    await trio.lowlevel.checkpoint()
    record, view = keeper.record, seen
    if view is None and record.sandbox is not None:
        view = await context.provider(record).inspect(record.sandbox.name)
    # A phase in the record: an earlier resume began to boot it and did not get to the end.
    begun = record.phase is not None
    view = await _thaw(record, context, boot, view) if view is not None and not begun else None
    if view is None:
        booted = await boot.run()
        return booted.view, booted.execution
    if record.run_on_resume:
        driver, session = context.driver(record), context.session(record, view)
        await boot.insist(lambda: driver.run(session))
        return view, ExecutionStatus.RUNNING
    return view, record.execution_status


async def _thaw(record: ConversationRecord, context: ActorContext, boot: Boot, view: SandboxView) -> SandboxView | None:
    """Thaw a sandbox until it is ready; None says that there is nothing left to thaw."""
    provider = context.provider(record)
    refused: SandboxFailed | None = None
    await trio.lowlevel.checkpoint()
    try:
        return await _thaw_until_ready(record, context, boot, view)
    except SandboxDied:
        return None
    except SandboxFailed as failure:
        refused = failure
    now = await provider.inspect(view.name)
    if now is not None and now.state in (SandboxState.PAUSED, SandboxState.RUNNING):
        raise refused
    return None


async def _thaw_until_ready(
    record: ConversationRecord, context: ActorContext, boot: Boot, view: SandboxView
) -> SandboxView:
    provider, driver = context.provider(record), context.driver(record)
    if driver.thaws_ready:
        await provider.unpause(view.name)
        return view
    while True:
        await trio.lowlevel.checkpoint()
        try:
            # Asked while it is frozen still: then its answer is all that is waited for.
            await boot.monitor.while_alive(view, partial(provider.unpause, view.name), partial(boot.await_ready, view))
        except SandboxMoved as moved:
            view = moved.view  # its engine had lost its memory, and boots it again
        else:
            return view


async def _interrupt(keeper: RecordKeeper, context: ActorContext, view: SandboxView | None) -> None:
    await trio.lowlevel.checkpoint()
    record = keeper.record
    if record.status is not Status.RUNNING or view is None:
        return
    with trio.move_on_after(_INTERRUPT_WITHIN):
        await trio.lowlevel.checkpoint()
        try:
            await context.driver(record).interrupt(context.session(record, view))
        except ConversationdError as error:
            keeper.log.info("agent.not_interrupted", error=str(error))


_LATER: Final = "it will be ended as soon as the engine answers"


async def _kill_or_remove(record: ConversationRecord, context: ActorContext, sandbox: SandboxRef) -> None:
    """One that was never seen to run is removed: its start may be under way still, and finds nothing then."""
    provider = context.provider(record)
    await trio.lowlevel.checkpoint()
    try:
        if not await _is_killed(context, record, sandbox):
            await provider.remove(sandbox.name)
    except EngineUnavailable as error:
        raise EngineUnavailable(f"{error.message}: {_LATER}") from error


async def _is_killed(context: ActorContext, record: ConversationRecord, sandbox: SandboxRef) -> bool:
    """Kill it, and say whether that has surely ended it; an engine that fails to kill may still remove it.

    A kill that hangs, or gets no place, leaves the removal most of its time.
    """
    provider = context.provider(record)
    with trio.move_on_after(_ENDED_WITHIN):
        await trio.lowlevel.checkpoint()
        try:
            await provider.kill(sandbox.name)
            view = await provider.inspect(sandbox.name)
        except ConversationdError as error:
            _log.warning("sandbox.not_killed", name=sandbox.name, error=str(error))
        else:
            ended = (SandboxState.EXITED, SandboxState.CREATED)
            return view is None or (sandbox.id is not None and view.state in ended)
    return False


async def _stopped(keeper: RecordKeeper, *told: Event) -> None:
    record = attrs.evolve(
        keeper.record,
        status=Status.STOPPED,
        intent=None,
        observed=Observed.COLD,
        execution_status=None,
        run_on_resume=False,
        phase=None,
        next_restart_at=None,
        error=None,
    )
    await keeper.move(record, StatusChanged(keeper.record.status, Status.STOPPED, "stop"), *told)


async def _export(record: ConversationRecord, context: ActorContext) -> bool:
    """Says whether the workspace was written down: without an engine's sandbox it cannot be."""
    await trio.lowlevel.checkpoint()
    provider, directory = context.provider(record), context.settings().archive_to
    if directory is None or record.sandbox is None or await provider.inspect(record.sandbox.name) is None:
        return False
    target = directory / f"{record.id}.tar"
    await trio.Path(target).unlink(missing_ok=True)
    workspace = provider.workspace(record.id, record.spec)
    await provider.export_workspace(record.sandbox.name, workspace, target)
    return True
