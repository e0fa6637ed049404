"""The rules: what is recorded, or seen, raises alerts and says that they are over. Pure.

A cause names what is wrong, not what told of it: as long as its alert stands, more of the same raises nothing.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from supervisor.conversation.alerts import AlertKind, StandingAlert
from supervisor.conversation.events import DaemonChanged, Deleted, Event, RestartScheduled, StatusChanged
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.restart import Cause
from supervisor.incidents import Incident

JUDGED_EVENTS: Final = frozenset({StatusChanged.kind, RestartScheduled.kind, DaemonChanged.kind, Deleted.kind})
"""The kinds of events that `judge_event` makes anything of."""

QUIET: Final = timedelta(minutes=10)
"""After this long without the same bug its alert is over: a bug has no end that could be seen, and one that is met
again and again should ring once, not each time."""

ENOUGH_AGAIN: Final = 1.25
"""A disk is well again with this many times the space that raised its alert, so that it does not flutter."""


@attrs.frozen
class Raised:
    """A cause is there. With `over_at` its alert ends then, unless the cause comes again before."""

    kind: AlertKind
    cause: str
    message: str
    conversation: ConversationId | None = None
    over_at: datetime | None = None
    incident: str | None = None


@attrs.frozen
class Over:
    """A cause is gone."""

    cause: str
    message: str


Outcome: TypeAlias = Raised | Over


@attrs.frozen
class DiskSpace:
    """The bytes that are free for us where a directory is."""

    path: Path
    free: int


def judge_event(
    event: Event,
    at: datetime,
    conversation: ConversationId | None,
    allowance: float,
    standing: Iterable[StandingAlert],
) -> Iterator[Outcome]:
    """What an event of one conversation, or (None) of the daemon, means for the alerts."""
    match event:
        case DaemonChanged(provider=str(provider)):
            yield from _judge_engine(event, provider)
        case StatusChanged() if conversation is not None:
            yield from _judge_failure(event, conversation)
            yield from _endings(event, conversation, standing)
        case RestartScheduled() if conversation is not None:
            yield from _judge_restart(event, at, conversation, allowance)
        case Deleted():
            for alert in standing:
                if alert.conversation == conversation:
                    yield Over(alert.cause, f"conversation {conversation} was deleted")
        case _:
            pass


def judge_incident(incident: Incident, now: datetime) -> Iterator[Outcome]:
    """What a bug of ours means: whoever asked for `where` was answered with `internal`."""
    of = f":{incident.conversation}" if incident.conversation else ""
    yield Raised(
        AlertKind.INTERNAL,
        f"internal:{incident.where}{of}",
        f"{incident.where} failed as internal: the log has it as incident {incident.id}",
        incident.conversation,
        now + QUIET,
        incident.id,
    )


def judge_disk(disk: DiskSpace, least: int) -> Iterator[Outcome]:
    """What a look at a disk means; `least` is the bytes that have to be free."""
    cause = f"disk:{disk.path}"
    if disk.free < least:
        yield Raised(AlertKind.DISK, cause, f"{_mib(disk.free)} are free for {disk.path}, less than {_mib(least)}")
    elif disk.free >= least * ENOUGH_AGAIN:
        yield Over(cause, f"{_mib(disk.free)} are free for {disk.path}")


def judge_time(now: datetime, cause: str, standing: Iterable[StandingAlert]) -> Iterator[Outcome]:
    """What the passing of time means for one cause."""
    for alert in standing:
        if alert.cause == cause and alert.over_at is not None and alert.over_at <= now:
            yield Over(cause, _QUIET_AGAIN[alert.kind])


_QUIET_AGAIN: Final[Mapping[AlertKind, str]] = {
    AlertKind.ALLOWANCE: "its restart allowance was not nearly spent for a whole window",
    AlertKind.INTERNAL: f"it has not happened again for {QUIET.total_seconds() / 60:g} minutes",
}


def _judge_engine(event: DaemonChanged, provider: str) -> Iterator[Outcome]:
    cause = f"engine:{provider}"
    if event.what == "engine_lost":
        yield Raised(AlertKind.ENGINE, cause, f"the engine does not answer: {event.message}")
    elif event.what == "engine_connected":
        yield Over(cause, event.message)


def _judge_failure(event: StatusChanged, conversation: ConversationId) -> Iterator[Outcome]:
    if event.to is Status.ERROR:
        message = f"conversation {conversation} is in ERROR ({event.reason}): {event.message}"
        yield Raised(AlertKind.ERROR, f"error:{conversation}", message, conversation)
        if event.reason == Cause.OOM_KILLED:
            yield _out_of_memory(conversation, event.incarnation, "it was given up")


def _judge_restart(
    event: RestartScheduled, at: datetime, conversation: ConversationId, allowance: float
) -> Iterator[Outcome]:
    if event.cause is Cause.OOM_KILLED:
        yield _out_of_memory(conversation, event.incarnation, "it is being restarted")
    if event.allowed and event.spent >= allowance * event.allowed:
        yield Raised(
            AlertKind.ALLOWANCE,
            f"allowance:{conversation}",
            f"conversation {conversation} has used {event.spent} of {event.allowed} restarts in {event.window:g} s; "
            f"last cause: {event.message}",
            conversation,
            at + timedelta(seconds=event.window),
        )


def _out_of_memory(conversation: ConversationId, incarnation: int | None, then: str) -> Raised:
    message = f"conversation {conversation} ran out of its memory limit in incarnation {incarnation}; {then}"
    return Raised(AlertKind.OOM, f"oom:{conversation}:{incarnation}", message, conversation)


def _endings(
    event: StatusChanged, conversation: ConversationId, standing: Iterable[StandingAlert]
) -> Iterator[Outcome]:
    for alert in standing:
        if alert.conversation == conversation and _ends(alert.kind, event):
            yield Over(alert.cause, f"conversation {conversation} is {event.to} ({event.reason})")


def _ends(kind: AlertKind, event: StatusChanged) -> bool:
    by_hand = event.to is Status.STOPPED or (event.to is Status.STARTING and event.reason == "restart")
    match kind:
        case AlertKind.ERROR:
            return event.to is not Status.ERROR
        case AlertKind.ALLOWANCE:
            return by_hand
        case AlertKind.OOM:
            return event.to is Status.RUNNING or by_hand
        case _:
            return False


def _mib(count: int) -> str:
    return f"{count / 1024**2:,.0f} MiB"
