"""The provider against an engine that fails on demand."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from requests import Response

from supervisor.conversation.errors import ConversationdError, EngineUnavailable, ImageUnavailable, SandboxFailed
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import PullPolicy
from supervisor.sandbox.docker import DockerProvider, Lanes
from supervisor.sandbox.docker.client import EngineClient
from supervisor.sandbox.docker.events import EngineWatch, Pulse
from supervisor.sandbox.docker.lanes import Lane
from supervisor.sandbox.docker.limits import read_limit
from supervisor.sandbox.docker.logs import read_logs
from supervisor.sandbox.docker.names import Names
from supervisor.sandbox.docker.streams import _Opening
from supervisor.sandbox.port import PullProgress, SandboxPlan, SandboxState
from tests.sandbox.fake_engine import Answer, FakeEngine, fake_engine
from tests.sandbox.test_hardening import SPEC

OWNER = "0123456789abcdef"
NAMES = Names(OWNER)
C1 = ConversationId("c1")
NAME = NAMES.container(C1, 1)
PLAN = SandboxPlan(C1, 1, attrs.evolve(SPEC, user=None), {})
OK = Answer(204)
FOREIGN_EVENT = {"Action": "start", "Actor": {"ID": "", "Attributes": {}}}
CREATE = "POST /containers/create"
OWN = "PUT /containers/f00/archive"
INSPECT = f"GET /containers/{NAME}/json"
INSPECT_BY_ID = "GET /containers/f00/json"


def container(status: str, name: str = NAME, gateway: str = "127.0.0.1", names: Names = NAMES) -> Answer:
    """What the engine says of our container f00."""
    return Answer(
        body={
            "Id": "f00",
            "Name": f"/{name}",
            "Config": {"Image": "tiny", "Labels": names.container_labels(C1, 1)},
            "State": {"Status": status, "ExitCode": 0, "OOMKilled": False, "Error": ""},
            "NetworkSettings": {
                "Ports": {"80/tcp": None, "8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "49153"}]},
                "Networks": {"bridge": {"IPAddress": "172.17.0.2", "Gateway": gateway}},
            },
        }
    )


def refusal(status: int, words: str) -> Answer:
    """An error of the engine's."""
    return Answer(status, {"message": words})


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    """An engine on which a launch goes well."""
    with fake_engine(tmp_path / "engine.sock") as engine:
        engine.tell(
            {
                "POST /volumes/create": Answer(201, {"Labels": NAMES.workspace_labels(C1)}),
                CREATE: Answer(201, {"Id": "f00"}),
                "POST /containers/f00/start": OK,
                INSPECT: container("running"),
                INSPECT_BY_ID: container("running"),
            }
        )
        yield engine


@pytest.fixture
async def provider(engine: FakeEngine) -> AsyncIterator[DockerProvider]:
    """A provider on it that does not wait between its attempts."""
    async with DockerProvider(engine.base_url, OWNER, Lanes()) as provider:
        provider._containers.pauses = (0.0, 0.0)
        provider._containers.names = NAMES  # what the engine shows was made by this invocation
        yield provider


async def test_launch_costs_four_requests(engine: FakeEngine, provider: DockerProvider) -> None:
    """Once the engine's version and its host are known."""
    await provider.launch(PLAN)
    engine.asked.clear()
    view = await provider.launch(PLAN)
    assert view.url == "http://127.0.0.1:49153"
    assert engine.asked == ["POST /volumes/create", CREATE, "POST /containers/f00/start", INSPECT_BY_ID]


async def test_workspace_is_its_users_before_it_starts(engine: FakeEngine, provider: DockerProvider) -> None:
    """Also of one whose creation we did not hear of; one that cannot be given away is taken back."""
    plan = SandboxPlan(C1, 1, attrs.evolve(SPEC, user="1000:1000"), {})
    engine.tell({OWN: Answer()})
    await provider.launch(plan)
    assert engine.asked[-3:] == [OWN, "POST /containers/f00/start", INSPECT_BY_ID]
    engine.tell({CREATE: refusal(409, "the name is taken"), INSPECT: container("created")})
    await provider.launch(plan)
    assert engine.asked[-3:] == [OWN, "POST /containers/f00/start", INSPECT_BY_ID]
    engine.tell({OWN: refusal(403, "marked read-only"), "DELETE /containers/f00": OK})
    with pytest.raises(SandboxFailed, match="marked read-only"):
        await provider.launch(plan)
    assert engine.asked[-2:] == [OWN, "DELETE /containers/f00"]


@pytest.mark.parametrize("status", ["created", "exited"])
async def test_container_that_may_be_about_to_start_is_replaced(
    engine: FakeEngine, provider: DockerProvider, status: str
) -> None:
    """Our predecessor may have asked for that as it died: a start that comes late must find nothing."""
    creates = iter([refusal(409, "the name is taken"), Answer(201, {"Id": "f00"})])
    left = container(status, names=Names(OWNER))
    engine.tell({CREATE: lambda: next(creates), INSPECT: left, "DELETE /containers/f00": OK})
    assert (await provider.launch(PLAN)).state is SandboxState.RUNNING
    assert engine.asked[-6:] == [
        CREATE,
        INSPECT,
        "DELETE /containers/f00",
        CREATE,
        "POST /containers/f00/start",
        INSPECT_BY_ID,
    ]


async def test_create_that_was_not_heard_of_vouches_for_nothing(engine: FakeEngine, provider: DockerProvider) -> None:
    """What has the name then may be our predecessor's, about to start."""
    engine.tell({CREATE: Answer(cut=True)})
    with pytest.raises(EngineUnavailable):
        await provider.launch(PLAN)
    creates = iter([refusal(409, "the name is taken"), Answer(201, {"Id": "f00"})])
    left = container("created", names=Names(OWNER))
    engine.tell({CREATE: lambda: next(creates), INSPECT: left, "DELETE /containers/f00": OK})
    await provider.launch(PLAN)
    assert engine.asked[-4:] == ["DELETE /containers/f00", CREATE, "POST /containers/f00/start", INSPECT_BY_ID]


async def test_container_whose_start_was_not_answered_is_replaced(engine: FakeEngine, provider: DockerProvider) -> None:
    """It may come after the end of what a second one would start."""
    engine.tell({"POST /containers/f00/start": Answer(cut=True)})
    with pytest.raises(EngineUnavailable):
        await provider.launch(PLAN)
    creates = iter([refusal(409, "the name is taken"), Answer(201, {"Id": "f00"})])
    engine.tell({CREATE: lambda: next(creates), INSPECT: container("created"), "DELETE /containers/f00": OK})
    engine.tell({"POST /containers/f00/start": OK})
    await provider.launch(PLAN)
    assert engine.asked[-4:] == ["DELETE /containers/f00", CREATE, "POST /containers/f00/start", INSPECT_BY_ID]


@pytest.mark.parametrize(
    "info", [{"NCPU": 2, "SecurityOptions": ["name=rootless"]}, {"NCPU": 2, "OperatingSystem": "Docker Desktop"}]
)
async def test_hidden_containers_have_no_direct_endpoint(
    engine: FakeEngine, provider: DockerProvider, info: dict[str, object]
) -> None:
    """Their addresses lead nowhere on this host."""
    assert (await provider.launch(PLAN)).direct is not None
    provider._containers._host = None
    engine.tell({"GET /info": Answer(body=info)})
    assert (await provider.launch(PLAN)).direct is None


@pytest.mark.parametrize("gateway", ["", "198.51.100.1", "fe80::1", "255.255.255.255"])
async def test_network_that_does_not_begin_here_has_no_direct_endpoint(
    engine: FakeEngine, provider: DockerProvider, gateway: str
) -> None:
    """Somebody else may have its addresses here: who they are is not known to us."""
    engine.tell({INSPECT_BY_ID: container("running", gateway=gateway)})
    view = await provider.launch(PLAN)
    assert (view.url, view.direct) == ("http://127.0.0.1:49153", None)


async def test_taken_name_that_shows_nothing_is_tried_again(engine: FakeEngine, provider: DockerProvider) -> None:
    """Another create is under way; if it never shows, the engine is in trouble."""
    answers = iter([refusal(409, "name is in use"), Answer(201, {"Id": "f00"})])
    engine.tell({CREATE: lambda: next(answers), INSPECT: refusal(404, "No such container")})
    assert (await provider.launch(PLAN)).state is SandboxState.RUNNING
    engine.tell({CREATE: refusal(409, "name is in use"), INSPECT: refusal(404, "No such container")})
    with pytest.raises(EngineUnavailable, match="goes away as often as it is made"):
        await provider.launch(PLAN)


@pytest.mark.parametrize("status", ["removing", "dead"])
async def test_container_on_its_way_out_is_replaced(engine: FakeEngine, provider: DockerProvider, status: str) -> None:
    """Its removal is waited for, and then the name is free."""
    answers = iter([refusal(409, "name is in use"), Answer(201, {"Id": "f00"})])
    engine.tell(
        {
            CREATE: lambda: next(answers),
            INSPECT: container(status),
            "DELETE /containers/f00": refusal(409, "removal of container f00 is already in progress"),
            "POST /containers/f00/wait": Answer(body={"StatusCode": 0}),
        }
    )
    assert (await provider.launch(PLAN)).state is SandboxState.RUNNING
    assert "POST /containers/f00/wait" in engine.asked


async def test_create_that_fails_otherwise_is_no_conflict(engine: FakeEngine, provider: DockerProvider) -> None:
    """A bad parameter."""
    engine.tell({CREATE: refusal(400, "Range of CPUs is from 0.01 to 2.00")})
    with pytest.raises(SandboxFailed, match="Range of CPUs"):
        await provider.launch(PLAN)


async def test_refused_start_leaves_nothing(engine: FakeEngine, provider: DockerProvider) -> None:
    """The half-made container goes."""
    engine.tell({"POST /containers/f00/start": refusal(400, "bad"), "DELETE /containers/f00": OK})
    with pytest.raises(SandboxFailed, match="bad"):
        await provider.launch(PLAN)
    assert engine.asked[-1] == "DELETE /containers/f00"


@pytest.mark.parametrize("asked", ["POST /containers/f00/start", INSPECT_BY_ID])
async def test_sandbox_removed_while_it_is_launched_is_made_anew(
    engine: FakeEngine, provider: DockerProvider, asked: str
) -> None:
    """Someone else did that, before its start or after; if it goes on the engine is told of."""
    gone = refusal(404, "No such container: f00")
    well = OK if asked.endswith("start") else container("running")
    answers = iter([gone, well])
    engine.tell({INSPECT: gone, asked: lambda: next(answers), "DELETE /containers/f00": gone})
    assert (await provider.launch(PLAN)).state is SandboxState.RUNNING
    assert engine.asked.count(CREATE) == 2
    engine.tell({asked: gone})
    with pytest.raises(EngineUnavailable, match="goes away as often as it is made"):
        await provider.launch(PLAN)


async def test_start_without_its_network_is_refused(engine: FakeEngine, provider: DockerProvider) -> None:
    """The engine says 404 to that, too; asking again would not help."""
    missing = refusal(404, "failed to set up container networking: network lan not found")
    engine.tell({"POST /containers/f00/start": missing, "DELETE /containers/f00": OK})
    with pytest.raises(SandboxFailed, match="network lan not found"):
        await provider.launch(PLAN)


async def test_container_found_by_its_id_is_not_the_one(engine: FakeEngine, provider: DockerProvider) -> None:
    """The engine takes the beginning of an id for a name."""
    engine.tell({INSPECT: container("running", name="another")})
    assert await provider.inspect(NAME) is None


async def test_id_of_an_earlier_container_of_the_name_stands_for_nothing(
    engine: FakeEngine, provider: DockerProvider
) -> None:
    """A list may be answered late, and tell of one that has been removed: it is another one that is there now."""
    gone = refusal(404, "No such container: bad")
    engine.tell({"GET /containers/bad/json": gone, "POST /containers/bad/kill": gone, "DELETE /containers/bad": gone})
    engine.tell({"POST /containers/f00/kill": OK, "DELETE /containers/f00": OK})
    for act, last in ((provider.kill, "POST /containers/f00/kill"), (provider.remove, "DELETE /containers/f00")):
        provider.know(NAME, "bad")
        await act(NAME)
        assert engine.asked[-1] == last
    provider.know(NAME, "bad")
    assert (await provider.inspect(NAME)) is not None


@pytest.mark.parametrize("taken", [False, True])
async def test_renamed_container_is_still_ours_and_gets_its_name_back(
    engine: FakeEngine, provider: DockerProvider, taken: bool
) -> None:
    """It is found by the id that it had when it was made, or that a record remembers."""
    provider.know(NAME, "f00")
    engine.tell(
        {
            INSPECT: refusal(404, "No such container"),
            INSPECT_BY_ID: container("running", name="another"),
            "POST /containers/f00/rename": refusal(409, "name is in use") if taken else OK,
            "POST /containers/f00/kill": OK,
        }
    )
    view = await provider.inspect(NAME)
    assert view is not None
    assert (view.name, view.id) == (NAME, "f00")
    await provider.kill(NAME)
    assert {"POST /containers/f00/rename", "POST /containers/f00/kill"} <= set(engine.asked)


async def test_failed_start_shows_in_a_created_container(engine: FakeEngine, provider: DockerProvider) -> None:
    """Its code and the engine's words are in the view, and it has no endpoint."""
    body = container("created").body
    assert isinstance(body, dict)
    body["State"] |= {"ExitCode": 127, "Error": "not found"}
    engine.tell({INSPECT: Answer(body=body)})
    view = await provider.inspect(NAME)
    assert view is not None
    assert (view.state, view.exit_code, view.message) == (SandboxState.CREATED, 127, "not found")
    assert view.published is None


@pytest.mark.parametrize(
    ("call", "path"),
    [
        (lambda provider: provider.kill(NAME), "POST /containers/f00/kill"),
        (lambda provider: provider.pause(NAME), "POST /containers/f00/pause"),
        (lambda provider: provider.stop(NAME, 1), "POST /containers/f00/stop"),
        (lambda provider: provider.remove(NAME), "DELETE /containers/f00"),
    ],
)
async def test_changes_report_an_engine_in_trouble(
    engine: FakeEngine,
    provider: DockerProvider,
    call: Callable[[DockerProvider], AsyncIterator[None]],
    path: str,
) -> None:
    """What happened to the sandbox is not known then; a 404 on the other hand says that it is gone."""
    engine.tell({path: refusal(500, "containerd: context canceled")})
    with pytest.raises(EngineUnavailable):
        await call(provider)  # type: ignore[misc]  # an awaitable, whatever kind
    engine.tell({path: refusal(404, "No such container")})
    try:
        await call(provider)  # type: ignore[misc]  # the same
    except SandboxFailed as failure:
        assert "does not run" in failure.message  # noqa: PT017  # pause alone minds
    assert provider._containers._ids == {}


async def test_removal_waits_behind_no_graceful_stop(engine: FakeEngine) -> None:
    """It is what a forced stop ends with; graceful ones keep their places for their whole grace period."""
    asked, ended = threading.Event(), threading.Event()

    def stop() -> Answer:
        asked.set()
        ended.wait()
        return OK

    engine.tell({INSPECT: container("running", names=Names(OWNER)), "POST /containers/f00/stop": stop})
    engine.tell({"DELETE /containers/f00": OK})
    async with DockerProvider(engine.base_url, OWNER, Lanes(stop=1)) as provider, trio.open_nursery() as nursery:
        nursery.start_soon(provider.stop, NAME, 30)
        await trio.to_thread.run_sync(asked.wait, abandon_on_cancel=True)
        try:
            with trio.fail_after(5):
                await provider.remove(NAME)
        finally:
            ended.set()
    assert "DELETE /containers/f00" in engine.asked


async def test_workspace_that_cannot_be_removed_is_reported(engine: FakeEngine, provider: DockerProvider) -> None:
    """An error that is no conflict keeps its kind."""
    volume = NAMES.workspace(C1)
    engine.tell(
        {
            f"GET /volumes/{volume}": Answer(body={"Labels": NAMES.workspace_labels(C1)}),
            f"DELETE /volumes/{volume}": refusal(500, "shutting down"),
        }
    )
    with pytest.raises(EngineUnavailable):
        await provider.remove_workspace(C1)


async def test_replaced_engine_is_asked_for_its_version_again(engine: FakeEngine, provider: DockerProvider) -> None:
    """One that no longer speaks the version that the old one told."""
    assert await provider.inspect(NAME) is not None
    engine.tell({INSPECT_BY_ID: refusal(400, "client version 1.41 is too old. Minimum supported API version is 1.44")})
    with pytest.raises(EngineUnavailable):
        await provider.inspect(NAME)
    engine.tell({INSPECT_BY_ID: container("running")})
    assert await provider.inspect(NAME) is not None
    assert engine.asked.count("GET /version") == 2


async def test_first_calls_at_once_share_a_connection_pool(engine: FakeEngine, provider: DockerProvider) -> None:
    """Each asks for the version, one client stays."""
    gate = threading.Barrier(2)

    def version() -> Answer:
        gate.wait()
        return Answer(body={"ApiVersion": "1.41", "Version": "x"})

    engine.tell({"GET /version": version})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(provider.inspect, NAME)
        nursery.start_soon(provider.inspect, NAME)
    assert engine.asked.count("GET /version") == 2
    await provider.inspect(NAME)
    assert engine.asked.count("GET /version") == 2


async def test_closed_provider_asks_nothing(engine: FakeEngine) -> None:
    """A call that comes too late makes no connection that nobody would close."""
    provider = DockerProvider(engine.base_url, OWNER, Lanes())
    await provider.aclose()
    with pytest.raises(EngineUnavailable, match="closed"):
        await provider.inspect(NAME)


@pytest.mark.parametrize("base_url", ["tcp://127.0.0.1:1", "nonsense://x", "unix:///no/such/engine.sock"])
async def test_no_engine_is_said_with_its_address(base_url: str) -> None:
    """Making the provider asks nothing; the first call says where nobody answered."""
    async with DockerProvider(base_url, OWNER, Lanes()) as provider:
        with pytest.raises(EngineUnavailable, match=base_url):
            await provider.engine()


async def test_log_of_a_container_that_just_went_is_empty(engine: FakeEngine, provider: DockerProvider) -> None:
    """It was there a moment ago."""
    await provider.inspect(NAME)
    assert await provider.logs(NAME, 10) == ()
    assert "GET /containers/f00/logs" in engine.asked


async def test_logs_that_stop_in_the_middle_hold_up_nobody(engine: FakeEngine, provider: DockerProvider) -> None:
    """As many as there are places for looks, pauses and resumes; and who no longer wants one leaves."""
    over, begun = threading.Event(), threading.Barrier(Lanes().control + 1)

    def stop_in_the_middle() -> Answer:
        begun.wait()
        return Answer(body="x", until=over)

    engine.tell({"GET /containers/f00/logs": stop_in_the_middle, "POST /containers/f00/pause": OK})
    try:
        with trio.fail_after(5):
            async with trio.open_nursery() as nursery:
                for _ in range(Lanes().control):
                    nursery.start_soon(provider.logs, NAME, 10)
                await trio.to_thread.run_sync(begun.wait, abandon_on_cancel=True)
                assert await provider.inspect(NAME) is not None
                await provider.pause(NAME)
                nursery.cancel_scope.cancel()
    finally:
        over.set()


async def test_log_that_does_not_come_to_its_end_is_given_up(engine: FakeEngine, provider: DockerProvider) -> None:
    """What came of it is not taken for all of it."""
    over = threading.Event()
    engine.tell({"GET /containers/f00/logs": Answer(body="x", until=over)})
    try:
        with pytest.raises(EngineUnavailable, match="did not tell the output"):
            await read_logs(provider._logs, provider._containers, NAME, 10, most=0.1)
    finally:
        over.set()


async def test_broken_stream_is_no_end(engine: FakeEngine, provider: DockerProvider) -> None:
    """An engine that goes away in the middle of a log."""
    engine.tell({"GET /containers/f00/logs": Answer(body="x", cut=True)})
    async with provider.follow_logs(NAME, 10) as lines:
        with pytest.raises(EngineUnavailable):
            await anext(lines)
    with pytest.raises(EngineUnavailable):
        await provider.logs(NAME, 10)


async def test_broken_export_leaves_no_file(engine: FakeEngine, provider: DockerProvider, tmp_path: Path) -> None:
    """Half a tar is none."""
    engine.tell({"GET /containers/f00/archive": Answer(body="x" * 1000, cut=True)})
    with pytest.raises(EngineUnavailable):
        await provider.export_workspace(NAME, "/workspace", tmp_path / "target")
    assert not await trio.Path(tmp_path / "target").exists()


async def test_silent_engine_that_answers_pings_is_not_lost(engine: FakeEngine, provider: DockerProvider) -> None:
    """Nothing happens on it, that is all."""
    over, pinged = threading.Event(), threading.Event()

    def ping() -> Answer:
        if engine.asked.count("GET /_ping") == 3:
            pinged.set()
        return Answer(body="OK")

    engine.tell({"GET /events": Answer(body=FOREIGN_EVENT, until=over), "GET /_ping": ping})
    heard = Heard()
    watch = EngineWatch(provider._watch, provider._containers, provider._endings, heard, Pulse(every=0.01))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.run)
        await trio.to_thread.run_sync(pinged.wait, abandon_on_cancel=True)
        nursery.cancel_scope.cancel()
    over.set()
    assert (heard.connected, heard.lost) == (1, 0)


async def test_pull_that_repeats_itself_stalls(engine: FakeEngine, provider: DockerProvider) -> None:
    """Messages without news do not keep it alive, and an engine that sends nothing at all even less."""
    over = threading.Event()
    spec = attrs.evolve(SPEC, pull=PullPolicy.ALWAYS)
    engine.tell({"POST /images/create": Answer(body={"id": "a", "status": "Retrying in 5 seconds"}, until=over)})
    with pytest.raises(ImageUnavailable, match="did not advance"):
        await provider.ensure_image(spec, no_progress, 0.1)
    over.set()


def test_provider_has_the_name_that_specs_choose_it_by() -> None:
    """The one in the default config."""
    assert DockerProvider(None, OWNER, Lanes()).name == "docker"


async def no_progress(_: PullProgress) -> None:
    """Nothing is pulled in these tests."""
    await trio.lowlevel.checkpoint()
    raise AssertionError


@attrs.define
class Heard:
    """Counts connections and losses; says when the third connection stands."""

    connected: int = 0
    lost: int = 0
    third: trio.Event = attrs.field(factory=trio.Event)

    def engine_connected(self) -> None:
        """Count."""
        self.connected += 1
        if self.connected == 3:
            self.third.set()

    def engine_lost(self, reason: str) -> None:
        """Count."""
        self.lost += 1

    def sandbox_changed(self, conversation: ConversationId) -> None:
        """Not in these tests."""


@pytest.mark.parametrize("cut", [False, True])
async def test_events_that_end_are_asked_for_again_without_alarm(
    engine: FakeEngine, provider: DockerProvider, cut: bool
) -> None:
    """However they end; and an engine whose streams end at once is not asked without pause."""
    heard = Heard()
    engine.tell({"GET /events": Answer(body=FOREIGN_EVENT, cut=cut)})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(provider.watch, heard)
        await heard.third.wait()
        nursery.cancel_scope.cancel()
    assert heard.lost == 0


async def test_pull_error_comes_in_the_registrys_words(engine: FakeEngine, provider: DockerProvider) -> None:
    """And a broken pull is the engine's trouble."""
    spec = attrs.evolve(SPEC, pull=PullPolicy.ALWAYS, image="tiny")
    engine.tell({"POST /images/create": refusal(404, "pull access denied")})
    with pytest.raises(ImageUnavailable, match="pull access denied"):
        await provider.ensure_image(spec, no_progress, 5)
    engine.tell({"POST /images/create": Answer(body={}, cut=True)})
    with pytest.raises(EngineUnavailable):
        await provider.ensure_image(spec, no_progress, 5)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (refusal(500, "context canceled"), EngineUnavailable),
        (refusal(400, "invalid reference format"), ImageUnavailable),
    ],
)
async def test_image_check_tells_trouble_from_refusal(
    engine: FakeEngine, provider: DockerProvider, answer: Answer, error: type[ConversationdError]
) -> None:
    """An engine in trouble does not make an image unavailable."""
    engine.tell({"GET /images/tiny/json": answer})
    with pytest.raises(error):
        await provider.ensure_image(SPEC, no_progress, 5)


async def test_image_that_is_refused_is_not_found(engine: FakeEngine, provider: DockerProvider) -> None:
    """An engine in trouble does not say that it is not there."""
    engine.tell({"GET /images/tiny/json": refusal(400, "invalid reference format")})
    assert await provider.find_image("tiny") is None
    engine.tell({"GET /images/tiny/json": refusal(500, "context canceled")})
    with pytest.raises(EngineUnavailable):
        await provider.find_image("tiny")


async def test_opening_a_stream_is_left_at_once(engine: FakeEngine) -> None:
    """However long the engine takes to answer."""
    asked, go = threading.Event(), threading.Event()

    def events() -> Answer:
        asked.set()
        go.wait()
        return Answer()

    async def opened() -> None:
        async with lane.open_stream(read_limit(), begin_events):
            raise AssertionError

    engine.tell({"GET /events": events})
    lane = Lane(engine.base_url, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(opened)
        await trio.to_thread.run_sync(asked.wait, abandon_on_cancel=True)
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 1
    go.set()
    lane.close()


@pytest.mark.parametrize("first", ["opener leaves", "stream comes"])
async def test_stream_that_nobody_wants_is_closed(engine: FakeEngine, first: str) -> None:
    """Whichever side is first, one of them closes it."""
    engine.tell({"GET /events": Answer()})
    lane, opening = Lane(engine.base_url, 1), _Opening()
    if first == "opener leaves":
        opening.abandon()
    stream = await trio.to_thread.run_sync(opening.run, partial(lane.run, read_limit(), begin_events))
    if first == "stream comes":
        opening.abandon()
    assert stream._socket.fileno() == -1
    lane.close()


def begin_events(client: EngineClient) -> Response:
    """Ask for events."""
    return client.open_stream("GET", "/events", {})
