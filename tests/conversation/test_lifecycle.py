"""The life cycle against the design's tables, written down a second time and in another form."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.conversation.lifecycle import (
    TRANSITIONS,
    VERDICTS,
    Act,
    Action,
    AnswerAsIs,
    Command,
    Refuse,
    Status,
    decide,
    is_legal,
)

# The design's first table, one line for each status that is left.
LEGAL: Final = {
    None: "STARTING",
    Status.STARTING: "RUNNING STOPPED ERROR",
    Status.RUNNING: "PAUSED STOPPED STARTING ERROR",
    Status.PAUSED: "RUNNING STOPPED ERROR",
    Status.STOPPED: "STARTING ARCHIVED",
    Status.ARCHIVED: "",
    Status.ERROR: "STOPPED STARTING",
}

# The design's second table: "+" acts, "=" answers as it is, "-" refuses; in the order of `ORDER`.
ORDER: Final = (Status.STARTING, Status.RUNNING, Status.PAUSED, Status.STOPPED, Status.ARCHIVED, Status.ERROR)
ANSWERS: Final = {
    Command.START: "==+--=",
    Command.PAUSE: "-+----",
    Command.RESUME: "--+---",
    Command.STOP: "+++==+",
    Command.RESTART: "=--+-+",
    Command.ARCHIVE: "---+=-",
    Command.DELETE: "---++-",
    Command.CONNECT: "-=----",  # RUNNING only, and nothing to do
}
SIGNS: Final = {Act: "+", AnswerAsIs: "=", Refuse: "-"}

# Where each action may lead, a failure included.
ENDS: Final = {
    Action.PAUSE: {Status.PAUSED, Status.ERROR},
    Action.RESUME: {Status.RUNNING, Status.ERROR},
    Action.STOP: {Status.STOPPED},
    Action.BOOT: {Status.STARTING},
    Action.ARCHIVE: {Status.ARCHIVED},
}
PAIRS: Final = [(command, status) for command in Command for status in Status]


@pytest.mark.parametrize("before", [None, *Status])
@pytest.mark.parametrize("after", list(Status))
def test_is_legal_is_exactly_the_designs_table(before: Status | None, after: Status) -> None:
    """A change of status is legal if the design lists it, and only then."""
    assert is_legal(before, after) == (after.value in LEGAL[before].split())


@pytest.mark.parametrize("command", list(Command))
def test_decide_answers_every_status_as_the_design_says(command: Command) -> None:
    """Every command has one verdict in every status."""
    assert "".join(SIGNS[type(decide(command, status))] for status in ORDER) == ANSWERS[command]


def test_verdicts_cover_every_command_in_every_status() -> None:
    """No pair of command and status is left to chance."""
    assert {(command, status) for command, row in VERDICTS.items() for status in row} == set(PAIRS)


@pytest.mark.parametrize(("command", "status"), PAIRS)
def test_decide_acts_only_where_the_action_leads_to_a_legal_status(command: Command, status: Status) -> None:
    """What an action leads to is a legal transition from where it starts."""
    verdict = decide(command, status)
    ends = ENDS.get(verdict.action, set()) if isinstance(verdict, Act) else set()
    assert all(is_legal(status, end) for end in ends)


@pytest.mark.parametrize("status", list(Status))
def test_stop_is_never_refused(status: Status) -> None:
    """Stop is legal in every status."""
    assert not isinstance(decide(Command.STOP, status), Refuse)


@pytest.mark.parametrize(("command", "status"), PAIRS)
def test_force_changes_only_a_restart_of_what_runs(command: Command, status: Status) -> None:
    """Force lets restart end a running or paused sandbox, and means nothing to any other verdict."""
    forced = decide(command, status, force=True)
    if command is Command.RESTART and status in (Status.RUNNING, Status.PAUSED):
        assert forced == Act(Action.STOP_AND_BOOT)
        assert is_legal(status, Status.STOPPED)
        assert is_legal(Status.STOPPED, Status.STARTING)
    else:
        assert forced == decide(command, status)


@pytest.mark.parametrize(
    ("command", "status", "hint"),
    [
        (Command.START, Status.STOPPED, "restart"),
        (Command.START, Status.ARCHIVED, None),
        (Command.RESUME, Status.STOPPED, "restart"),
        (Command.RESUME, Status.ERROR, "restart"),
        (Command.RESTART, Status.RUNNING, "restart with force"),
        (Command.RESTART, Status.PAUSED, "restart with force"),
        (Command.ARCHIVE, Status.RUNNING, "stop"),
        (Command.DELETE, Status.ERROR, "stop"),
        (Command.PAUSE, Status.PAUSED, None),
        (Command.CONNECT, Status.PAUSED, "resume"),
        (Command.CONNECT, Status.STOPPED, "restart"),
    ],
)
def test_refusal_hints_at_the_command_that_would_work(command: Command, status: Status, hint: str | None) -> None:
    """A refusal names the way on, if there is one."""
    assert decide(command, status) == Refuse(hint)


@pytest.mark.parametrize(("command", "status"), PAIRS)
def test_refusal_hints_only_at_a_command_that_works(command: Command, status: Status) -> None:
    """Nobody is sent in circles: the hinted command is not refused in the same status."""
    verdict = decide(command, status)
    hint = verdict.hint if isinstance(verdict, Refuse) else None
    words = hint.split() if hint else ["stop"]
    assert not isinstance(decide(Command(words[0]), status, force="force" in words), Refuse)


def test_archived_is_the_only_end() -> None:
    """From every status but ARCHIVED something leads on, and from every status a way leads to ARCHIVED."""
    ways = {status: {after for before, after in TRANSITIONS if before is status} for status in Status}
    assert [status for status, after in ways.items() if not after] == [Status.ARCHIVED]
    reaching = {Status.ARCHIVED}
    for _ in Status:
        reaching |= {status for status, after in ways.items() if after & reaching}
    assert reaching == set(Status)


@given(st.lists(st.tuples(st.sampled_from(Command), st.booleans(), st.integers(0, 1)), max_size=40))
def test_any_sequence_of_commands_makes_only_legal_transitions(steps: list[tuple[Command, bool, int]]) -> None:
    """However clients mix their commands, the table leads a conversation along legal transitions only."""
    status = Status.STARTING
    for command, force, which in steps:
        verdict = decide(command, status, force=force)
        if not isinstance(verdict, Act) or verdict.action is Action.DELETE:
            continue
        stopped_first = verdict.action is Action.STOP_AND_BOOT
        path = [Status.STOPPED, Status.STARTING] if stopped_first else [sorted(ENDS[verdict.action])[-which]]
        for after in path:
            assert is_legal(status, after)
            status = after
