"""Pause and resume: what they do to a sandbox and its agent, each with its deadline and its way out.

Every function takes the keeper of the record that it changes, and what else is told when it is done. What it raises as
`ConversationdError` is the answer to the command; the actor looks at the sandbox afterwards, so that nothing half done
stays so.
"""

from functools import partial
from typing import Final

import attrs
import trio

from supervisor.actors.boot import Boot, BootFailed
from supervisor.actors.context import ActorContext
from supervisor.actors.ends import fail, fail_boot
from supervisor.actors.keeper import RecordKeeper
from supervisor.actors.monitor import SandboxDied, SandboxMoved
from supervisor.conversation.errors import CommandTimeout, ConversationdError, EngineUnavailable, SandboxFailed
from supervisor.conversation.events import Event, StatusChanged
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import (
    ConversationRecord,
    ExecutionStatus,
    FailureCode,
    Observed,
)
from supervisor.sandbox.port import SandboxState, SandboxView

_UNDO_WITHIN: Final = 5.0


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
            await driver.pause(session, partial(_note_running, keeper))
            await context.provider(record).pause(view.name)
            await keeper.move(_paused(keeper.record), StatusChanged(record.status, Status.PAUSED, "pause"), *told)
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


def _paused(record: ConversationRecord) -> ConversationRecord:
    execution = ExecutionStatus.PAUSED if record.run_on_resume else record.execution_status
    return attrs.evolve(record, status=Status.PAUSED, execution_status=execution)


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
