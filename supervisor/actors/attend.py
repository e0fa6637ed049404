"""What is done for a conversation while it runs: probe that it lives, and follow what its agent does."""

from collections.abc import Callable
from typing import Final

import structlog
import trio

from supervisor.actors.context import ActorContext
from supervisor.actors.mailbox import AgentRunsOn, ExecutionReport, Report, Unhealthy
from supervisor.agent.port import AgentDriver, AgentSession
from supervisor.conversation.errors import ConversationdError
from supervisor.conversation.record import ConversationRecord
from supervisor.sandbox.port import SandboxView

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_FOLLOW_AGAIN_AFTER: Final = 5.0
_RUN_AGAIN_AFTER: Final = 1.0


async def attend(
    record: ConversationRecord,
    view: SandboxView,
    context: ActorContext,
    report: Callable[[Report], None],
) -> None:
    """Probe and follow until cancelled; after an `Unhealthy` report only the following goes on.

    What its engine probes and restarts itself is only followed. An agent that was stopped by a pause which was not
    carried through is told to go on until it does.
    """
    structlog.contextvars.bind_contextvars(incarnation=record.incarnation)
    driver, session = context.driver(record), context.session(record, view)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_follow, driver, session, report)
        if record.run_on_resume:
            nursery.start_soon(_run_on, driver, session, report)
        if session.published is not None and not context.provider(record).heals_itself:
            nursery.start_soon(_probe, driver, session, context, record.incarnation, report)


async def _probe(
    driver: AgentDriver,
    session: AgentSession,
    context: ActorContext,
    incarnation: int,
    report: Callable[[Report], None],
) -> None:
    failures, last = 0, ""
    # The first probe comes at a random moment, so that the probes of many conversations spread out.
    await trio.sleep(context.settings().health.interval * context.random.random())
    while True:
        health = context.settings().health
        problem = await _problem_of(driver, session, health.timeout)
        failures, last = (failures + 1, problem) if problem else (0, "")
        if failures >= health.failures:
            report(Unhealthy(incarnation, f"{failures} liveness probes in a row failed: {last}"))
            return
        await trio.sleep(health.interval)


async def _problem_of(driver: AgentDriver, session: AgentSession, limit: float) -> str:
    await trio.lowlevel.checkpoint()
    with trio.move_on_after(limit):
        await trio.lowlevel.checkpoint()
        try:
            await driver.probe(session)
        except ConversationdError as error:
            return str(error)
        return ""
    return f"no answer within {limit:g} s"


async def _run_on(driver: AgentDriver, session: AgentSession, report: Callable[[Report], None]) -> None:
    while True:
        try:
            await driver.run(session)
        except ConversationdError as error:
            _log.warning("agent.does_not_run_on", error=str(error))
            await trio.sleep(_RUN_AGAIN_AFTER)
        else:
            report(AgentRunsOn())
            return


async def _follow(driver: AgentDriver, session: AgentSession, report: Callable[[Report], None]) -> None:
    while True:
        try:
            await driver.follow(session, lambda status: report(ExecutionReport(status)))
        except ConversationdError as error:
            _log.warning("agent.not_followed", error=str(error))
        await trio.sleep(_FOLLOW_AGAIN_AFTER)
