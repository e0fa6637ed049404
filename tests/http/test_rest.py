"""Every route, over a scripted service."""

from datetime import timedelta
from typing import Any

import attrs
import httpx2 as httpx
import pytest

from supervisor.control.service import AgentAccess, StartRequest
from supervisor.conversation.errors import InvalidTransition, NotFound
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import ExecutionStatus, Failure, FailureCode, Phase
from supervisor.conversation.spec import SpecOverrides
from supervisor.http.spec_schema import SPEC_SCHEMA
from supervisor.http.views import show
from tests.control.scripted_service import NOW, SESSION_KEY, ScriptedService, make_record
from tests.http.clients import Running

BOTH = pytest.mark.parametrize("prefix", ["/conversations", "/api/conversations"])


@BOTH
async def test_get_shows_a_running_conversation_with_its_key(
    client: httpx.AsyncClient, running: Running, prefix: str
) -> None:
    """All fields, and only here the way to its agent server."""
    answer = await client.get(f"{prefix}/c1")
    assert answer.status_code == 200
    assert answer.json() == {
        "conversation_id": "c1",
        "title": "Conversation c1",
        "status": "RUNNING",
        "runtime_status": "STATUS$READY",
        "url": "http://127.0.0.1:49153",
        "session_api_key": "the-session-key",
        "created_at": "2025-11-22T12:30:15.000042Z",
        "last_updated_at": "2025-11-22T12:30:15.000042Z",
        "conversation_version": "V1",
        "execution_status": None,
        "agent_state": "LOADING",
        "error": None,
    }
    assert running.service.calls == [("get", "c1"), ("connect", "c1")]


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.RUNNING])
async def test_get_gives_no_key_of_what_does_not_run(
    client: httpx.AsyncClient, running: Running, status: Status
) -> None:
    """It is not even asked for."""
    running.service.record = make_record(status=status)
    answer = (await client.get("/conversations/c1")).json()
    assert (answer["status"], answer["url"], answer["session_api_key"]) == (status, None, None)
    assert running.service.calls == [("get", "c1")]


class _Leaving(ScriptedService):
    """A conversation that stops between two questions, or has no port."""

    refusal: Exception = NotFound("no port")

    async def connect(self, conversation: ConversationId) -> AgentAccess:
        """Too late."""
        self.record = make_record(conversation, status=Status.STOPPED)
        raise self.refusal


class TestLeaving:
    """What is asked for is not there any more."""

    @pytest.fixture
    def service(self) -> _Leaving:
        """The service behind the server."""
        return _Leaving()

    @pytest.mark.parametrize("refusal", [NotFound("no port"), InvalidTransition("no", Status.STOPPED, Command.CONNECT)])
    async def test_get_shows_what_stopped_meanwhile_as_it_is_now(
        self, client: httpx.AsyncClient, running: Running, refusal: Exception
    ) -> None:
        """Never RUNNING without a way to reach it because of a race."""
        assert isinstance(running.service, _Leaving)
        running.service.refusal = refusal
        answer = await client.get("/conversations/c1")
        assert (answer.status_code, answer.json()["status"], answer.json()["url"]) == (200, "STOPPED", None)


async def test_session_key_is_nowhere_but_in_get(client: httpx.AsyncClient) -> None:
    """Lists and the answers to commands have none."""
    answers = [await client.get("/conversations")]
    answers += [await client.post("/conversations", json={})]
    answers += [await client.post(f"/conversations/c1/{name}") for name in ("start", "stop", "restart", "archive")]
    assert all(answer.status_code == 200 for answer in answers)
    assert all(SESSION_KEY not in answer.text for answer in answers)


async def test_paused_is_stopped_for_clients_that_know_five_statuses(
    client: httpx.AsyncClient, running: Running
) -> None:
    """Only if they say so."""
    running.service.record = make_record(status=Status.PAUSED)
    assert (await client.get("/conversations/c1")).json()["status"] == "PAUSED"
    assert (await client.get("/conversations/c1?legacy_status=1")).json()["status"] == "STOPPED"


@pytest.mark.parametrize(
    ("execution", "state"),
    [
        (None, "LOADING"),
        (ExecutionStatus.IDLE, "AWAITING_USER_INPUT"),
        (ExecutionStatus.RUNNING, "RUNNING"),
        (ExecutionStatus.PAUSED, "PAUSED"),
        (ExecutionStatus.WAITING_FOR_CONFIRMATION, "AWAITING_USER_CONFIRMATION"),
        (ExecutionStatus.FINISHED, "FINISHED"),
        (ExecutionStatus.ERROR, "ERROR"),
        (ExecutionStatus.STUCK, "ERROR"),
    ],
)
def test_show_says_what_the_agent_does_in_both_words(execution: ExecutionStatus | None, state: str) -> None:
    """Every execution status has its agent state."""
    shown = show(make_record(execution_status=execution), None, legacy=False)
    assert (shown.execution_status, shown.agent_state) == (execution, state)


@pytest.mark.parametrize(
    ("status", "phase", "told"),
    [
        (Status.STARTING, None, "STATUS$STARTING_RUNTIME"),
        (Status.STARTING, Phase.IMAGE, "STATUS$BUILDING_RUNTIME"),
        (Status.STARTING, Phase.CREATE, "STATUS$STARTING_RUNTIME"),
        (Status.STARTING, Phase.BOOT, "STATUS$RUNTIME_STARTED"),
        (Status.STARTING, Phase.AGENT, "STATUS$SETTING_UP_WORKSPACE"),
        (Status.RUNNING, None, "STATUS$READY"),
        (Status.PAUSED, None, "STATUS$STOPPED"),
        (Status.STOPPED, None, "STATUS$STOPPED"),
        (Status.ARCHIVED, None, "STATUS$STOPPED"),
        (Status.ERROR, None, "STATUS$ERROR"),
    ],
)
def test_show_says_how_far_the_sandbox_is(status: Status, phase: Phase | None, told: str) -> None:
    """Every status and phase has its runtime status."""
    assert show(make_record(status=status, phase=phase), None, legacy=False).runtime_status == told


def test_show_tells_title_version_times_and_error() -> None:
    """The title is a label; half characters that a sandbox printed are replaced, so that every client can read them."""
    failure = Failure(FailureCode.OOM_KILLED, "out of memory \udc80", NOW, 137, True, ("last", "\ud800 words"))
    later = NOW + timedelta(seconds=1)
    record = make_record(labels={"title": "Größe"}, agent="v0", error=failure, updated_at=later)
    shown = show(record, None, legacy=False)
    assert (shown.title, shown.conversation_version) == ("Größe", "V0")
    assert (shown.created_at, shown.last_updated_at) == ("2025-11-22T12:30:15.000042Z", "2025-11-22T12:30:16.000042Z")
    assert shown.error is not None
    assert shown.error.model_dump() == {
        "code": "oom_killed",
        "message": "out of memory \ufffd",
        "at": "2025-11-22T12:30:15.000042Z",
        "exit_code": 137,
        "oom_killed": True,
        "log_tail": ["last", "\ufffd words"],
    }


@BOTH
async def test_create_takes_the_start_body(client: httpx.AsyncClient, running: Running, prefix: str) -> None:
    """Every key of it reaches the service."""
    body = {
        "id": "c9",
        "agent": "none",
        "spec": {"image": "img:2"},
        "request": {"initial_message": {"content": [{"text": "héllo"}]}},
        "labels": {"title": "T"},
        "wait": False,
        "timeout": 12,
        "idempotency_key": "k",
    }
    answer = await client.post(prefix, json=body)
    assert answer.json() == {
        "status": "ok",
        "conversation_id": "c9",
        "message": "Conversation is RUNNING",
        "conversation_status": "RUNNING",
    }
    expected = StartRequest(
        ConversationId("c9"),
        "none",
        SpecOverrides(image="img:2"),
        {"initial_message": {"content": [{"text": "héllo"}]}},
        {"title": "T"},
        False,
        12.0,
        "k",
    )
    assert running.service.calls == [("start", expected)]


@BOTH
@pytest.mark.parametrize("body", [None, {}, {"providers_set": ["github"]}])
async def test_start_takes_the_id_of_its_path_and_what_front_ends_send(
    client: httpx.AsyncClient, running: Running, prefix: str, body: dict[str, Any] | None
) -> None:
    """No body, an empty one, or the providers of OpenHands' front end."""
    answer = await client.post(f"{prefix}/c7/start", json=body)
    assert (answer.status_code, answer.json()["conversation_id"]) == (200, "c7")
    assert running.service.calls == [("start", StartRequest(ConversationId("c7")))]


async def test_idempotency_key_may_come_as_header(client: httpx.AsyncClient, running: Running) -> None:
    """It goes before the one in the body."""
    for body in ({}, {"idempotency_key": "k"}, {"idempotency_key": "other"}):
        await client.post("/conversations", json=body, headers={"Idempotency-Key": "k"})
    assert running.service.calls == [("start", StartRequest(idempotency_key="k"))] * 3


@BOTH
@pytest.mark.parametrize("name", ["pause", "resume"])
async def test_pause_and_resume_answer_success(
    client: httpx.AsyncClient, running: Running, prefix: str, name: str
) -> None:
    """With or without a deadline."""
    assert (await client.post(f"{prefix}/c1/{name}")).json() == {"success": True}
    assert (await client.post(f"{prefix}/c1/{name}", json={"timeout": 2.5})).json() == {"success": True}
    assert running.service.calls == [(name, "c1", None), (name, "c1", 2.5)]


@BOTH
async def test_stop_says_whether_it_ran(client: httpx.AsyncClient, running: Running, prefix: str) -> None:
    """In the words that clients know; `force` is taken from the body or the query."""
    expected = {
        "status": "ok",
        "conversation_id": "c1",
        "message": "Conversation stopped successfully",
        "conversation_status": "STOPPED",
    }
    assert (await client.post(f"{prefix}/c1/stop")).json() == expected
    asked = ("?force=true", None), ("", {"force": True}), ("?force=1", {"force": False, "timeout": 3})
    for query, body in asked:
        await client.post(f"{prefix}/c1/stop{query}", json=body)
    assert [call[2:] for call in running.service.calls] == [(None, False), (None, True), (None, True), (3.0, True)]


@BOTH
async def test_restart_archive_and_delete_answer(client: httpx.AsyncClient, running: Running, prefix: str) -> None:
    """Each is one call of the service."""
    restarted = (await client.post(f"{prefix}/c1/restart", json={"force": True})).json()
    assert (restarted["status"], restarted["conversation_status"]) == ("ok", "RUNNING")
    assert (await client.post(f"{prefix}/c1/archive")).json()["conversation_status"] == "ARCHIVED"
    assert (await client.delete(f"{prefix}/c1")).json() == {"success": True}
    assert running.service.calls == [("restart", "c1", None, True), ("archive", "c1", None), ("delete", "c1")]


@BOTH
async def test_list_goes_page_by_page(client: httpx.AsyncClient, running: Running, prefix: str) -> None:
    """With the names that OpenHands' clients use, and a filter of statuses."""
    first = (await client.get(prefix, params={"limit": 2, "status": ["RUNNING", "PAUSED"]})).json()
    assert [one["conversation_id"] for one in first["results"]] == ["c1", "c2"]
    last = (await client.get(prefix, params={"page_id": first["next_page_id"]})).json()
    assert [one["conversation_id"] for one in last["results"]] == ["c3"]
    assert last["next_page_id"] is None
    assert running.service.calls == [
        ("list", (Status.RUNNING, Status.PAUSED), {}, 2, None),
        ("list", (), {}, 100, "c2"),
    ]


async def test_list_of_what_is_stopped_has_what_is_shown_so(client: httpx.AsyncClient, running: Running) -> None:
    """A client that knows five statuses would find what is PAUSED in none of its lists."""
    await client.get("/conversations", params={"status": "STOPPED", "legacy_status": "1"})
    await client.get("/conversations", params={"status": "RUNNING", "legacy_status": "1"})
    assert [call[1] for call in running.service.calls] == [(Status.STOPPED, Status.PAUSED), (Status.RUNNING,)]


async def test_openapi_document_is_published_and_complete(client: httpx.AsyncClient) -> None:
    """Every route with its own name, the error body everywhere, keys, and none of FastAPI's own 422."""
    document = (await client.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    assert len({one["operationId"] for one in operations}) == len(operations) == 41
    assert all("422" not in one["responses"] and "401" in one["responses"] for one in operations)
    assert {"name": "X-API-Key", "in": "header", "type": "apiKey"} in document["components"]["securitySchemes"].values()
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_document_knows_every_key_of_a_spec() -> None:
    """A key that is added to specs is added to the document."""
    (schema, _) = SPEC_SCHEMA["anyOf"]
    assert isinstance(schema, dict)
    assert set(schema["properties"]) == {field.name for field in attrs.fields(SpecOverrides)}


async def test_no_page_loads_scripts_from_elsewhere(client: httpx.AsyncClient) -> None:
    """There are no pages at all."""
    for target in ("/docs", "/redoc", "/"):
        assert (await client.get(target)).status_code == 404


def test_models_do_not_show_secrets() -> None:
    """What is logged or raised has no session key."""
    shown = show(make_record(), AgentAccess("http://127.0.0.1:1", SESSION_KEY), legacy=False)
    assert SESSION_KEY not in repr(shown)
