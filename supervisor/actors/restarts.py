"""Restarts that are going to be made: what the record, the event and the error of a death say of them."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import attrs
import trio

from supervisor.actors.context import disk_key, sandbox_key
from supervisor.actors.findings import Died
from supervisor.conversation.errors import EngineUnavailable
from supervisor.conversation.events import RestartScheduled
from supervisor.conversation.record import ConversationRecord, Observed
from supervisor.conversation.restart import Restart, RestartPolicy
from supervisor.conversation.secrets import redact, secrets_in

LOG_TAIL: Final = 20


def scheduled(record: ConversationRecord, restart: Restart) -> ConversationRecord:
    """The record with a restart that is going to be made."""
    return attrs.evolve(
        record,
        phase=None,
        intent=None,
        observed=Observed.COLD,
        restarts=record.restarts + 1,
        next_restart_at=restart.at,
        restart_history=restart.history,
    )


def told(record: ConversationRecord, died: Died, restart: Restart, policy: RestartPolicy) -> RestartScheduled:
    """The event that goes with `scheduled`."""
    return RestartScheduled(
        cause=died.cause,
        message=died.message,
        at=restart.at,
        delay=round(restart.backoff, 3),
        restarts=record.restarts + 1,
        exit_code=died.exit_code,
        oom_killed=died.oom_killed,
        incarnation=record.incarnation,
        spent=len(restart.history),
        allowed=policy.max_restarts,
        window=policy.window,
    )


async def log_tail(logs: Callable[[str, int], Awaitable[Sequence[str]]], record: ConversationRecord) -> tuple[str, ...]:
    """The last lines of a sandbox that failed, without the secrets that it was given; none if they cannot be had."""
    await trio.lowlevel.checkpoint()
    assert record.sandbox is not None  # noqa: S101 - what failed had a name
    try:
        lines = await logs(record.sandbox.name, LOG_TAIL)
    except EngineUnavailable:
        return ()
    keys = (sandbox_key(record), disk_key(record))
    secrets = (*keys, *secrets_in(dict(record.spec.env)), *secrets_in(record.request))
    return tuple(redact(line, secrets) for line in lines)
