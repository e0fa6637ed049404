"""Answers as tables, in the width that there is."""

from datetime import timedelta

from supervisor.cli.tables import (
    ConversationTable,
    conversation_details,
    conversation_sentence,
    daemon_details,
    stopped_sentence,
)
from supervisor.control.client_views import Conversation, Daemon, FailureView
from supervisor.control.service import Capacity, EngineStatus
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ExecutionStatus, Observed, Phase
from tests.cli.views import NOW, UUID, conversation, drawn

FAILURE = FailureView("exited", "the sandbox exited with code 3", NOW, 3, False, ("one", "\x1b[2Jtwo"))


def failed(name: str = UUID) -> Conversation:
    """A conversation in ERROR."""
    return conversation(name, status=Status.ERROR, observed=Observed.COLD, error=FAILURE, restarts=2, incarnation=3)


def table(*conversations: Conversation, width: int = 200, pulls: dict[str, str] | None = None) -> list[str]:
    """The lines of a table."""
    return drawn(ConversationTable(conversations, NOW, pulls), width).splitlines()


def test_a_wide_table_has_image_and_error() -> None:
    """All in one row."""
    header, row = table(failed("c1"))
    assert header.split() == ["ID", "STATUS", "AGENT", "SEEN", "BOOT", "RESTARTS", "AGE", "IMAGE", "ERROR"]
    assert row.split(maxsplit=8) == [
        *("c1", "ERROR", "-", "cold", "3", "2", "5m", "agent:latest", "exited: the sandbox exited with code 3")
    ]


def test_at_80_columns_ids_are_whole_and_errors_are_below() -> None:
    """A UUID can be copied; the image goes."""
    lines = table(failed(), conversation("c2"), width=80)
    assert lines[0].split() == ["ID", "STATUS", "AGENT", "SEEN", "BOOT", "RST", "AGE"]
    assert lines[1].split()[0] == UUID
    assert lines[3] == ""
    assert " ".join(lines[4:]) == f"{UUID}: exited: the sandbox exited with code 3"
    assert max(map(len, lines)) <= 80


def test_at_120_columns_there_is_room_for_the_image() -> None:
    """Errors stay below."""
    lines = table(failed(), width=120)
    assert lines[0].endswith("IMAGE")
    assert lines[1].endswith("agent:latest")
    assert lines[-1].endswith("with code 3")


def test_what_is_too_long_is_cut_to_one_line() -> None:
    """The image to half of what is left."""
    long = conversation(sandbox=None, error=FailureView("exited", "x" * 500, NOW))
    lines = table(long, width=150)
    assert len(lines) == 2
    assert lines[1].endswith("\u2026")


def test_a_table_without_errors_has_nothing_below() -> None:
    """Not even an empty line."""
    assert len(table(conversation(UUID), width=80)) == 2


def test_an_empty_table_is_its_header() -> None:
    """Nothing falls over."""
    assert len(table()) == 1


def test_status_tells_phase_pull_and_next_restart() -> None:
    """What a person waits for."""
    starting = {"status": Status.STARTING, "sandbox": None}
    rows = table(
        conversation("a", phase=Phase.IMAGE, **starting),
        conversation("b", phase=Phase.IMAGE, **starting),
        conversation("c", phase=Phase.BOOT, **starting),
        conversation("d", next_restart_at=NOW + timedelta(seconds=3), **starting),
        pulls={"b": "43%", "c": "99%"},
    )
    assert [row[4:].split("  ")[0] for row in rows[1:]] == [
        *("STARTING image", "STARTING image 43%", "STARTING boot", "STARTING in 3.0s")
    ]


def test_statuses_and_executions_are_coloured() -> None:
    """On a terminal."""
    shown = drawn(
        ConversationTable([conversation(execution_status=ExecutionStatus.WAITING_FOR_CONFIRMATION)], NOW), terminal=True
    )
    assert "\x1b[32mRUNNING" in shown
    assert "\x1b[35mwaiting" in shown


def test_details_tell_everything() -> None:
    """With the failure's own below."""
    lines = drawn(conversation_details(failed(), NOW)).splitlines()
    assert lines[0] == f"id           {UUID}"
    assert "incarnation  3, restarted 2 times by the supervisor" in lines
    below = lines[lines.index("") + 1 :]
    assert below[:2] == ["error          exited", "why            the sandbox exited with code 3"]
    assert below[3:] == ["exit code      3", "out of memory  no", "last output", "  one", "  \\x1b[2Jtwo"]


def test_details_of_a_start_tell_phase_and_restart() -> None:
    """And leave out what is not there."""
    starting = conversation(
        status=Status.STARTING,
        phase=Phase.AGENT,
        sandbox=None,
        next_restart_at=NOW,
        error=FailureView("unhealthy", "no answer", NOW),
        labels={"team": "blue"},
    )
    shown = drawn(conversation_details(starting, NOW))
    assert "phase         agent" in shown
    assert "next restart" in shown
    assert "label         team=blue" in shown
    assert "sandbox" not in shown
    assert "exit code" not in shown
    assert "last output" not in shown


def test_sentences_say_where_a_conversation_stands() -> None:
    """Its URL only while something listens there."""
    assert conversation_sentence(conversation()).plain == "c1 is RUNNING at http://127.0.0.1:49153"
    paused = conversation(status=Status.PAUSED, observed=Observed.COLD)
    assert conversation_sentence(paused).plain == "c1 is PAUSED"
    assert conversation_sentence(failed("c1")).plain == "c1 is ERROR: exited: the sandbox exited with code 3"
    stopped = conversation(status=Status.STOPPED, observed=Observed.COLD)
    assert stopped_sentence(stopped, was_running=False).plain == "c1 was not running; it is STOPPED"


def test_daemon_details_tell_an_engine_that_does_not_answer() -> None:
    """And capacity without limit."""
    daemon = Daemon(
        *("conversationd", "0.1.0", "conversation-control.v1", 7, NOW, 90.0, "abc"),
        EngineStatus(False, None, None, "docker", "no walls"),
        Capacity(1, 2, 0, 4),
        42,
    )
    lines = drawn(daemon_details(daemon)).splitlines()
    assert "engine      docker does not answer, version ?, API ?" in lines
    assert "caution     no walls" in lines
    assert "active      1, without limit" in lines
    assert "starting    2 of at most 4" in lines
