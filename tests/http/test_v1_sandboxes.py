"""The V1 routes of sandboxes, over a scripted service."""

import uuid

import attrs
import httpx2 as httpx
import pytest

from supervisor.conversation.errors import CommandTimeout, ConversationdError, EngineUnavailable
from supervisor.conversation.lifecycle import Status
from tests.control.scripted_service import SESSION_KEY, make_record
from tests.http.v1_shelf import Shelf

ROUTE = "/api/v1/sandboxes"
HEX = "0123456789abcdef0123456789abcdef"
DASHED = str(uuid.UUID(HEX))


@pytest.fixture
def service() -> Shelf:
    """The service behind the server."""
    return Shelf()


async def test_look_up_shows_a_running_sandbox(client: httpx.AsyncClient, service: Shelf) -> None:
    """All fields of the original, null for what is not there, whatever it is called."""
    service.put(make_record(HEX))
    answer = await client.get(ROUTE, params={"id": ["oh-agent-server-1", DASHED, "no id at all!"]})
    assert answer.json() == [
        None,
        {
            "id": HEX,
            "created_by_user_id": None,
            "sandbox_spec_id": "img:1",
            "status": "RUNNING",
            "session_api_key": SESSION_KEY,
            "exposed_urls": [{"name": "AGENT_SERVER", "url": "http://127.0.0.1:49153", "port": 8000}],
            "created_at": "2025-11-22T12:30:15.000042Z",
        },
        None,
    ]


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        (Status.STARTING, "STARTING"),
        (Status.PAUSED, "PAUSED"),
        (Status.STOPPED, "PAUSED"),
        (Status.ARCHIVED, "MISSING"),
        (Status.ERROR, "ERROR"),
    ],
)
async def test_look_up_gives_no_key_of_what_does_not_run(
    client: httpx.AsyncClient, service: Shelf, status: Status, shown: str
) -> None:
    """Nor a URL. What was stopped can be resumed as what was paused; what was archived is gone."""
    service.put(make_record(HEX, status=status))
    (sandbox,) = (await client.get(ROUTE, params={"id": HEX})).json()
    assert (sandbox["status"], sandbox["session_api_key"], sandbox["exposed_urls"]) == (shown, None, None)


async def test_look_up_without_a_port_exposes_nothing(client: httpx.AsyncClient, service: Shelf) -> None:
    """It runs, and no URL leads to it."""
    record = make_record(HEX)
    service.put(attrs.evolve(record, spec=attrs.evolve(record.spec, port=None)))
    (sandbox,) = (await client.get(ROUTE, params={"id": HEX})).json()
    assert (sandbox["status"], sandbox["session_api_key"], sandbox["exposed_urls"]) == ("RUNNING", None, [])


@pytest.mark.parametrize("query", [{}, {"id": ["c1"] * 101}])
async def test_look_up_refuses_none_and_too_many(client: httpx.AsyncClient, query: dict[str, list[str]]) -> None:
    """400 with the path."""
    answer = await client.get(ROUTE, params=query)
    assert (answer.status_code, answer.json()["error"]["path"]) == (400, "id")


async def test_search_lists_what_is_there(client: httpx.AsyncClient, service: Shelf) -> None:
    """Newest first, page by page, without those of archived conversations."""
    statuses = (Status.RUNNING, Status.ARCHIVED, Status.PAUSED, Status.STOPPED)
    service.put(*(make_record(f"c{number}", status=status) for number, status in enumerate(statuses)))
    first = (await client.get(f"{ROUTE}/search", params={"limit": 2})).json()
    assert [(one["id"], one["status"]) for one in first["items"]] == [("c3", "PAUSED"), ("c2", "PAUSED")]
    last = (await client.get(f"{ROUTE}/search", params={"page_id": first["next_page_id"]})).json()
    assert [one["id"] for one in last["items"]] == ["c0"]
    assert (last["items"][0]["session_api_key"], last["next_page_id"]) == (SESSION_KEY, None)
    assert (await client.get(f"{ROUTE}/search?limit=0")).status_code == 400


PAUSE, STOP = ("pause", HEX, None), ("stop", HEX, None, False)
RESUME, RESTART = ("resume", HEX, None), ("restart", HEX, None, False)


@pytest.mark.parametrize(
    ("command", "status", "calls", "after"),
    [
        ("pause", Status.RUNNING, [PAUSE], "PAUSED"),
        ("pause", Status.STARTING, [STOP], "PAUSED"),
        ("pause", Status.PAUSED, [], "PAUSED"),
        ("pause", Status.STOPPED, [], "PAUSED"),
        ("pause", Status.ERROR, [], "ERROR"),
        ("resume", Status.PAUSED, [RESUME], "RUNNING"),
        ("resume", Status.STOPPED, [RESTART], "RUNNING"),
        ("resume", Status.ERROR, [RESTART], "RUNNING"),
        ("resume", Status.RUNNING, [], "RUNNING"),
        ("resume", Status.STARTING, [], "STARTING"),
    ],
)
async def test_pause_and_resume_do_what_is_meant(
    client: httpx.AsyncClient, service: Shelf, *, command: str, status: Status, calls: list[object], after: str
) -> None:
    """Success for whatever exists, with the empty body that the front end sends and without; either spelling."""
    for target, body in ((DASHED, {}), (HEX, None)):
        service.calls.clear()
        service.put(make_record(HEX, status=status))
        answer = await client.post(f"{ROUTE}/{target}/{command}", json=body)
        assert (answer.status_code, answer.json()) == (200, {"success": True})
        assert service.calls == calls
        (sandbox,) = (await client.get(ROUTE, params={"id": HEX})).json()
        assert sandbox["status"] == after


@pytest.mark.parametrize(
    ("command", "before", "meanwhile", "status"),
    [
        ("pause", Status.RUNNING, Status.PAUSED, 200),
        ("pause", Status.RUNNING, Status.ERROR, 200),
        ("pause", Status.RUNNING, Status.STARTING, 409),
        ("resume", Status.PAUSED, Status.RUNNING, 200),
        ("resume", Status.STOPPED, Status.STARTING, 200),
        ("resume", Status.PAUSED, Status.ARCHIVED, 409),
    ],
)
async def test_what_happens_meanwhile_is_a_success_if_it_was_meant(
    client: httpx.AsyncClient, service: Shelf, *, command: str, before: Status, meanwhile: Status, status: int
) -> None:
    """Two who pause the same sandbox both have what they want."""
    service.put(make_record(HEX, status=before))
    service.meanwhile = lambda record: attrs.evolve(record, status=meanwhile)
    assert (await client.post(f"{ROUTE}/{HEX}/{command}")).status_code == status


@pytest.mark.parametrize("command", ["pause", "resume"])
async def test_archived_sandbox_is_gone(client: httpx.AsyncClient, service: Shelf, command: str) -> None:
    """404, in words."""
    service.put(make_record(HEX, status=Status.ARCHIVED))
    answer = await client.post(f"{ROUTE}/{HEX}/{command}")
    assert (answer.status_code, "was archived" in answer.json()["detail"]) == (404, True)
    assert service.calls == []


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/pause"), ("POST", "/resume"), ("DELETE", ""), ("DELETE", "?sandbox_id=c9")]
)
@pytest.mark.parametrize("target", ["c9", HEX, "no%20id"])
async def test_unknown_sandbox_is_not_found(client: httpx.AsyncClient, method: str, path: str, target: str) -> None:
    """404 in the words of both kinds of clients."""
    answer = await client.request(method, f"{ROUTE}/{target}{path}")
    told = answer.json()
    assert (answer.status_code, told["error"]["code"]) == (404, "not_found")
    assert told["detail"] == told["message"] == told["error"]["message"]


@pytest.mark.parametrize("status", Status)
async def test_delete_ends_and_removes_whatever_it_does(
    client: httpx.AsyncClient, service: Shelf, status: Status
) -> None:
    """By force, since nothing is kept; null afterwards. Late 2025's original wants the id as a parameter, too."""
    service.put(make_record(HEX, status=status))
    answer = await client.delete(f"{ROUTE}/{DASHED}", params={"sandbox_id": DASHED})
    assert (answer.status_code, answer.json()) == (200, {"success": True})
    stops = [] if status in (Status.STOPPED, Status.ARCHIVED) else [("stop", HEX, None, True)]
    assert service.calls == [*stops, ("delete", HEX)]
    assert (await client.get(ROUTE, params={"id": HEX})).json() == [None]


@pytest.mark.parametrize(
    ("error", "status"), [(CommandTimeout("m"), 504), (EngineUnavailable("m"), 503), (RuntimeError("m"), 500)]
)
async def test_commands_refuse_as_everywhere(
    client: httpx.AsyncClient, service: Shelf, error: Exception, status: int
) -> None:
    """With the table's statuses."""
    service.put(make_record(HEX))
    service.failure = error
    answer = await client.post(f"{ROUTE}/{HEX}/pause")
    assert answer.status_code == status
    if isinstance(error, ConversationdError):
        assert answer.json()["message"] == "m"
