"""The rules, apart from what brings them their events; the rest of them is shown by `test_room`."""

from datetime import UTC, datetime, timedelta

import pytest

from supervisor.alerts.rules import Over, Raised, judge_event, judge_time
from supervisor.conversation.alerts import AlertKind, StandingAlert
from supervisor.conversation.events import DaemonChanged, Deleted, Event, PhaseChanged, RestartScheduled, StatusChanged
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import Phase
from supervisor.conversation.restart import Cause

C1, C2 = ConversationId("c1"), ConversationId("c2")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def standing(kind: AlertKind, conversation: ConversationId = C1, over_at: datetime | None = None) -> StandingAlert:
    """An alert that is not over."""
    return StandingAlert("a", kind, f"{kind}:{conversation}", "m", NOON, conversation, over_at)


ALL = [standing(kind, conversation) for kind in AlertKind for conversation in (C1, C2)]


def outcomes(event: Event, conversation: ConversationId | None = C1, allowance: float = 0.8) -> list[str]:
    """What an event raises (+) and ends (-) when everything stands."""
    said = judge_event(event, NOON, conversation, allowance, ALL)
    return [f"{'+' if isinstance(one, Raised) else '-'}{one.cause}" for one in said]


def scheduled(spent: int, allowed: int, cause: Cause = Cause.EXITED) -> RestartScheduled:
    """A restart."""
    return RestartScheduled(cause, "m", NOON, 1.0, 1, incarnation=4, spent=spent, allowed=allowed, window=60.0)


@pytest.mark.parametrize(
    ("before", "to", "reason", "ended"),
    [
        (Status.STARTING, Status.RUNNING, "ready", ["-error:c1", "-oom:c1"]),
        (Status.PAUSED, Status.RUNNING, "resume", ["-error:c1", "-oom:c1"]),
        (Status.RUNNING, Status.PAUSED, "pause", ["-error:c1"]),
        (Status.RUNNING, Status.STARTING, "exited", ["-error:c1"]),
        (Status.ERROR, Status.STARTING, "restart", ["-error:c1", "-allowance:c1", "-oom:c1"]),
        (Status.ERROR, Status.STOPPED, "stop", ["-error:c1", "-allowance:c1", "-oom:c1"]),
        (Status.RUNNING, Status.ERROR, "exited", ["+error:c1"]),
        (Status.RUNNING, Status.ERROR, "oom_killed", ["+error:c1", "+oom:c1:7"]),
    ],
)
def test_change_of_status_ends_what_it_heals(before: Status, to: Status, reason: str, ended: list[str]) -> None:
    """Of its own conversation, and of no other."""
    assert outcomes(StatusChanged(before, to, reason, incarnation=7)) == ended


def test_deletion_ends_everything_of_the_conversation() -> None:
    """Nothing is left that could."""
    assert outcomes(Deleted()) == [f"-{kind}:c1" for kind in AlertKind]


@pytest.mark.parametrize(
    ("spent", "allowed", "allowance", "is_raised"),
    [
        (3, 5, 0.8, False),
        (4, 5, 0.8, True),
        (5, 5, 0.8, True),
        (4, 5, 1.0, False),
        (5, 5, 1.0, True),
        (1, 1, 0.8, True),
        (1, 100, 0.01, True),
        (0, 0, 0.8, False),
    ],
)
def test_allowance_is_raised_from_its_fraction_on(spent: int, allowed: int, allowance: float, is_raised: bool) -> None:
    """A restart that an older version recorded, without the counts, raises nothing."""
    assert outcomes(scheduled(spent, allowed), allowance=allowance) == ["+allowance:c1"] * is_raised


def test_allowance_lasts_for_a_window() -> None:
    """From the last restart on."""
    (raised,) = judge_event(scheduled(5, 5), NOON, C1, 0.8, ())
    assert isinstance(raised, Raised)
    assert raised.over_at == NOON + timedelta(seconds=60)


def test_restart_for_memory_names_the_incarnation() -> None:
    """The one that ended."""
    assert outcomes(scheduled(1, 5, Cause.OOM_KILLED)) == ["+oom:c1:4"]


@pytest.mark.parametrize(
    ("event", "said"),
    [
        (DaemonChanged("engine_lost", "m", "docker"), ["+engine:docker"]),
        (DaemonChanged("engine_connected", "m", "docker"), ["-engine:docker"]),
        (DaemonChanged("reloaded", "m", "docker"), []),
        (DaemonChanged("engine_lost", "of an older version"), []),
        (PhaseChanged(Phase.BOOT, 1), []),
    ],
)
def test_event_of_the_daemon_is_about_its_engine(event: Event, said: list[str]) -> None:
    """The rest of what the daemon tells of itself is no alert."""
    assert outcomes(event, None) == said


def test_time_ends_what_has_an_end() -> None:
    """Not before, and not what has none."""
    at = NOON + timedelta(seconds=1)
    alert = standing(AlertKind.ALLOWANCE, over_at=at)
    others = [standing(AlertKind.ERROR), standing(AlertKind.INTERNAL, C2, NOON)]
    assert list(judge_time(NOON, alert.cause, [alert, *others])) == []
    (over,) = judge_time(at, alert.cause, [alert, *others])
    assert isinstance(over, Over)
    assert over.cause == alert.cause
