"""Parameters of methods, read strictly."""

import pytest

from supervisor.control import messages
from supervisor.control.messages import InvalidParams, structure_params
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Status

BAD: list[tuple[type, JsonObject, str]] = [
    (messages.Target, {}, "id"),
    (messages.Target, {"id": "c1", "x": 1}, "x"),
    (messages.Target, {"id": "../etc"}, "id"),
    (messages.Target, {"id": "a/b"}, "id"),
    (messages.Target, {"id": ""}, "id"),
    (messages.Target, {"id": 1}, "id"),
    (messages.Target, {"id": None}, "id"),
    (messages.TimedCommand, {"id": "c1", "timeout": 0}, "timeout"),
    (messages.TimedCommand, {"id": "c1", "timeout": -1}, "timeout"),
    (messages.TimedCommand, {"id": "c1", "timeout": True}, "timeout"),
    (messages.TimedCommand, {"id": "c1", "timeout": "3"}, "timeout"),
    (messages.ForcibleCommand, {"id": "c1", "force": "false"}, "force"),
    (messages.ForcibleCommand, {"id": "c1", "force": 1}, "force"),
    (messages.Start, {"labels": []}, "labels"),
    (messages.Start, {"labels": {"x": 1}}, "labels.x"),
    (messages.Start, {"labels": {"x": "y" * 1025}}, "labels.x"),
    (messages.Start, {"labels": {"": "y"}}, "labels."),
    (messages.Start, {"labels": {"k" * 200: "y"}}, "labels." + "k" * 128),
    (messages.Start, {"labels": {str(number): "" for number in range(65)}}, "labels"),
    (messages.Start, {"spec": "x"}, "spec"),
    (messages.Start, {"request": [1]}, "request"),
    (messages.Start, {"wait": None}, "wait"),
    (messages.Start, {"agent": ""}, "agent"),
    (messages.Start, {"agent": 1}, "agent"),
    (messages.Start, {"idempotency_key": "k" * 257}, "idempotency_key"),
    (messages.ListConversations, {"limit": 0}, "limit"),
    (messages.ListConversations, {"limit": 1001}, "limit"),
    (messages.ListConversations, {"limit": 1.5}, "limit"),
    (messages.ListConversations, {"limit": True}, "limit"),
    (messages.ListConversations, {"cursor": 1}, "cursor"),
    (messages.ListConversations, {"status": "RUNNING"}, "status"),
    (messages.ListConversations, {"status": ["RUNNING", "running"]}, "status[1]"),
    (messages.ListConversations, {"status": [[]]}, "status[0]"),
    (messages.Logs, {"id": "c1", "tail": 10_001}, "tail"),
    (messages.Logs, {"id": "c1", "tail": -1}, "tail"),
    (messages.History, {"id": "c1", "since": 2**63}, "since"),
    (messages.Subscribe, {"ids": ["c1", "/"]}, "ids[1]"),
    (messages.Subscribe, {"ids": {"c1": 1}}, "ids"),
    (messages.Subscribe, {"ids": ["c"] * 1001}, "ids"),
    (messages.NoParams, {"a": 1}, "a"),
    (messages.Authenticate, {"token": 1}, "token"),
]


@pytest.mark.parametrize(("kind", "params", "path"), BAD)
def test_structure_names_the_parameter_that_is_wrong(kind: type, params: JsonObject, path: str) -> None:
    """Unknown, missing, of the wrong type or out of bounds: the path says which, the message what is allowed."""
    with pytest.raises(InvalidParams) as caught:
        structure_params(params, kind)
    assert caught.value.path == path
    assert str(caught.value) == f"{path} {caught.value.message}"


def test_structure_fills_in_defaults() -> None:
    """What is left out, or null where that means the same, is as the protocol says."""
    assert structure_params({"timeout": None, "labels": None}, messages.Start) == messages.Start()
    assert structure_params({}, messages.ListConversations).limit == 100


def test_structure_reads_everything_that_is_allowed() -> None:
    """Numbers of both kinds, lists and ids."""
    assert structure_params({"id": "c1", "timeout": 3}, messages.TimedCommand).timeout == 3.0
    assert structure_params({"status": ["ERROR"]}, messages.ListConversations).status == (Status.ERROR,)
    assert structure_params({"ids": ["a", "b"]}, messages.Subscribe).ids == (ConversationId("a"), ConversationId("b"))
    start = structure_params({"labels": {"a": "b"}, "request": {"a": [1]}}, messages.Start)
    assert start.labels == messages.Labels({"a": "b"})
    assert start.request == messages.Json({"a": [1]})


def test_structure_takes_an_enormous_timeout_for_a_long_one() -> None:
    """A number that no float can hold is still a number greater than 0."""
    assert structure_params({"id": "c1", "timeout": 10**400}, messages.TimedCommand).timeout == 1e9


def test_params_keep_secrets_out_of_their_text() -> None:
    """Neither tokens nor requests show in logs."""
    shown = repr(messages.Authenticate("secret")) + repr(messages.Start(request=messages.Json({"api_key": "secret"})))
    assert "secret" not in shown
