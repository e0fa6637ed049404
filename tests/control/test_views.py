"""What clients see."""

import json
from datetime import datetime, timedelta, timezone

import trio

from supervisor.control import views
from supervisor.control.service import AgentAccess, ConversationPage, Stopped
from supervisor.control.wire import encode_failure
from supervisor.conversation.errors import HistoryGone, InvalidTransition, NotFound, SandboxFailed
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import ExecutionStatus, Failure, FailureCode, Observed, Phase
from tests.control.scripted_service import NOW, SESSION_KEY, make_event, make_record

SHOWN = "2025-11-22T12:30:15.000042Z"


def test_conversation_is_exactly_the_protocols_object() -> None:
    """Every key, and none besides."""
    assert json.loads(views.encode_conversation(make_record(labels={"a": "b"}))) == {
        "id": "c1",
        "agent": "v1",
        "status": "RUNNING",
        "phase": None,
        "execution_status": None,
        "observed": "live",
        "incarnation": 1,
        "restarts": 0,
        "next_restart_at": None,
        "sandbox": {
            "provider": "docker",
            "id": "3f2a",
            "name": "conv-c1",
            "url": "http://127.0.0.1:49153",
            "image": "img:1",
        },
        "error": None,
        "labels": {"a": "b"},
        "created_at": SHOWN,
        "updated_at": SHOWN,
        "last_active_at": SHOWN,
    }


async def test_big_snapshot_lets_others_have_their_turns() -> None:
    """However many conversations it has, and their text is the same."""
    records = [make_record(f"c{number}") for number in range(1050)]
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        text = await views.encode_snapshot(records)
        nursery.cancel_scope.cancel()
    assert turns >= 10
    assert text == views.encode_conversations(records)
    assert await views.encode_snapshot([]) == "[]"


def test_conversation_shows_a_failure_with_what_is_known_of_it() -> None:
    """Exit code, OOM flag and log tail are there when they are known."""
    whole = Failure(FailureCode.EXITED, "it exited", NOW, 137, True, ("last",))
    bare = Failure(FailureCode.UNHEALTHY, "no answer", NOW)
    record = make_record(
        status=Status.ERROR,
        phase=Phase.BOOT,
        execution_status=ExecutionStatus.IDLE,
        observed=Observed.COLD,
        error=whole,
        next_restart_at=NOW,
        sandbox=None,
    )
    shown = json.loads(views.encode_conversation(record))
    assert shown["error"] == {
        "code": "exited", "message": "it exited", "at": SHOWN, "exit_code": 137, "oom_killed": True,
        "log_tail": ["last"],
    }  # fmt: skip
    assert (shown["next_restart_at"], shown["sandbox"], shown["phase"]) == (SHOWN, None, "boot")
    shown = json.loads(views.encode_conversation(make_record(error=bare)))
    assert shown["error"] == {"code": "unhealthy", "message": "no answer", "at": SHOWN}


def test_session_key_is_in_connect_and_nowhere_else() -> None:
    """A conversation never carries its secrets."""
    record = make_record(request={"api_key": "k"})
    texts = [
        views.encode_conversation(record),
        views.encode_stopped(Stopped(record, was_running=True)),
        views.encode_page(ConversationPage((record,), None)),
    ]
    assert not any(SESSION_KEY in text or "api_key" in text for text in texts)
    assert json.loads(views.encode_access(AgentAccess("u", SESSION_KEY))) == {
        "url": "u",
        "session_api_key": SESSION_KEY,
    }


def test_event_is_encoded_once_for_all_subscribers() -> None:
    """A thousand subscribers share one text."""
    first = views.encode_event_frame("s1", make_event(5, data='{"to":"RUNNING"}'))
    again = views.encode_event_frame("s1", make_event(5, data='{"to":"RUNNING"}'))
    assert first is again
    assert json.loads(first) == {
        "jsonrpc": "2.0",
        "method": "event",
        "params": {
            "subscription": "s1",
            "event": {"seq": 5, "at": SHOWN, "conversation": "c1", "kind": "status", "data": {"to": "RUNNING"}},
        },
    }


def test_event_with_text_that_is_not_ascii_goes_out_as_ascii() -> None:
    """The outbox counts characters, so every frame is ASCII; half characters become whole."""
    text = views.encode_event(make_event(6, None, '{"a":"é","b":"\\ud800"}'))
    assert text.isascii()
    assert json.loads(text)["data"] == {"a": "é", "b": "\ufffd"}
    assert json.loads(views.encode_event(make_event(7, None, '{"b":"\\ud800"}')))["data"] == {"b": "\ufffd"}


def test_failure_carries_the_errors_code_and_fields() -> None:
    """Absent fields are left out."""
    gone = views.failure_of(HistoryGone("gone", 7))
    assert (gone.code, gone.message, gone.data) == (-32000, "gone", {"code": "history_gone", "oldest": 7})
    refused = views.failure_of(InvalidTransition("no", Status.STOPPED, Command.START, "restart"))
    assert refused.data == {"code": "invalid_transition", "status": "STOPPED", "command": "start", "hint": "restart"}
    frame = json.loads(encode_failure(1, views.failure_of(SandboxFailed("x", 1, None, ("a",)))))
    assert frame["error"]["data"] == {"code": "sandbox_failed", "exit_code": 1, "log_tail": ["a"]}
    assert views.failure_of(NotFound("x")).data == {"code": "not_found"}


def test_time_is_utc_with_microseconds_from_any_zone() -> None:
    """A zone of another kind than ours means the same moment; whole seconds keep their zeros."""
    at = datetime(2025, 1, 1, 2, 0, tzinfo=timezone(timedelta(hours=2)))
    assert views.format_time(at) == "2025-01-01T00:00:00.000000Z"
