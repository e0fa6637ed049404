"""Incidents: logged once with their traceback, and heard by who listens."""

import trio
from structlog.testing import capture_logs

from supervisor.conversation.errors import InternalError
from supervisor.conversation.ids import ConversationId
from supervisor.incidents import Incident, heard_by, report_incident
from supervisor.journal.changes import JournalError

C1 = ConversationId("c1")


def meet_a_bug() -> InternalError:
    """A bug at a boundary."""
    try:
        return report_incident("nothing.failed", str(1 // 0))
    except ZeroDivisionError:
        return report_incident("something.failed", "a.method", conversation=C1, detail=7)


def test_incident_is_logged_with_its_traceback_and_told_without() -> None:
    """The client's error has the number that the log has, and nothing of the cause."""
    with capture_logs() as logged:
        error = meet_a_bug()
    assert error.incident in error.message
    assert "division" not in error.message
    (line,) = logged
    assert (line["event"], line["incident"], line["where"], line["detail"]) == (
        "something.failed",
        error.incident,
        "a.method",
        7,
    )
    assert line["exc_info"] is True


def test_what_the_host_lacks_is_told_in_its_own_words() -> None:
    """It is no bug that somebody else could not see; a bug beside it hides it, as only the log can tell them apart."""
    full = JournalError("the journal cannot be written: it is full")
    with capture_logs() as logged:
        alone = report_incident("something.failed", "a.method", error=ExceptionGroup("", [full, full]))
        beside = report_incident("something.failed", "a.method", error=ExceptionGroup("", [full, ValueError("v")]))
    assert alone.message.startswith("the journal cannot be written: it is full; ")
    assert "journal cannot" not in beside.message
    assert [("exc_info" in line, line.get("error")) for line in logged] == [(False, str(full)), (True, None)]


async def test_listener_hears_of_its_own_tasks_and_no_others() -> None:
    """Also of tasks that were started while it listened; not before, not after."""
    heard: list[Incident] = []

    async def fail(where: str) -> None:
        await trio.lowlevel.checkpoint()
        report_incident("something.failed", where, error=RuntimeError())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail, "before")
        with heard_by(heard.append):
            nursery.start_soon(fail, "child")
            await fail("here")
        nursery.start_soon(fail, "after")
    assert sorted(incident.where for incident in heard) == ["child", "here"]
    assert len({incident.id for incident in heard}) == 2
