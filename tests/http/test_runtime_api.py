"""The runtime API, over a scripted service: every route, field and refusal that clients of a hosted runtime know."""

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import attrs
import httpx2 as httpx
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from supervisor.control.methods import SpecParser
from supervisor.control.service import ConversationPage, StartRequest, Stopped
from supervisor.conversation.errors import (
    CapacityExceeded,
    ConversationdError,
    EngineUnavailable,
    Forbidden,
    ImageUnavailable,
    InvalidTransition,
    NotFound,
)
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.record import ConversationRecord, Failure, FailureCode, Observed, Phase, SandboxRef
from supervisor.conversation.restart import Cause, PastRestart
from supervisor.conversation.spec import LocalImage, PullPolicy, SpecOverrides
from supervisor.daemon import _parse_spec
from supervisor.http import runtime_api
from supervisor.http.models_runtime import RuntimeInfo, RuntimeStart
from supervisor.http.runtime_start import port_of, wanted_spec
from supervisor.http.runtime_views import show_runtime
from tests.control.scripted_service import NOW, SESSION_KEY, ScriptedService, make_event, make_record
from tests.http.clients import KEY, PATIENCE, Running, http_client

IMAGE: Final = "ghcr.io/openhands/agent-server:latest-python"
START: Final[dict[str, Any]] = {"image": IMAGE, "session_id": "s1"}


def runtime(name: str = "r1", session: str = "s1", **changes: Any) -> ConversationRecord:  # noqa: ANN401 - any field
    """A running runtime."""
    return make_record(name, labels={"session_id": session}, **changes)


class Hosted(ScriptedService):
    """A service with some conversations, oldest first; it does to them what it is asked at once."""

    def __init__(self) -> None:
        super().__init__()
        self.record = attrs.evolve(
            self.record, spec=attrs.evolve(self.record.spec, image=IMAGE, memory=2**30, cpus=2.0)
        )
        self.records: dict[ConversationId, ConversationRecord] = {}
        self.started = Status.RUNNING

    def have(self, *records: ConversationRecord) -> None:
        """Let there be these."""
        self.records |= {record.id: record for record in records}

    def move(self, conversation: ConversationId, **changes: Any) -> ConversationRecord:  # noqa: ANN401 - any field
        """Change one, and tell of it."""
        self.records[conversation] = attrs.evolve(self.records[conversation], **changes)
        self.publish(make_event(1, conversation))
        return self.records[conversation]

    async def _do(self, *call: object) -> None:
        if call[0] == "subscribe":
            await trio.lowlevel.checkpoint()
            return
        await super()._do(*call)

    async def get(self, conversation: ConversationId) -> ConversationRecord:
        """One of them."""
        await trio.lowlevel.checkpoint()
        if conversation not in self.records:
            raise NotFound(f"there is no conversation {conversation}")
        return self.records[conversation]

    async def list(
        self,
        statuses: Sequence[Status],
        labels: Mapping[str, str],
        limit: int,
        cursor: str | None,
        *,
        newest_first: bool = False,
    ) -> ConversationPage:
        """Those that match, one on each page."""
        await trio.lowlevel.checkpoint()
        found = [r for r in self.records.values() if r.status in statuses and labels.items() <= dict(r.labels).items()]
        found = found[::-1] if newest_first else found
        number = int(cursor or 0)
        return ConversationPage(tuple(found[number : number + 1]), str(number + 1) if number + 1 < len(found) else None)

    async def start(self, request: StartRequest) -> ConversationRecord:
        """Make it, or resume it."""
        assert request.id is not None
        if request.id not in self.records:
            made = attrs.evolve(self.record, id=request.id, labels=request.labels, status=self.started)
            self.have(made)
        elif self.records[request.id].status is Status.PAUSED:
            self.move(request.id, status=Status.RUNNING)
        await self._do("start", request)
        return self.records[request.id]

    async def pause(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """Pause it."""
        await super().pause(conversation, within)
        return self.move(conversation, status=Status.PAUSED)

    async def resume(self, conversation: ConversationId, within: float | None) -> ConversationRecord:
        """Resume it."""
        await super().resume(conversation, within)
        return self.move(conversation, status=Status.RUNNING)

    async def stop(self, conversation: ConversationId, within: float | None, *, force: bool) -> Stopped:
        """Stop it."""
        await super().stop(conversation, within, force=force)
        return Stopped(self.move(conversation, status=Status.STOPPED, sandbox=None), was_running=True)

    async def restart(self, conversation: ConversationId, within: float | None, *, force: bool) -> ConversationRecord:
        """Restart it."""
        await super().restart(conversation, within, force=force)
        return self.move(conversation, status=Status.RUNNING)

    async def delete(self, conversation: ConversationId) -> None:
        """Delete it."""
        await super().delete(conversation)
        del self.records[conversation]

    @property
    def asked(self) -> Sequence[object]:
        """The commands that were given."""
        return [call[0] for call in self.calls]


@pytest.fixture
def service() -> Hosted:
    """The service behind the server."""
    return Hosted()


@pytest.fixture
def spec_parser() -> SpecParser:
    """The daemon's own."""
    return _parse_spec


def spec_of(service: ScriptedService) -> SpecOverrides:
    """The spec of the one start that there was."""
    (request,) = [call[1] for call in service.calls if call[0] == "start"]
    assert isinstance(request, StartRequest)
    return request.spec


async def test_start_makes_a_runtime_and_answers_how_to_reach_it(client: httpx.AsyncClient, service: Hosted) -> None:
    """Every field; the conversation has an id of its own, the session for a label, and no agent of ours."""
    answer = await client.post("/start", json=START)
    told = answer.json()
    assert answer.status_code == 200
    (conversation,) = service.records
    assert told == {
        "runtime_id": conversation,
        "session_id": "s1",
        "url": "http://127.0.0.1:49153",
        "session_api_key": SESSION_KEY,
        "status": "running",
        "pod_status": "ready",
        "restart_count": 0,
        "restart_reasons": [],
        "pod_logs": "",
        "work_hosts": {},
    }
    (request,) = [call[1] for call in service.calls if call[0] == "start"]
    assert request == StartRequest(
        conversation, "server", SpecOverrides(image=IMAGE, env={}), labels={"session_id": "s1"}
    )


async def test_start_takes_what_clients_send(client: httpx.AsyncClient, service: Hosted) -> None:
    """Each field of the hosted API reaches the spec."""
    body = {
        **START,
        "command": "/usr/local/bin/openhands-agent-server --port 60000 --title 'two words'",
        "working_dir": "/",
        "environment": {"A": "1"},
        "resource_factor": 2,
        "runtime_class": "sysbox-runc",
        "image_pull_policy": "IfNotPresent",
        "run_as_user": 10001,
        "run_as_group": 10001,
        "fs_group": 10001,
    }
    assert (await client.post("/start", json=body)).status_code == 200
    assert spec_of(service) == SpecOverrides(
        image=IMAGE,
        pull=PullPolicy.MISSING,
        command=(),
        entrypoint=("/usr/local/bin/openhands-agent-server", "--port", "60000", "--title", "two words"),
        env={"A": "1"},
        port=60000,
        user="10001:10001",
        working_dir="/",
        runtime="sysbox-runc",
        memory=2**31,
        cpus=4.0,
    )


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ({"command": ["server", "-x"]}, {"entrypoint": ("server", "-x"), "command": ()}),
        ({"command": " "}, {}),
        ({"command": None, "environment": None, "working_dir": None, "fs_group": None}, {}),
        ({"working_dir": "/openhands/code/"}, {"working_dir": "/openhands/code/"}),
        ({"image_pull_policy": "Always"}, {"pull": PullPolicy.ALWAYS}),
        ({"image_pull_policy": "Never"}, {"pull": PullPolicy.NEVER}),
        ({"run_as_user": 10001}, {"user": "10001"}),
        ({"run_as_user": 10001, "fs_group": 7}, {"user": "10001:7"}),
        ({"resource_factor": 1}, {}),
        ({"resource_factor": 8}, {"memory": 2**33, "cpus": 16.0}),
        ({"runtime_class": ""}, {"runtime": ""}),
    ],
)
def test_each_field_of_a_start_is_read(given: dict[str, Any], changes: dict[str, Any]) -> None:
    """What is left out is the config's."""
    spec = wanted_spec(RuntimeStart(**{**START, **given}), Hosted().defaults(), _parse_spec)
    assert spec == SpecOverrides(image=IMAGE, env={}, **changes)


@pytest.mark.parametrize(
    ("command", "port"),
    [
        (["server", "--port", "60000"], 60000),
        (["server", "--port=60001", "--host", "0.0.0.0"], 60001),
        (["python", "-u", "-m", "openhands.runtime.action_execution_server", "60000", "--user-id", "1000"], 60000),
        (["micromamba", "run", "-n", "openhands", "python", "-m", "a.b", "60002"], 60002),
        (["server", "60000"], None),
        (["server", "--port"], None),
        (["server", "--port", "65536"], None),
        (["server", "--port=0"], None),
        (["python", "-m", "a.b", "--flag"], None),
        ([], None),
    ],
)
def test_port_is_the_one_that_the_command_names(command: list[str], port: int | None) -> None:
    """As the newer and the older agent server take it; else the config's counts."""
    assert port_of(command) == port


REFUSED: Final[list[tuple[dict[str, Any], str]]] = [
    ({"image": "a b"}, "image"),
    ({"command": "unbalanced '"}, "command"),
    ({"command": ["a\0b"]}, "command[0]"),
    ({"working_dir": "here"}, "working_dir"),
    ({"environment": {"A=B": "x"}}, "environment"),
    ({"environment": {"A": 1}}, "environment.A"),
    ({"session_id": "a/b"}, "session_id"),
    ({"session_id": ""}, "session_id"),
    ({"resource_factor": 3}, "resource_factor"),
    ({"runtime_class": "a b"}, "runtime_class"),
    ({"image_pull_policy": "Sometimes"}, "image_pull_policy"),
    ({"run_as_user": -1}, "run_as_user"),
    ({"gpu": 1}, "gpu"),
]


async def test_start_says_what_it_does_not_take(client: httpx.AsyncClient, service: Hosted) -> None:
    """400 with the client's own name of it, in words, which are also where these clients read them."""
    await trio.lowlevel.checkpoint()
    for given, path in REFUSED:
        answer = await client.post("/start", json={**START, **given})
        told = answer.json()
        assert (answer.status_code, told["error"]["path"]) == (400, path), told
        assert told["detail"] == told["error"]["message"] != ""
    assert service.calls == []


FORBIDDEN: Final = [
    ("spec.runtime", "runtime_class"),
    ("spec.memory", "resource_factor"),
    ("spec.cpus", "resource_factor"),
    ("spec.image", "image"),
    ("spec.pull", "image_pull_policy"),
    ("spec.env.LD_PRELOAD", "environment.LD_PRELOAD"),
    ("agent", "agent"),
]


async def test_start_with_a_group_that_it_cannot_have_is_refused(client: httpx.AsyncClient, service: Hosted) -> None:
    """A sandbox has one group, and only beside its user."""
    asked: list[tuple[dict[str, int], str]] = [
        ({"fs_group": 1}, "fs_group"),
        ({"run_as_group": 1}, "run_as_group"),
        ({"run_as_user": 1, "run_as_group": 2, "fs_group": 3}, "fs_group"),
    ]
    await trio.lowlevel.checkpoint()
    for groups, path in asked:
        answer = await client.post("/start", json={**START, **groups})
        assert (answer.status_code, answer.json()["error"]["path"]) == (403, path)
    assert service.calls == []


async def test_start_that_the_config_forbids_names_what_asked_for_it(
    client: httpx.AsyncClient, service: Hosted
) -> None:
    """403, in the config's words."""
    await trio.lowlevel.checkpoint()
    for path, name in FORBIDDEN:
        service.records.clear()
        service.failure = Forbidden("it is not allowed: [sandbox.allow]", path)
        answer = await client.post("/start", json=START)
        assert (answer.status_code, answer.json()["error"]["path"]) == (403, name)
        assert "[sandbox.allow]" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CapacityExceeded("m", 2.5), 429),
        (EngineUnavailable("m"), 503),
        (ImageUnavailable("m"), 500),
        (InvalidTransition("m", Status.STOPPED, Command.START), 409),
    ],
)
async def test_failure_is_told_by_the_table_and_as_detail(
    client: httpx.AsyncClient, service: Hosted, error: ConversationdError, status: int
) -> None:
    """The same as for every other client, and where these read it."""
    service.have(runtime())
    service.failure = error
    for target, body in (("/start", START), ("/pause", {"runtime_id": "r1"}), ("/resume", {"runtime_id": "r1"})):
        answer = await client.post(target, json=body)
        assert (answer.status_code, answer.json()["detail"]) == (status, "m")
        assert answer.json()["error"]["code"] == error.code
        assert answer.headers.get("retry-after") == ("3" if status == 429 else None)


async def test_start_without_a_session_makes_one(client: httpx.AsyncClient) -> None:
    """It is called what the runtime is."""
    told = (await client.post("/start", json={"image": IMAGE, "session_id": None})).json()
    assert told["session_id"] == told["runtime_id"]
    assert (await client.get(f"/sessions/{told['runtime_id']}")).json() == told


@pytest.mark.parametrize(
    ("status", "asked"),
    [
        (Status.RUNNING, ["start"]),
        (Status.PAUSED, ["start"]),
        (Status.STOPPED, ["restart"]),
        (Status.ERROR, ["restart"]),
    ],
)
async def test_start_of_a_session_that_is_there_brings_it_to_run(
    client: httpx.AsyncClient, service: Hosted, status: Status, asked: list[str]
) -> None:
    """The same runtime: as it is, resumed, or restarted over its files. The newest of a session counts."""
    service.have(
        runtime("r0"), runtime("r1", status=status), runtime("r2", "s2"), runtime("r3", status=Status.ARCHIVED)
    )
    told = (await client.post("/start", json={**START, "image": "img:1"})).json()
    assert (told["runtime_id"], told["status"]) == ("r1", "running")
    assert service.asked == asked
    assert service.calls[0][1] in ("r1", StartRequest(ConversationId("r1")))


@pytest.mark.parametrize(
    "given",
    [
        {"image": "img:2"},
        {"image": "img:1", "command": ["other"]},
        {"image": "img:1", "environment": {"A": "2"}},
        {"image": "img:1", "run_as_user": 7},
    ],
)
async def test_start_of_a_stopped_session_that_is_to_be_another_replaces_it(
    client: httpx.AsyncClient, service: Hosted, given: dict[str, Any]
) -> None:
    """Nothing of the old one piles up."""
    service.have(runtime(status=Status.STOPPED))
    told = (await client.post("/start", json={**START, **given})).json()
    assert service.asked == ["stop", "archive", "delete", "start"]
    assert list(service.records) == [told["runtime_id"]] != ["r1"]


async def test_start_of_what_ran_with_more_than_is_asked_for_restarts_it(
    client: httpx.AsyncClient, service: Hosted
) -> None:
    """Only what is asked for has to be so; when an image is fetched does not change what it is."""
    record = runtime(status=Status.STOPPED)
    spec = attrs.evolve(record.spec, env={"A": "1", "B": "2"}, entrypoint=("server",), user="7")
    service.have(attrs.evolve(record, spec=spec))
    body = {"image": "img:1", "environment": {"B": "2"}, "command": "server", "image_pull_policy": "Always"}
    await client.post("/start", json={**START, **body})
    assert service.asked == ["restart"]


async def test_two_starts_at_once_make_one_runtime(client: httpx.AsyncClient, service: Hosted) -> None:
    """The second finds what the first made."""
    told: list[str] = []

    async def start() -> None:
        told.append((await client.post("/start", json=START)).json()["runtime_id"])

    service.gate = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(start)
        nursery.start_soon(start)
        await service.waiting.wait()
        service.gate.set()
    assert len(set(told)) == len(service.records) == 1


class TestSlowStart:
    """A start whose answer cannot wait until it runs."""

    @pytest.fixture(autouse=True)
    def _hurry(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Clients wait 10 seconds; here they wait a moment."""
        monkeypatch.setattr(runtime_api, "ANSWER_WITHIN", 0.05)

    @pytest.fixture
    async def slow(self, service: Hosted) -> AsyncIterator[Hosted]:
        """Starts get as far as the image."""
        service.started = Status.STARTING
        service.record = attrs.evolve(service.record, phase=Phase.IMAGE, sandbox=None)
        service.gate = trio.Event()
        yield service
        service.gate.set()

    async def test_start_is_answered_as_soon_as_it_can_be_reached(
        self, client: httpx.AsyncClient, slow: Hosted
    ) -> None:
        """Before it is ready: clients wait for that by asking."""
        answers: list[httpx.Response] = []

        async def start() -> None:
            answers.append(await client.post("/start", json=START))

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(start)
                while len(slow.subscribers) < 1:
                    await wait_all_tasks_blocked()
                (conversation,) = slow.records
                slow.move(conversation, phase=Phase.CREATE)
                await wait_all_tasks_blocked(0.01)
                assert answers == []
                sandbox = SandboxRef("docker", "n", IMAGE, "3f2a", "http://127.0.0.1:1")
                slow.move(conversation, phase=Phase.BOOT, sandbox=sandbox)
        told = answers[0].json()
        assert (told["status"], told["pod_status"], told["url"]) == ("starting", "running", "http://127.0.0.1:1")
        assert told["session_api_key"] == SESSION_KEY

    async def test_start_that_fails_later_is_answered_with_why(self, client: httpx.AsyncClient, slow: Hosted) -> None:
        """The runtime is there, and says what went wrong."""
        async with trio.open_nursery() as nursery:

            async def fail() -> None:
                await wait_all_tasks_blocked()
                while len(slow.subscribers) < 1:
                    await wait_all_tasks_blocked()
                failure = Failure(FailureCode.IMAGE_UNAVAILABLE, "it cannot be pulled", NOW)
                slow.move(next(iter(slow.records)), status=Status.ERROR, error=failure)

            nursery.start_soon(fail)
            told = (await client.post("/start", json=START)).json()
        assert (told["status"], told["pod_status"], told["pod_logs"]) == ("error", "failed", "it cannot be pulled")

    async def test_resume_that_boots_is_answered_meanwhile(self, client: httpx.AsyncClient, slow: Hosted) -> None:
        """It is paused still; clients ask until it runs."""
        slow.have(runtime(status=Status.PAUSED))
        told = (await client.post("/resume", json={"runtime_id": "r1"})).json()
        assert (told["status"], told["pod_status"]) == ("paused", "not found")


async def test_start_of_what_is_starting_waits_until_it_runs(client: httpx.AsyncClient, service: Hosted) -> None:
    """As long as clients wait."""
    service.have(runtime(status=Status.STARTING, phase=Phase.BOOT))
    answers: list[Any] = []

    async def start() -> None:
        answers.append((await client.post("/start", json=START)).json())

    with trio.fail_after(PATIENCE):
        await trio.lowlevel.checkpoint()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            while not service.subscribers:
                await wait_all_tasks_blocked()
            service.move(ConversationId("r1"), phase=Phase.AGENT)
            service.move(ConversationId("r1"), status=Status.RUNNING)
    assert [answer["status"] for answer in answers] == ["running"]


async def test_pause_resume_and_stop_answer_with_the_runtime(client: httpx.AsyncClient, service: Hosted) -> None:
    """A paused one keeps its URL and key; a stopped one is gone, for no client ever removes anything else."""
    service.have(runtime())
    body = {"runtime_id": "r1"}
    paused = (await client.post("/pause", json=body)).json()
    assert (paused["status"], paused["pod_status"], paused["session_api_key"]) == ("paused", "not found", SESSION_KEY)
    resumed = (await client.post("/resume", json=body)).json()
    assert (resumed["status"], resumed["pod_status"], resumed["url"]) == ("running", "ready", "http://127.0.0.1:49153")
    stopped = (await client.post("/stop", json=body)).json()
    assert (stopped["status"], stopped["pod_status"], stopped["url"]) == ("stopped", "not found", None)
    assert service.asked == ["pause", "resume", "stop", "archive", "delete"]
    assert (await client.post("/stop", json=body)).status_code == 404


async def test_only_runtimes_are_known(client: httpx.AsyncClient, service: Hosted) -> None:
    """Other conversations are none of this API's."""
    service.have(make_record("c1"))
    assert (await client.get("/runtime/c1")).status_code == 404
    for command in ("pause", "resume", "stop"):
        answer = await client.post(f"/{command}", json={"runtime_id": "c1"})
        assert (answer.status_code, answer.json()["detail"]) == (404, "there is no runtime c1")
    assert (await client.get("/list")).json() == {"runtimes": []}
    unknown = await client.get("/sessions/s1")
    assert (unknown.status_code, unknown.json()["detail"]) == (404, "session s1 has no runtime")
    assert service.calls == []


async def test_runtimes_are_found_by_session_and_by_id(client: httpx.AsyncClient, service: Hosted) -> None:
    """The newest of a session; the list has all that are not stopped, page after page."""
    service.have(
        runtime("r0", status=Status.STOPPED),
        runtime("r1"),
        runtime("r2", "s2", status=Status.PAUSED),
        runtime("r3", "s3", status=Status.STOPPED, sandbox=None),
        runtime("r4", "s4", status=Status.ARCHIVED),
        make_record("c1"),
    )

    async def get(target: str) -> Any:  # noqa: ANN401 - JSON
        answer = await client.get(target)
        assert answer.status_code == 200, answer.text
        return answer.json()

    first = await get("/sessions/s1")
    assert first == await get("/runtime/r1")
    assert (first["runtime_id"], first["status"]) == ("r1", "running")
    assert [one["runtime_id"] for one in (await get("/list"))["runtimes"]] == ["r1", "r2"]
    batch = await get("/sessions/batch?ids=s3&ids=s1&ids=s4&ids=s9&ids=s1")
    assert [(one["session_id"], one["status"]) for one in batch] == [("s3", "stopped"), ("s1", "running")]
    assert (await client.get("/sessions/batch")).status_code == 400
    assert (await client.get("/sessions/s4")).status_code == 404


async def test_images_are_those_of_the_engine(client: httpx.AsyncClient, service: Hosted) -> None:
    """With what a builder shows of them; and clients look where the config's own comes from."""
    service.images["img:2"] = LocalImage("2025-11-22T12:00:00Z", 1024)
    there = (await client.get("/image_exists", params={"image": "img:2"})).json()
    assert there == {"exists": True, "image": {"upload_time": "2025-11-22T12:00:00Z", "image_size_bytes": 1024}}
    assert (await client.get("/image_exists?image=other")).json() == {"exists": False, "image": None}
    assert (await client.get("/registry_prefix")).json() == {"registry_prefix": "ghcr.io/openhands"}
    service.failure = EngineUnavailable("m")
    assert (await client.get("/image_exists?image=other")).status_code == 503


async def test_sandboxs_key_beside_the_api_key_is_no_hindrance(client: httpx.AsyncClient, running: Running) -> None:
    """Older clients send both, once they have the first; but neither is good for the other."""
    assert (await client.get("/list", headers={"X-Session-API-Key": SESSION_KEY})).status_code == 200
    async with http_client(running.address, SESSION_KEY) as wrong:
        assert (await wrong.get("/list")).status_code == 401
    assert KEY not in (await client.get("/list")).text


def shown(**changes: Any) -> RuntimeInfo:  # noqa: ANN401 - any field
    """A runtime with some fields of its record changed, as clients see it."""
    return show_runtime(runtime(**changes), None)


FAILED = Failure(FailureCode.EXITED, "it exited with code 1", NOW, 1, log_tail=("last", "words"))
OOM = Failure(FailureCode.OOM_KILLED, "it ran out of memory", NOW, 137, True)


@pytest.mark.parametrize(
    ("changes", "status", "pod"),
    [
        ({"status": Status.STARTING}, "starting", "pending"),
        ({"status": Status.STARTING, "phase": Phase.IMAGE}, "starting", "pending"),
        ({"status": Status.STARTING, "phase": Phase.CREATE}, "starting", "pending"),
        ({"status": Status.STARTING, "phase": Phase.BOOT}, "starting", "running"),
        ({"status": Status.STARTING, "phase": Phase.AGENT}, "starting", "running"),
        ({"status": Status.RUNNING}, "running", "ready"),
        ({"status": Status.RUNNING, "observed": Observed.UNKNOWN}, "running", "ready"),
        ({"status": Status.PAUSED}, "paused", "not found"),
        ({"status": Status.STOPPED}, "stopped", "not found"),
        ({"status": Status.ARCHIVED}, "stopped", "not found"),
        ({"status": Status.ERROR}, "error", "failed"),
        ({"status": Status.ERROR, "error": FAILED}, "error", "failed"),
        ({"status": Status.ERROR, "error": FAILED, "restarts": 5}, "error", "crashloopbackoff"),
        (
            {"status": Status.ERROR, "error": attrs.evolve(FAILED, code=FailureCode.IMAGE_UNAVAILABLE), "restarts": 5},
            "error",
            "failed",
        ),
        ({"status": Status.ERROR, "error": FAILED, "observed": Observed.UNKNOWN}, "error", "unknown"),
    ],
)
def test_status_is_told_in_the_words_of_the_hosted_api(changes: dict[str, Any], status: str, pod: str) -> None:
    """Unknown is not dead: what an engine out of sight runs is what it was."""
    told = shown(**changes)
    assert (told.status, told.pod_status) == (status, pod)


def test_restarts_are_told_with_their_reasons() -> None:
    """Running out of memory above all; in ERROR with the last one, which was not followed by any."""
    history = (PastRestart(NOW, Cause.EXITED), PastRestart(NOW, Cause.OOM_KILLED))
    told = shown(restarts=2, restart_history=history)
    assert (told.restart_count, told.restart_reasons) == (2, ["Error", "OOMKilled"])
    told = shown(restarts=1, restart_history=history[1:], status=Status.ERROR, error=OOM)
    assert (told.restart_reasons, told.pod_status) == (["OOMKilled", "OOMKilled"], "crashloopbackoff")
    others = tuple(PastRestart(NOW, cause) for cause in (Cause.UNHEALTHY, Cause.REMOVED))
    assert shown(restart_history=others).restart_reasons == ["Unhealthy", "Removed"]


def test_logs_of_what_failed_are_told() -> None:
    """What happened, then the last lines; half characters that a sandbox printed are replaced."""
    assert shown(status=Status.ERROR, error=FAILED).pod_logs == "it exited with code 1\nlast\nwords"
    garbled = attrs.evolve(FAILED, log_tail=("\ud800",))
    assert shown(status=Status.ERROR, error=garbled).pod_logs == "it exited with code 1\n\ufffd"
    assert shown(error=FAILED).pod_logs == ""


def test_runtime_does_not_show_its_key() -> None:
    """Neither does what asks for it show the environment."""
    service = ScriptedService()
    assert SESSION_KEY not in repr(show_runtime(runtime(), service.access(runtime())))
