"""The table of errors: every row of it, as an HTTP client gets it."""

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import httpx2 as httpx
import pytest
import trio
from structlog.testing import capture_logs

from supervisor.conversation.errors import (
    AgentRefused,
    AgentUnavailable,
    Busy,
    CapacityExceeded,
    CommandTimeout,
    Conflict,
    ConversationdError,
    EngineUnavailable,
    ErrorCode,
    Forbidden,
    HistoryGone,
    ImageUnavailable,
    InternalError,
    InvalidTransition,
    NotFound,
    SandboxFailed,
    ShuttingDown,
    Unauthorized,
)
from supervisor.conversation.lifecycle import Command, Status
from supervisor.http.failures import STATUS_OF, Containment, answer_to
from supervisor.incidents import Incident, heard_by
from tests.http.clients import Running, error_of

Row: TypeAlias = tuple[ConversationdError, int, str, dict[str, Any]]
ROWS: Final[list[Row]] = [
    (NotFound("m"), 404, "not_found", {}),
    (
        InvalidTransition("m", Status.STOPPED, Command.PAUSE, "restart"),
        409,
        "invalid_transition",
        {"status": "STOPPED", "command": "pause", "hint": "restart"},
    ),
    (Conflict("m"), 409, "conflict", {}),
    (Unauthorized("m"), 401, "unauthorized", {}),
    (Forbidden("m", "spec.image"), 403, "forbidden", {"path": "spec.image"}),
    (HistoryGone("m", 7), 410, "history_gone", {"oldest": 7}),
    (CapacityExceeded("m", 2.5), 429, "capacity_exceeded", {"retry_after": 2.5}),
    (Busy("m"), 429, "busy", {}),
    (EngineUnavailable("m"), 503, "engine_unavailable", {}),
    (ShuttingDown("m"), 503, "shutting_down", {}),
    (CommandTimeout("m"), 504, "timeout", {}),
    (SandboxFailed("m", 137, True, ("last",)), 500, "sandbox_failed", {"exit_code": 137, "oom_killed": True}),
    (AgentUnavailable("m"), 500, "sandbox_failed", {}),
    (ImageUnavailable("m"), 500, "image_unavailable", {}),
    (AgentRefused("m", 422, "no"), 500, "agent_refused", {"status": 422, "body": "no"}),
    (InternalError("m", "abc123"), 500, "internal", {"incident": "abc123"}),
]
RETRIES = {"capacity_exceeded": "3", "busy": "1", "shutting_down": "5"}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: type(row[0]).__name__)
async def test_error_has_its_status_and_its_data(client: httpx.AsyncClient, running: Running, row: Row) -> None:
    """The status of the table, the code and the fields of the channel, and when to come again where that is known."""
    error, status, code, data = row
    running.service.failure = error
    answer = await client.post("/api/conversations/c1/resume")
    assert answer.status_code == status
    told = error_of(answer)
    assert (told["code"], told["message"]) == (code, "m")
    assert {name: told[name] for name in data} == data
    assert answer.headers.get("retry-after") == RETRIES.get(code)
    assert ("incident" in told) == (status == 500)


def test_every_code_of_the_protocol_has_a_status() -> None:
    """A new code cannot be forgotten; and every status of the table is one that is meant."""
    assert set(STATUS_OF) == set(ErrorCode)
    assert {row[2] for row in ROWS} == set(ErrorCode)


async def test_bug_is_told_by_its_incident_and_logged_with_its_traceback(
    client: httpx.AsyncClient, running: Running
) -> None:
    """No word of what it was leaves the log."""
    running.service.failure = RuntimeError("the-secret-reason")
    with capture_logs() as logs:
        answer = await client.get("/conversations/c1")
    told = error_of(answer)
    assert (answer.status_code, told["code"]) == (500, "internal")
    assert "the-secret-reason" not in answer.text
    assert "Traceback" not in answer.text
    (line,) = [line for line in logs if line["event"] == "http.request_failed"]
    assert line["incident"] == told["incident"]
    assert str(line["exc_info"]) == "the-secret-reason"


def test_what_ends_as_500_is_an_incident_once() -> None:
    """The alerts hear of it, by its code; of what was reported where it happened they have heard already."""
    heard: list[Incident] = []
    errors = (SandboxFailed("m", 137, True, ()), RuntimeError("m"), InternalError("m", "abc123"), NotFound("m"))
    with heard_by(heard.append), capture_logs():
        told = [answer_to(error).error for error in errors]
    assert [incident.where for incident in heard] == ["http: sandbox_failed", "http"]
    assert [error.get("incident") for error in told] == [heard[0].id, heard[1].id, "abc123", None]


@pytest.mark.parametrize(
    ("request_line", "body", "path"),
    [
        ("POST /conversations", {"nonsense": 1}, "nonsense"),
        ("POST /conversations", {"id": "-x"}, "id"),
        ("POST /conversations", {"labels": {"a": 1}}, "labels.a"),
        ("POST /conversations", {"labels": {"a": "\0"}}, "labels.a"),
        ("POST /conversations", {"wait": "yes"}, "wait"),
        ("POST /conversations", {"timeout": 0}, "timeout"),
        ("POST /conversations", {"timeout": True}, "timeout"),
        ("POST /conversations", {"spec": {"memory": 1}}, "spec.image"),
        ("POST /conversations", {"request": []}, "request"),
        ("POST /conversations", {"providers_set": [1]}, "providers_set[0]"),
        ("POST /conversations", [], ""),
        ("POST /conversations/c1/start", {"id": "c1"}, "id"),
        ("POST /conversations/-x/start", {}, "conversation_id"),
        ("POST /conversations/c1/pause", {"force": True}, "force"),
        ("POST /conversations/c1/stop?force=perhaps", {}, "force"),
        ("GET /conversations?limit=0", None, "limit"),
        ("GET /conversations?limit=1001", None, "limit"),
        ("GET /conversations?status=ASLEEP", None, "status[0]"),
        ("GET /conversations/c1?legacy_status=2", None, "legacy_status"),
        (f"GET /conversations/{'x' * 65}", None, "conversation_id"),
        ("GET /api/events?since=-1", None, "since"),
        ("GET /api/events?ids=a&ids=-b", None, "ids[1]"),
    ],
)
async def test_what_does_not_validate_is_told_with_its_path(
    client: httpx.AsyncClient, running: Running, request_line: str, body: object, path: str
) -> None:
    """400, and nothing is asked of the service."""
    answer = await client.request(*request_line.split(), json=body)
    told = error_of(answer)
    assert (answer.status_code, told["code"], told["path"]) == (400, "invalid_params", path)
    assert told["message"].startswith(path)
    assert running.service.calls == []


@pytest.mark.parametrize(
    "body",
    [b"{", b"\xff", b'{"timeout": NaN}', b'{"timeout": 1e999}', b'{"agent": "\\ud800"}', b"[" * 5000 + b"]" * 5000],
)
async def test_what_is_no_json_is_told(client: httpx.AsyncClient, body: bytes) -> None:
    """The channel's own reader judges: whole characters, finite numbers, bounded depth."""
    answer = await client.post("/conversations", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, error_of(answer)["path"]) == (400, "")


async def test_body_that_is_no_json_by_its_type_is_refused(client: httpx.AsyncClient, running: Running) -> None:
    """A form is not taken for nothing."""
    answer = await client.post("/conversations/c1/stop", data={"force": "true"})
    assert answer.status_code == 400
    assert "application/json" in error_of(answer)["message"]
    assert running.service.calls == []


async def test_unknown_route_and_method_are_told(client: httpx.AsyncClient) -> None:
    """404 and 405 look like every other error."""
    unknown = await client.get("/nothing")
    assert (unknown.status_code, error_of(unknown)["code"]) == (404, "not_found")
    wrong = await client.put("/conversations/c1")
    assert (wrong.status_code, error_of(wrong)["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "DELETE, GET"
    plain = await client.put("/api/v1/sandboxes/search")
    assert plain.headers["allow"] == "GET"


async def test_containment_answers_only_what_is_not_answered_yet() -> None:
    """After half an answer there is nothing to say any more."""
    sent: list[Mapping[str, Any]] = []

    async def send(message: Mapping[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    async def fails_half_way(scope: Any, receive: Any, send: Any) -> None:  # noqa: ANN401 - ASGI
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise RuntimeError("half way")

    async def receive() -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        raise AssertionError("nobody asks")

    await Containment(fails_half_way)({"type": "http"}, receive, send)  # type: ignore[arg-type] # fewer types than ASGI's
    assert [message["type"] for message in sent] == ["http.response.start"]
