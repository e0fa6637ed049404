"""The restart policy: whether a failed sandbox is started again, and when. Pure."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeAlias

import attrs


class RestartMode(StrEnum):
    """systemd's words for when a failed sandbox is started again."""

    ON_FAILURE = "on-failure"
    NEVER = "never"


class Cause(StrEnum):
    """Why a sandbox ended. An engine that does not answer is no cause: unknown is never dead."""

    EXITED = "exited"
    OOM_KILLED = "oom_killed"
    UNHEALTHY = "unhealthy"
    REMOVED = "removed"


@attrs.frozen
class PastRestart:
    """A restart that was made."""

    at: datetime
    cause: Cause


@attrs.frozen
class RestartPolicy:
    """The config's `[restart]`. Times are seconds, `jitter` is a fraction of the backoff."""

    mode: RestartMode = RestartMode.ON_FAILURE
    max_restarts: int = 5
    window: float = 600.0
    backoff_initial: float = 1.0
    backoff_max: float = 60.0
    jitter: float = 0.25
    max_oom_restarts: int = 1


@attrs.frozen
class Restart:
    """Start again at `at`; `history` is the conversation's new restart history."""

    at: datetime
    backoff: float
    history: tuple[PastRestart, ...]


@attrs.frozen
class GiveUp:
    """No restart is left; `reason` is a sentence for the record."""

    reason: str


RestartDecision: TypeAlias = Restart | GiveUp


def decide_restart(
    policy: RestartPolicy, history: Sequence[PastRestart], cause: Cause, now: datetime, dice: float
) -> RestartDecision:
    """Decide after a failure. `dice` in [0, 1) spreads the backoff by the jitter to either side.

    The backoff doubles with every restart that still counts against the window, so a run that stays healthy for as
    long as the window starts it over.
    """
    if policy.mode is RestartMode.NEVER:
        return GiveUp("the restart mode is never")
    recent = tuple(past for past in history if abs((now - past.at).total_seconds()) < policy.window)
    if len(recent) >= policy.max_restarts:
        return GiveUp(
            f"it was restarted {len(recent)} times in {policy.window:g} s, which is all that max_restarts allows"
        )
    ooms = sum(past.cause is Cause.OOM_KILLED for past in recent)
    if cause is Cause.OOM_KILLED and ooms >= policy.max_oom_restarts:
        return GiveUp(f"it ran out of memory again after {ooms} restart(s); a higher memory limit may heal it")
    backoff = min(policy.backoff_max, policy.backoff_initial * 2.0 ** len(recent))
    spread = backoff * (1 + policy.jitter * (2 * dice - 1))
    return Restart(now + timedelta(seconds=spread), spread, (*recent, PastRestart(now, cause)))
