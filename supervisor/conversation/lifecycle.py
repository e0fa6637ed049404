"""The life cycle: every status, every legal transition, and what each command does in each status.

Nothing else in the code decides legality. `TRANSITIONS` says which changes of status exist at all, `VERDICTS`
what a command does when it meets a status; both are the tables of the design, whole.
"""

from enum import StrEnum
from typing import Final, TypeAlias

import attrs


class Status(StrEnum):
    """Where a conversation stands; ours, not the agent's (that is `ExecutionStatus`)."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    STOPPED = "STOPPED"
    ARCHIVED = "ARCHIVED"
    ERROR = "ERROR"


class Command(StrEnum):
    """What a client can ask of a conversation that exists."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    RESTART = "restart"
    ARCHIVE = "archive"
    DELETE = "delete"
    CONNECT = "connect"


_STARTING, _RUNNING, _PAUSED, _STOPPED, _ARCHIVED, _ERROR = Status

TRANSITIONS: Final[frozenset[tuple[Status | None, Status]]] = frozenset(
    {
        (None, _STARTING),  # start of an unknown id, or of none
        (_STARTING, _RUNNING),  # sandbox ready and the agent has accepted the conversation
        (_STARTING, _STOPPED),  # stop cancels the start
        (_STARTING, _ERROR),  # restart policy spent, or start_timeout
        (_RUNNING, _ERROR),
        (_PAUSED, _ERROR),  # resume_timeout
        (_RUNNING, _PAUSED),  # pause
        (_PAUSED, _RUNNING),  # resume, start
        (_RUNNING, _STOPPED),  # stop
        (_PAUSED, _STOPPED),
        (_ERROR, _STOPPED),
        (_RUNNING, _STARTING),  # the supervisor restarts a failed sandbox
        (_ERROR, _STARTING),  # restart by a person or a program
        (_STOPPED, _STARTING),
        (_STOPPED, _ARCHIVED),  # archive
    }
)


class Action(StrEnum):
    """What the actor does for a command that it acts on."""

    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    BOOT = "boot"
    STOP_AND_BOOT = "stop and boot"
    ARCHIVE = "archive"
    DELETE = "delete"


@attrs.frozen
class Act:
    """Carry the command out."""

    action: Action


@attrs.frozen
class AnswerAsIs:
    """Nothing to do: answer with the conversation as it is."""


@attrs.frozen
class Refuse:
    """Refuse with `invalid_transition`; the hint names the command that would work, if one does."""

    hint: str | None = None


Verdict: TypeAlias = Act | AnswerAsIs | Refuse

_AS_IS: Final = AnswerAsIs()
_NO: Final = Refuse()
_RESTART: Final = Refuse("restart")
_FORCE: Final = Refuse("restart with force")
_STOP: Final = Refuse("stop")
_RESUME: Final = Refuse("resume")

VERDICTS: Final[dict[Command, dict[Status, Verdict]]] = {
    Command.START: {
        _STARTING: _AS_IS,
        _RUNNING: _AS_IS,
        _PAUSED: Act(Action.RESUME),
        _STOPPED: _RESTART,
        _ARCHIVED: _NO,
        _ERROR: _AS_IS,
    },
    Command.PAUSE: {
        _STARTING: _NO,
        _RUNNING: Act(Action.PAUSE),
        _PAUSED: _NO,
        _STOPPED: _NO,
        _ARCHIVED: _NO,
        _ERROR: _NO,
    },
    Command.RESUME: {
        _STARTING: _NO,
        _RUNNING: _NO,
        _PAUSED: Act(Action.RESUME),
        _STOPPED: _RESTART,
        _ARCHIVED: _NO,
        _ERROR: _RESTART,
    },
    Command.STOP: {
        _STARTING: Act(Action.STOP),
        _RUNNING: Act(Action.STOP),
        _PAUSED: Act(Action.STOP),
        _STOPPED: _AS_IS,
        _ARCHIVED: _AS_IS,
        _ERROR: Act(Action.STOP),
    },
    Command.RESTART: {
        _STARTING: _AS_IS,
        _RUNNING: _FORCE,
        _PAUSED: _FORCE,
        _STOPPED: Act(Action.BOOT),
        _ARCHIVED: _NO,
        _ERROR: Act(Action.BOOT),
    },
    Command.ARCHIVE: {
        _STARTING: _STOP,
        _RUNNING: _STOP,
        _PAUSED: _STOP,
        _STOPPED: Act(Action.ARCHIVE),
        _ARCHIVED: _AS_IS,
        _ERROR: _STOP,
    },
    Command.DELETE: {
        _STARTING: _STOP,
        _RUNNING: _STOP,
        _PAUSED: _STOP,
        _STOPPED: Act(Action.DELETE),
        _ARCHIVED: Act(Action.DELETE),
        _ERROR: _STOP,
    },
    Command.CONNECT: {
        _STARTING: _NO,
        _RUNNING: _AS_IS,
        _PAUSED: _RESUME,
        _STOPPED: _RESTART,
        _ARCHIVED: _NO,
        _ERROR: _RESTART,
    },
}


def decide(command: Command, status: Status, *, force: bool = False) -> Verdict:
    """Say what a command does to a conversation in this status.

    `force` matters to `restart` only, which it allows to end what runs; a forced stop is no message and asks nobody.
    """
    if command is Command.RESTART and force and status in (_RUNNING, _PAUSED):
        return Act(Action.STOP_AND_BOOT)
    return VERDICTS[command][status]


def is_legal(before: Status | None, after: Status) -> bool:
    """Say whether a change of status exists."""
    return (before, after) in TRANSITIONS
