"""Every method of the protocol, from the wire to the service and back."""

import json

import pytest

from supervisor.control.messages import Json
from supervisor.control.service import StartRequest
from supervisor.conversation.errors import ConversationdError, InternalError, InvalidTransition, NotFound
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.spec import SpecOverrides
from tests.control.clients import Running, ask, websocket
from tests.control.scripted_service import SESSION_KEY

C1 = ConversationId("c1")


@pytest.mark.parametrize(
    ("method", "params", "called"),
    [
        ("conversation.pause", {"id": "c1", "timeout": 2}, ("pause", C1, 2.0)),
        ("conversation.resume", {"id": "c1"}, ("resume", C1, None)),
        ("conversation.stop", {"id": "c1", "force": True}, ("stop", C1, None, True)),
        ("conversation.restart", {"id": "c1", "force": False, "timeout": 0.5}, ("restart", C1, 0.5, False)),
        ("conversation.archive", {"id": "c1"}, ("archive", C1, None)),
        ("conversation.delete", {"id": "c1"}, ("delete", C1)),
        ("conversation.get", {"id": "c1"}, ("get", C1)),
        ("conversation.list", {}, ("list", (), {}, 100, None)),
        (
            "conversation.list",
            {"status": ["ERROR"], "labels": {"a": "b"}, "limit": 5, "cursor": "x"},
            ("list", (Status.ERROR,), {"a": "b"}, 5, "x"),
        ),
        ("conversation.connect", {"id": "c1"}, ("connect", C1)),
        ("conversation.history", {"id": "c1", "since": 3, "limit": 9}, ("history", C1, 3, 9)),
        ("conversation.start", {}, ("start", StartRequest())),
        (
            "conversation.start",
            {
                "id": "c1", "agent": "none", "spec": {"image": "i"}, "request": {"a": 1}, "labels": {"l": "v"},
                "wait": False, "timeout": 9, "idempotency_key": "k",
            },
            (
                "start",
                StartRequest(C1, "none", SpecOverrides(image="i"), Json({"a": 1}), {"l": "v"}, False, 9.0, "k"),
            ),
        ),
    ],
)  # fmt: skip
async def test_method_asks_the_service(
    running: Running, method: str, params: dict[str, object], called: tuple[object, ...]
) -> None:
    """With what the caller said, typed."""
    async with websocket(running.unix) as client:
        assert "result" in await ask(client, method, params)
    assert running.service.calls == [called]


async def test_results_are_the_protocols(running: Running) -> None:
    """Those that are not just a Conversation."""
    async with websocket(running.unix) as client:
        stopped = (await ask(client, "conversation.stop", {"id": "c1"}))["result"]
        assert (stopped["status"], stopped["was_running"]) == ("STOPPED", True)
        page = (await ask(client, "conversation.list"))["result"]
        assert ([one["id"] for one in page["items"]], page["next_cursor"]) == (["c1", "c2"], "c2")
        assert (await ask(client, "conversation.delete", {"id": "c1"}))["result"] == {}
        access = (await ask(client, "conversation.connect", {"id": "c1"}))["result"]
        assert access == {"url": "http://127.0.0.1:49153", "session_api_key": SESSION_KEY}
        events = (await ask(client, "conversation.history", {"id": "c1"}))["result"]["events"]
        assert [one["seq"] for one in events] == [1, 2]
        info = (await ask(client, "daemon.info"))["result"]
        assert info == {
            "name": "conversationd",
            "version": "0.1.0",
            "protocol": "conversation-control.v1",
            "pid": 7,
            "started_at": "2025-11-22T12:30:15.000042Z",
            "uptime": 1.5,
            "instance": "abc",
            "engine": {
                "reachable": True,
                "version": "20.10",
                "api_version": "1.41",
                "provider": "docker",
                "caution": "no walls",
            },
            "capacity": {"running": 1, "starting": 2, "max_running": 3, "max_starting": 4},
            "seq": 42,
        }


@pytest.mark.parametrize(
    ("failure", "data"),
    [
        (NotFound("no"), {"code": "not_found"}),
        (
            InvalidTransition("no", Status.STOPPED, Command.RESUME, "restart"),
            {"code": "invalid_transition", "status": "STOPPED", "command": "resume", "hint": "restart"},
        ),
        (InternalError("a bug", "abc"), {"code": "internal", "incident": "abc"}),
    ],
)
async def test_errors_of_the_service_reach_the_caller(
    running: Running, failure: ConversationdError, data: dict[str, object]
) -> None:
    """With their message and their data."""
    running.service.failure = failure
    async with websocket(running.unix) as client:
        answer = await ask(client, "conversation.resume", {"id": "c1"}, "my-id")
    assert answer == {
        "jsonrpc": "2.0",
        "id": "my-id",
        "error": {"code": -32000, "message": failure.message, "data": data},
    }


@pytest.mark.parametrize("method", ["conversation.get", "conversation.pause", "events.subscribe"])
async def test_bug_behind_a_method_is_an_incident(
    running: Running, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    """The caller gets a number, the log the traceback, and the connection goes on."""
    running.service.failure = RuntimeError("the secret cause")
    async with websocket(running.unix) as client:
        answer = await ask(client, method, {} if method.startswith("events") else {"id": "c1"})
        data = answer["error"]["data"]
        assert data["code"] == "internal"
        assert len(data["incident"]) == 12
        assert "secret" not in json.dumps(answer)
        running.service.failure = None
        assert "result" in await ask(client, "daemon.info")
    logged = capsys.readouterr().out
    assert data["incident"] in logged
    assert "the secret cause" in logged


async def test_bad_parameters_are_named(running: Running) -> None:
    """By their path, the spec's own too; an unknown method by its name, shortened."""
    async with websocket(running.unix) as client:
        answer = await ask(client, "conversation.start", {"labels": {"x": 1}})
        assert (answer["error"]["code"], answer["error"]["data"]) == (-32602, {"path": "labels.x"})
        answer = await ask(client, "conversation.start", {"spec": {"memory": 1}})
        assert (answer["error"]["code"], answer["error"]["data"]) == (-32602, {"path": "spec.image"})
        answer = await ask(client, "x" * 1000)
        assert answer["error"]["code"] == -32601
        assert len(answer["error"]["message"]) < 100
    assert running.service.calls == []
