import json

import pytest

from supervisor.agent.wire import Garbled, StatusEvent, parse_conversation, parse_event, parse_message_page
from supervisor.conversation.record import ExecutionStatus
from tests.agent.stub import change, full


@pytest.mark.parametrize("word", list(ExecutionStatus))
def test_parse_conversation_knows_every_status(word: str) -> None:
    """Every word of ours is read; keys that we do not know are fine."""
    assert parse_conversation(json.dumps({"execution_status": word, "more": 1}).encode()).status is ExecutionStatus(
        word
    )


def test_parse_conversation_has_no_status_for_a_new_word() -> None:
    """A status that servers invent is none of ours."""
    assert parse_conversation(b'{"execution_status": "deleting"}').status is None


@pytest.mark.parametrize(
    "body", [b"", b"no json", b"\xff", b"[]", b"null", b"{}", b'{"execution_status": 5}', b'"text"', b"[" * 100_000]
)
def test_parse_conversation_refuses_garbage(body: bytes) -> None:
    """Whatever comes, only `Garbled` is raised."""
    with pytest.raises(Garbled):
        parse_conversation(body)


@pytest.mark.parametrize(
    ("body", "waits"),
    [
        (b'{"items": []}', False),
        (b'{"items": [{"source": "user"}]}', True),
        (b'{"items": [{"source": "agent"}]}', False),
    ],
)
def test_parse_message_page_says_who_spoke_last(body: bytes, waits: bool) -> None:
    """Only a user's last word waits for an answer."""
    assert parse_message_page(body).ends_with_user is waits


@pytest.mark.parametrize("body", [b"{}", b'{"items": 1}', b'{"items": [1]}', b'{"items": [{"source": null}]}'])
def test_parse_message_page_refuses_garbage(body: bytes) -> None:
    """Whatever comes, only `Garbled` is raised."""
    with pytest.raises(Garbled):
        parse_message_page(body)


def test_parse_event_reads_changes_and_snapshots() -> None:
    """Both kinds of state updates tell the status, as text or as bytes."""
    assert parse_event(change("running")) == StatusEvent(ExecutionStatus.RUNNING, full=False)
    assert parse_event(full("paused").encode()) == StatusEvent(ExecutionStatus.PAUSED, full=True)
    assert parse_event(full("deleting")) == StatusEvent(None, full=True)


@pytest.mark.parametrize(
    "frame",
    [
        "",
        b"\xff\xfe",
        "[]",
        "7",
        "[" * 100_000,
        '{"kind": "PauseEvent"}',
        '{"kind": ["ConversationStateUpdateEvent"], "key": "execution_status", "value": "running"}',
        '{"kind": "ConversationStateUpdateEvent", "key": "stats", "value": {}}',
        '{"kind": "ConversationStateUpdateEvent", "key": "execution_status", "value": null}',
        '{"kind": "ConversationStateUpdateEvent", "key": "full_state", "value": "running"}',
        '{"kind": "ConversationStateUpdateEvent", "key": "full_state", "value": {"execution_status": 1}}',
    ],
)
def test_parse_event_passes_over_everything_else(frame: str | bytes) -> None:
    """Other events and garbage tell nothing and harm nothing."""
    assert parse_event(frame) is None
