"""The V1 routes of conversations and their starts, over a scripted service."""

import uuid
from datetime import timedelta
from typing import Any

import attrs
import httpx2 as httpx
import pytest

from supervisor.agent.v1 import agent_conversation_id
from supervisor.control.service import StartRequest
from supervisor.conversation.errors import CapacityExceeded, ConversationdError, EngineUnavailable, SandboxFailed
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ExecutionStatus, Failure, FailureCode, Phase
from supervisor.http.server import HttpOptions
from tests.control.scripted_service import NOW, SESSION_KEY, make_record
from tests.http.v1_shelf import Shelf

ROUTE = "/api/v1/app-conversations"
HEX = "0123456789abcdef0123456789abcdef"
DASHED = str(uuid.UUID(HEX))
DEFAULTS: JsonObject = {
    "agent_settings": {"llm": {"model": "file", "api_key": "k", "usage_id": "agent"}, "tools": [{"name": "terminal"}]},
    "workspace": {"working_dir": "/workspace"},
    "max_iterations": 7,
}


@pytest.fixture
def service() -> Shelf:
    """The service behind the server."""
    return Shelf()


@pytest.fixture
def options(options: HttpOptions) -> HttpOptions:
    """With something that lies under every start."""
    return attrs.evolve(options, agent_request=lambda: DEFAULTS)


async def started(client: httpx.AsyncClient, service: Shelf, body: object) -> StartRequest:
    """What the service is asked for by a body."""
    answer = await client.post(ROUTE, json=body)
    assert answer.status_code == 200, answer.text
    (call,) = service.calls
    assert isinstance(call[1], StartRequest)
    return call[1]


async def test_start_answers_at_once_with_its_task(client: httpx.AsyncClient, service: Shelf) -> None:
    """The front end's own body: nulls for what it does not want. The task is the conversation, by its id."""
    message: JsonObject = {"role": "user", "content": [{"type": "text", "text": "Do it."}]}
    absent = ("selected_repository", "git_provider", "selected_branch", "suggested_task", "parent_conversation_id")
    body = {
        **dict.fromkeys((*absent, "plugins", "sandbox_id", "llm_model")),
        "title": "Größe",
        "trigger": "gui",
        "initial_message": message,
    }
    answer = await client.post(ROUTE, json=body)
    task = answer.json()
    assert answer.status_code == 200
    assert uuid.UUID(task["id"]).hex == task["id"]
    assert task == {
        "id": task["id"],
        "created_by_user_id": None,
        "status": "WORKING",
        "detail": None,
        "app_conversation_id": None,
        "sandbox_id": task["id"],
        "agent_server_url": None,
        "request": task["request"],
        "created_at": "2025-11-22T12:30:15.000042Z",
        "updated_at": "2025-11-22T12:30:15.000042Z",
    }
    told = {key: value for key, value in task["request"].items() if value}
    agent_type = {"agent_type": "default"}
    assert told == {"conversation_id": task["id"], "llm_model": "file", "title": "Größe", "trigger": "gui"} | agent_type
    request: JsonObject = {**DEFAULTS, "initial_message": {**message, "run": True}}
    labels = {"title": "Größe", "trigger": "gui"}
    expected = StartRequest(ConversationId(task["id"]), request=request, labels=labels, wait=False)
    assert service.calls == [("start", expected)]


async def test_start_lays_what_it_says_over_the_file(client: httpx.AsyncClient, service: Shelf) -> None:
    """Key by key; the model and the suffix that stand alone go before those in the settings."""
    body = {
        "agent_settings": {"llm": {"model": "settings", "api_key": "other"}, "tools": []},
        "workspace": {"working_dir": "/elsewhere"},
        "llm_model": "alone",
        "system_message_suffix": "Be brief.",
        "initial_message": {"role": "system", "run": False},
    }
    request = await started(client, service, body)
    assert request.request == {
        "agent_settings": {
            "llm": {"model": "alone", "api_key": "other", "usage_id": "agent"},
            "tools": [],
            "agent_context": {"system_message_suffix": "Be brief."},
        },
        "workspace": {"working_dir": "/elsewhere"},
        "max_iterations": 7,
        "initial_message": {"role": "system", "content": [], "run": False},
    }
    assert request.labels == {}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"conversation_id": HEX}, HEX),
        ({"conversation_id": DASHED}, HEX),
        ({"conversation_id": DASHED.upper()}, HEX),
        ({"sandbox_id": DASHED}, HEX),
        ({"sandbox_id": "my-own"}, "my-own"),
        ({"sandbox_id": DASHED, "conversation_id": HEX}, HEX),
    ],
)
async def test_start_takes_an_id(client: httpx.AsyncClient, service: Shelf, body: object, expected: str) -> None:
    """A UUID in either spelling is kept as OpenHands writes it, so that it is the same on every route."""
    assert (await started(client, service, body)).id == expected


async def test_start_of_a_known_conversation_is_that_ones(client: httpx.AsyncClient, service: Shelf) -> None:
    """However its id was written when it was made."""
    service.put(make_record(DASHED))
    assert (await started(client, service, {"conversation_id": HEX})).id == DASHED


@pytest.mark.parametrize("body", [{"sandbox_id": HEX}, {"sandbox_id": "x", "conversation_id": str(uuid.uuid4())}])
async def test_start_in_another_ones_sandbox_is_refused(
    client: httpx.AsyncClient, service: Shelf, body: JsonObject
) -> None:
    """409: each conversation has a sandbox of its own."""
    service.put(make_record(DASHED))
    answer = await client.post(ROUTE, json=body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert service.calls == []


NOT_HONOURED = {
    "selected_repository": "o/r",
    "selected_branch": "main",
    "git_provider": "github",
    "dependency_repos": ["o/r"],
    "suggested_task": {"task_type": "OPEN_PR"},
    "pr_number": [1],
    "parent_conversation_id": HEX,
    "processors": [{"kind": "LoggingCallbackProcessor"}],
    "plugins": [{"source": "github:o/r"}],
    "secrets": {"a": "b"},
    "public": True,
    "agent_profile_id": HEX,
}


@pytest.mark.parametrize("name", NOT_HONOURED)
async def test_start_refuses_what_cannot_be_honoured(client: httpx.AsyncClient, service: Shelf, name: str) -> None:
    """In words and with its path; what asks for nothing is taken."""
    answer = await client.post(ROUTE, json={name: NOT_HONOURED[name]})
    told = answer.json()
    assert (answer.status_code, told["error"]["path"]) == (400, name)
    assert told["message"].startswith(f"{name} cannot be honoured: ")
    assert service.calls == []
    nothings: tuple[object, ...] = (None, False, "", [], {})
    for nothing in nothings:
        assert (await client.post(ROUTE, json={name: nothing})).status_code == 200


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"nonsense": 1}, "nonsense"),
        ({"pr_number": 0}, "pr_number"),
        ({"agent_type": "plan"}, "agent_type"),
        ({"conversation_id": "c1"}, "conversation_id"),
        ({"sandbox_id": "-x"}, "sandbox_id"),
        ({"llm_model": ""}, "llm_model"),
        ({"title": "x" * 1025}, "title"),
        ({"agent_settings": []}, "agent_settings"),
        ({"initial_message": "hello"}, "initial_message"),
        ({"initial_message": {"content": "hello"}}, "initial_message.content"),
        ({"initial_message": {"role": "nobody"}}, "initial_message.role"),
        ([], ""),
        (None, ""),
    ],
)
async def test_start_tells_what_does_not_validate(
    client: httpx.AsyncClient, service: Shelf, body: object, path: str
) -> None:
    """400 with the path, as everywhere, and in the words that the front end reads."""
    answer = await client.post(ROUTE, json=body)
    told = answer.json()
    assert (answer.status_code, told["error"]["path"]) == (400, path)
    assert told["detail"] == told["message"] == told["error"]["message"]
    assert service.calls == []


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (CapacityExceeded("m", 3.0), 429, {"retry-after": "3"}),
        (EngineUnavailable("m"), 503, {}),
        (SandboxFailed("m"), 500, {}),
    ],
)
async def test_start_refuses_in_both_words(
    client: httpx.AsyncClient, service: Shelf, error: ConversationdError, status: int, headers: dict[str, str]
) -> None:
    """Statuses and headers are those of all routes."""
    service.failure = error
    answer = await client.post(ROUTE, json={})
    told = answer.json()
    assert (answer.status_code, told["detail"], told["message"], told["error"]["code"]) == (
        status,
        "m",
        "m",
        error.code,
    )
    assert headers.items() <= dict(answer.headers).items()


async def test_bug_is_told_by_its_incident(client: httpx.AsyncClient, service: Shelf) -> None:
    """As on every route."""
    service.failure = RuntimeError("the-secret-reason")
    answer = await client.post(ROUTE, json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal")
    assert "the-secret-reason" not in answer.text


FAILURE = Failure(FailureCode.AGENT_REFUSED, "the agent server refused: \ud800", NOW)


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"status": Status.STARTING}, "WORKING"),
        ({"status": Status.STARTING, "phase": Phase.IMAGE}, "WAITING_FOR_SANDBOX"),
        ({"status": Status.STARTING, "phase": Phase.CREATE}, "WAITING_FOR_SANDBOX"),
        ({"status": Status.STARTING, "phase": Phase.BOOT}, "WAITING_FOR_SANDBOX"),
        ({"status": Status.STARTING, "phase": Phase.AGENT}, "STARTING_CONVERSATION"),
        ({"status": Status.ERROR, "error": FAILURE}, "ERROR"),
        ({"status": Status.RUNNING}, "READY"),
        ({"status": Status.PAUSED}, "READY"),
        ({"status": Status.STOPPED}, "READY"),
        ({"status": Status.ARCHIVED}, "READY"),
        ({"status": Status.STARTING, "execution_status": ExecutionStatus.IDLE}, "READY"),
        ({"status": Status.ERROR, "error": FAILURE, "execution_status": ExecutionStatus.ERROR}, "READY"),
    ],
)
async def test_start_task_says_how_far_it_is(
    client: httpx.AsyncClient, service: Shelf, changes: dict[str, Any], status: str
) -> None:
    """Read off the record; the conversation's id when it is READY, the reason when it is ERROR."""
    service.put(make_record(HEX, **changes))
    (task,) = (await client.get(f"{ROUTE}/start-tasks", params={"ids": DASHED})).json()
    assert task["status"] == status
    assert task["app_conversation_id"] == (HEX if status == "READY" else None)
    assert task["detail"] == ("the agent server refused: \ufffd" if status == "ERROR" else None)
    reachable = changes["status"] is Status.RUNNING
    assert task["agent_server_url"] == ("http://127.0.0.1:49153" if reachable else None)
    assert SESSION_KEY not in str(task)


async def test_start_task_tells_no_secret_of_its_request(client: httpx.AsyncClient, service: Shelf) -> None:
    """The model is named; messages, keys and settings are told to nobody but the agent."""
    llm = {"model": "openai/x", "api_key": "very-secret"}
    message = {"role": "user", "content": [{"type": "text", "text": "very-secret"}]}
    for settings, model in (
        ({"llm": llm}, "openai/x"),
        ({"llm": "odd"}, None),
        ({"llm": {"model": 5}}, None),
        (5, None),
    ):
        request = {"agent_settings": settings, "initial_message": message}
        service.put(make_record(HEX, request=request))
        answers = [await client.get(f"{ROUTE}{path}", params={"ids": HEX}) for path in ("", "/start-tasks")]
        assert [answer.json()[0].get("llm_model", model) for answer in answers] == [model, model]
        assert answers[1].json()[0]["request"]["llm_model"] == model
        assert all("very-secret" not in answer.text for answer in answers)


async def test_look_up_shows_a_running_conversation(client: httpx.AsyncClient, service: Shelf) -> None:
    """All fields of the original, in the order asked for, null for what is not there."""
    labels = {"title": "T", "trigger": "gui"}
    service.put(make_record(HEX, labels=labels, execution_status=ExecutionStatus.RUNNING), make_record("c1"))
    missing = uuid.uuid4().hex
    answer = await client.get(ROUTE, params={"ids": [missing, DASHED, "c1"]})
    nothing, shown, other = answer.json()
    assert (answer.status_code, nothing) == (200, None)
    assert shown == {
        "id": HEX,
        "created_by_user_id": None,
        "sandbox_id": HEX,
        "selected_repository": None,
        "selected_branch": None,
        "git_provider": None,
        "title": "T",
        "trigger": "gui",
        "pr_number": [],
        "llm_model": None,
        "metrics": None,
        "parent_conversation_id": None,
        "sub_conversation_ids": [],
        "public": None,
        "created_at": "2025-11-22T12:30:15.000042Z",
        "updated_at": "2025-11-22T12:30:15.000042Z",
        "sandbox_status": "RUNNING",
        "execution_status": "running",
        "conversation_url": f"http://127.0.0.1:49153/api/conversations/{HEX}",
        "session_api_key": SESSION_KEY,
    }
    of_the_agent = agent_conversation_id(ConversationId("c1")).hex
    assert (other["id"], other["title"]) == ("c1", "Conversation c1")
    assert other["conversation_url"] == f"http://127.0.0.1:49153/api/conversations/{of_the_agent}"


@pytest.mark.parametrize(
    ("status", "sandbox"),
    [
        (Status.STARTING, "STARTING"),
        (Status.PAUSED, "PAUSED"),
        (Status.STOPPED, "PAUSED"),
        (Status.ARCHIVED, "MISSING"),
        (Status.ERROR, "ERROR"),
    ],
)
async def test_look_up_gives_no_key_of_what_does_not_run(
    client: httpx.AsyncClient, service: Shelf, status: Status, sandbox: str
) -> None:
    """Nor what its agent does, which is told of a RUNNING sandbox only."""
    service.put(make_record(HEX, status=status, execution_status=ExecutionStatus.IDLE))
    (shown,) = (await client.get(ROUTE, params={"ids": HEX})).json()
    assert shown["sandbox_status"] == sandbox
    assert [shown[key] for key in ("execution_status", "conversation_url", "session_api_key")] == [None] * 3
    assert service.calls == []


async def test_look_up_shows_what_stopped_or_went_meanwhile(client: httpx.AsyncClient, service: Shelf) -> None:
    """As it is now, or as null."""
    service.put(make_record(HEX))
    service.meanwhile = lambda record: attrs.evolve(record, status=Status.STOPPED)
    (shown,) = (await client.get(ROUTE, params={"ids": HEX})).json()
    assert (shown["sandbox_status"], shown["session_api_key"]) == ("PAUSED", None)
    service.put(make_record(HEX))
    service.meanwhile = lambda _: None
    assert (await client.get(ROUTE, params={"ids": HEX})).json() == [None]


async def test_look_up_without_a_port_has_no_key(client: httpx.AsyncClient, service: Shelf) -> None:
    """It runs, and cannot be reached."""
    record = make_record(HEX)
    service.put(attrs.evolve(record, spec=attrs.evolve(record.spec, port=None)))
    (shown,) = (await client.get(ROUTE, params={"ids": HEX})).json()
    assert (shown["sandbox_status"], shown["session_api_key"]) == ("RUNNING", None)


@pytest.mark.parametrize("path", [ROUTE, f"{ROUTE}/start-tasks"])
@pytest.mark.parametrize("query", [{}, {"ids": "-x"}, {"ids": ["c1"] * 101}])
async def test_look_up_refuses_ids_that_are_none(
    client: httpx.AsyncClient, path: str, query: dict[str, str | list[str]]
) -> None:
    """400, as for too many."""
    answer = await client.get(path, params=query)
    assert (answer.status_code, answer.json()["error"]["path"][:3]) == (400, "ids")


def shelved(service: Shelf, count: int) -> list[str]:
    """Conversations, each made a minute after the one before; their ids, newest first."""
    ids = [f"c{number}" for number in range(count)]
    for number, one in enumerate(ids):
        at = NOW + timedelta(minutes=number)
        title = "odd" if number % 2 else "even"
        service.put(make_record(one, created_at=at, updated_at=at + timedelta(hours=1), labels={"title": title}))
    return ids[::-1]


async def collect(client: httpx.AsyncClient, path: str, **query: str | int) -> list[list[str]]:
    """The ids of every page."""
    pages: list[list[str]] = []
    while True:
        answer = await client.get(f"{ROUTE}{path}", params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        pages.append([one["id"] for one in page["items"]])
        if page["next_page_id"] is None:
            return pages
        query["page_id"] = page["next_page_id"]


@pytest.mark.parametrize("path", ["/search", "/start-tasks/search"])
async def test_search_goes_newest_first_page_by_page(client: httpx.AsyncClient, service: Shelf, path: str) -> None:
    """All of them, each once."""
    ids = shelved(service, 7)
    assert await collect(client, path, limit=3) == [ids[:3], ids[3:6], ids[6:]]
    assert await collect(client, path) == [ids]
    service.records.clear()
    assert await collect(client, path) == [[]]


async def test_search_shows_what_look_up_shows(client: httpx.AsyncClient, service: Shelf) -> None:
    """The same words; what went meanwhile is left out."""
    service.put(make_record(HEX), make_record("c1", status=Status.PAUSED))
    page = (await client.get(f"{ROUTE}/search")).json()
    assert page["items"] == (await client.get(ROUTE, params={"ids": ["c1", HEX]})).json()
    tasks = (await client.get(f"{ROUTE}/start-tasks/search")).json()
    assert tasks["items"] == (await client.get(f"{ROUTE}/start-tasks", params={"ids": ["c1", HEX]})).json()
    service.meanwhile = lambda _: None
    assert await collect(client, "/search") == [["c1"]]


async def test_search_filters_by_title_and_times(client: httpx.AsyncClient, service: Shelf) -> None:
    """From a moment on, before a moment, by a part of the title; a sparse page is filled from those that follow."""
    ids = shelved(service, 8)
    third = "2025-11-22T12:33:15.000042Z"
    assert await collect(client, "/search", created_at__gte=third) == [ids[:5]]
    assert await collect(client, "/search", created_at__lt=third) == [ids[5:]]
    assert await collect(client, "/search", updated_at__gte="2025-11-22T14:33:15.000042+01:00") == [ids[:5]]
    assert await collect(client, "/search", updated_at__lt="2025-11-22T13:33:15.000042") == [ids[5:]]
    odd = ids[::2]
    assert await collect(client, "/search", title__contains="dd") == [odd]
    assert await collect(client, "/search", title__contains="dd", limit=2) == [[one] for one in odd]
    assert await collect(client, "/search", title__contains="dd", limit=1) == [[one] for one in odd] + [[]]
    assert await collect(client, "/search", title__contains="nobody", limit=3) == [[]]
    assert await collect(client, "/search", include_sub_conversations="true") == [ids]


async def test_search_of_the_last_minutes_reads_no_further(client: httpx.AsyncClient, service: Shelf) -> None:
    """The front end asks for the starts of the last 20 minutes, again and again, whatever there was before."""
    ids = shelved(service, 8)
    recent = "2025-11-22T12:36:15.000Z"
    assert await collect(client, "/start-tasks/search", created_at__gte=recent, limit=3) == [ids[:2]]
    assert service.pages == [(3, None)]


async def test_start_tasks_can_be_searched_oldest_first(client: httpx.AsyncClient, service: Shelf) -> None:
    """And from a moment on."""
    ids = shelved(service, 5)
    assert await collect(client, "/start-tasks/search", sort_order="CREATED_AT", limit=3) == [ids[:1:-1], ids[1::-1]]
    third = "2025-11-22T12:33:15.000042Z"
    assert await collect(client, "/start-tasks/search", sort_order="CREATED_AT", created_at__gte=third) == [ids[1::-1]]


@pytest.mark.parametrize(
    ("path", "name"), [("/search", "sandbox_id__eq"), ("/start-tasks/search", "conversation_id__eq")]
)
async def test_search_by_an_id_finds_one_or_none(
    client: httpx.AsyncClient, service: Shelf, path: str, name: str
) -> None:
    """In either spelling, and only if the other filters let it."""
    shelved(service, 3)
    service.put(make_record(HEX))
    assert await collect(client, path, **{name: DASHED}) == [[HEX]]
    assert await collect(client, path, **{name: "nobody"}) == [[]]
    assert await collect(client, path, **{name: "no id at all!"}) == [[]]
    assert await collect(client, path, **{name: HEX, "created_at__gte": "2026-01-01T00:00:00Z"}) == [[]]
    assert service.pages == []


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ("search?limit=0", "limit"),
        ("search?limit=101", "limit"),
        ("search?created_at__gte=yesterday", "created_at__gte"),
        ("search?created_at__gte=1763800000", "created_at__gte"),
        ("search?updated_at__lt=2025-13-01T00:00:00Z", "updated_at__lt"),
        ("start-tasks/search?sort_order=UPDATED_AT", "sort_order"),
    ],
)
async def test_search_refuses_what_it_cannot_look_for(client: httpx.AsyncClient, query: str, path: str) -> None:
    """400 with the path."""
    answer = await client.get(f"{ROUTE}/{query}")
    assert (answer.status_code, answer.json()["error"]["path"]) == (400, path)
