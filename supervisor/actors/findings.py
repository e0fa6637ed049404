"""What a look at a sandbox means for its conversation. Pure."""

from typing import Final, TypeAlias

import attrs

from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import FailureCode, Observed
from supervisor.conversation.restart import Cause
from supervisor.sandbox.port import SandboxState, SandboxView


@attrs.frozen
class AsExpected:
    """Nothing to do but to remember what was seen."""

    observed: Observed


@attrs.frozen
class Died:
    """It should run and does not."""

    cause: Cause
    message: str
    exit_code: int | None = None
    oom_killed: bool | None = None


@attrs.frozen
class ShouldThaw:
    """It should run and is frozen: a pause that was not finished, or somebody else's."""


@attrs.frozen
class ShouldFreeze:
    """It should be frozen and runs: a resume that was not finished, or somebody else's."""


@attrs.frozen
class ShouldEnd:
    """It should not run and does."""


Finding: TypeAlias = AsExpected | Died | ShouldThaw | ShouldFreeze | ShouldEnd

_LIVE: Final = AsExpected(Observed.LIVE)
_COLD: Final = AsExpected(Observed.COLD)


def assess(status: Status, view: SandboxView | None) -> Finding:
    """Compare what a status wants with what the engine shows (None: there is no such sandbox)."""
    state = view.state if view is not None else SandboxState.EXITED
    alive = state in (SandboxState.RUNNING, SandboxState.PAUSED)
    match status:
        case Status.RUNNING if state is SandboxState.PAUSED:
            return ShouldThaw()
        case Status.RUNNING if not alive:
            return describe_death(view)
        case Status.PAUSED if state is SandboxState.RUNNING:
            return ShouldFreeze()
        case Status.STOPPED | Status.ARCHIVED if alive:
            return ShouldEnd()
        case _:
            return _LIVE if alive else _COLD


def describe_death(view: SandboxView | None) -> Died:
    """Tell the causes apart, from the last that the engine shows."""
    if view is None:
        return Died(Cause.REMOVED, "the sandbox was removed by someone else")
    if view.oom_killed:
        return Died(Cause.OOM_KILLED, "the sandbox ran out of its memory limit and was killed", view.exit_code, True)
    reason = f" ({view.message})" if view.message else ""
    how = "ended" if view.exit_code is None else f"exited with code {view.exit_code}"
    return Died(Cause.EXITED, f"the sandbox {how}{reason}", view.exit_code, False)


# The codes by which a shell and the engine say "not executable" and "not found": no restart heals them.
HOPELESS_EXIT_CODES: Final = frozenset({126, 127})


def failure_of(died: Died) -> FailureCode:
    """The record's error code for a death."""
    return FailureCode(died.cause.value)
