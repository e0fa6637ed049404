"""How a conversation, or its sandbox, comes to its end: stopped, archived, deleted, discarded, or failed.

Every function takes the keeper of the record that it changes, and what else is told when it is done. What it raises as
`ConversationdError` is the answer to the command; what an engine has kept from being ended stands in the record as an
intent, and is ended when the engine lets us.
"""

from typing import Final

import attrs
import trio

from supervisor.actors.boot import BootFailed
from supervisor.actors.context import ActorContext
from supervisor.actors.keeper import RecordKeeper
from supervisor.conversation.errors import CommandTimeout, ConversationdError, EngineUnavailable, SandboxFailed
from supervisor.conversation.events import Deleted, Event, StatusChanged
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord, Failure, FailureCode, Intent, Observed, SandboxRef
from supervisor.sandbox.port import SandboxState, SandboxView

_INTERRUPT_WITHIN: Final = 5.0
_KILLED_WITHIN: Final = 10.0
_FORCE_WITHIN: Final = 30.0
_DISCARDED_WITHIN: Final = 10.0
_LATER: Final = "it will be ended as soon as the engine answers"
_NEVER_SEEN_TO_RUN: Final = (FailureCode.IMAGE_UNAVAILABLE, FailureCode.ENGINE_REFUSED)
"""What fails a boot whose sandbox, if there is one, was asked for by an earlier attempt that was not answered."""


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
        with trio.move_on_after(_FORCE_WITHIN) as scope:
            await _kill_or_remove(keeper, context, reference)
        if scope.cancelled_caught:
            raise EngineUnavailable(f"the engine did not end sandbox {reference.name} in {_FORCE_WITHIN:g} s: {_LATER}")
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
        await keeper.save(attrs.evolve(uncounted(record), sandbox=None, intent=None))


async def discard_in_time(keeper: RecordKeeper, context: ActorContext) -> bool:
    """Remove a half-made sandbox within 10 seconds; False if the engine has kept it."""
    await trio.lowlevel.checkpoint()
    with trio.move_on_after(_DISCARDED_WITHIN):
        await trio.lowlevel.checkpoint()
        try:
            await discard(keeper, context)
        except ConversationdError as error:
            keeper.log.warning("boot.sandbox_not_removed", error=str(error))
        else:
            return True
    return False


def uncounted(record: ConversationRecord) -> ConversationRecord:
    """A record whose incarnation does not count if the engine never said that it made it.

    It may do so still. So the next sandbox gets the same name, which the engine gives to one container only. One that
    was seen counts: its key has been shown, and must not open another.
    """
    unseen = record.intent is Intent.CREATE and record.sandbox is not None and record.sandbox.id is None
    return attrs.evolve(record, incarnation=record.incarnation - unseen)


async def _intend_to_stop(keeper: RecordKeeper) -> None:
    await trio.lowlevel.checkpoint()
    if keeper.record.intent is not Intent.STOP:
        await keeper.save(attrs.evolve(uncounted(keeper.record), intent=Intent.STOP))


async def fail_boot(keeper: RecordKeeper, context: ActorContext, failed: BootFailed, *events: Event) -> None:
    """End what runs still of a sandbox whose boot cannot succeed, and mark the conversation ERROR.

    It is kept, with its output. One that may start still, as nobody knows whether it was, is removed.
    """
    intent: Intent | None
    if keeper.record.intent is Intent.CREATE and failed.failure in _NEVER_SEEN_TO_RUN:
        intent = None if await discard_in_time(keeper, context) else Intent.CREATE
    else:
        intent = None if await _kill(keeper, context) else Intent.END
    await fail(keeper, failed.failure, failed.error, *events, intent=intent)


async def end_failed(keeper: RecordKeeper, context: ActorContext) -> None:
    """End the sandbox of a failed boot, which the engine did not end then; it is kept, with its output."""
    if await _kill(keeper, context):
        await keeper.save(attrs.evolve(keeper.record, intent=None))


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
    known = record if intent is Intent.CREATE else uncounted(record)
    failed = attrs.evolve(known, status=Status.ERROR, error=failure, phase=None, intent=intent, next_restart_at=None)
    change = StatusChanged(
        record.status, Status.ERROR, code, told.exit_code, told.oom_killed, error.message, record.incarnation
    )
    await keeper.move(failed, change, *events)


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


async def _kill_or_remove(keeper: RecordKeeper, context: ActorContext, sandbox: SandboxRef) -> None:
    """One that was never seen to run is removed: its start may be under way still, and finds nothing then.

    So is one that the engine fails to kill, or cannot show in time.
    """
    with trio.move_on_after(_KILLED_WITHIN):
        if await _kill(keeper, context) and await _has_ended(keeper, context, sandbox):
            return
    try:
        await context.provider(keeper.record).remove(sandbox.name)
    except EngineUnavailable as error:
        raise EngineUnavailable(f"{error.message}: {_LATER}") from error


async def _kill(keeper: RecordKeeper, context: ActorContext) -> bool:
    """Kill the sandbox, if there is one; False if the engine has not said in time that it did."""
    record = keeper.record
    await trio.lowlevel.checkpoint()
    with trio.move_on_after(_KILLED_WITHIN):
        await trio.lowlevel.checkpoint()
        try:
            if record.sandbox is not None:
                await context.provider(record).kill(record.sandbox.name)
        except ConversationdError as error:
            keeper.log.warning("sandbox.not_killed", error=str(error))
        else:
            return True
    return False


async def _has_ended(keeper: RecordKeeper, context: ActorContext, sandbox: SandboxRef) -> bool:
    """Whether a sandbox that was killed has ended for good; what cannot be seen may run on."""
    await trio.lowlevel.checkpoint()
    try:
        view = await context.provider(keeper.record).inspect(sandbox.name)
    except ConversationdError as error:
        keeper.log.warning("sandbox.not_seen", error=str(error))
        return False
    return view is None or (sandbox.id is not None and view.state in (SandboxState.EXITED, SandboxState.CREATED))


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
