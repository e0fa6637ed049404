"""The provider against odd answers, on simulated time."""

from collections.abc import Awaitable, Callable

import attrs
import httpx2
import pytest
import trio
from trio.testing import MockClock

from supervisor.conversation.errors import Conflict, EngineUnavailable, ImageUnavailable, SandboxFailed
from supervisor.conversation.spec import PullPolicy
from supervisor.sandbox.port import SandboxState
from supervisor.sandbox.remote import RemoteProvider
from tests.sandbox.remote.scripted_host import (
    KEY,
    NAME,
    PLAN,
    Reply,
    ScriptedHost,
    hang,
    lists,
    missing,
    runtime,
    says,
    shows,
)

SESSION = f"GET /sessions/{NAME}"
START = "POST /start"
GARBAGE = httpx2.Response(200, content=b"<html>welcome</html>")
CUT = httpx2.RemoteProtocolError("peer closed connection without sending complete message body")


async def test_launch_of_what_is_running_while_still_pending_is_pending(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """It is answered at once, alive; where it is shows when the host says that it is ready."""
    host.on(START, shows(status="running", pod_status="pending"))
    host.on(SESSION, shows(pod_status="running"), shows())
    view = await provider.launch(PLAN)
    assert (view.state, view.is_pending, view.url, view.session_key) == (SandboxState.RUNNING, True, None, None)
    assert [
        shown is not None and shown.url for shown in (await provider.inspect(NAME), await provider.inspect(NAME))
    ] == [
        None,
        "https://r1.example/x",
    ]


@pytest.mark.parametrize("times", [1, 3])
async def test_what_is_missing_after_a_while_is_asked_for_again(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock, times: int
) -> None:
    """A host that has just been restarted may not know yet what it has."""
    host.on(SESSION, shows(), *[missing()] * times, shows())
    assert await provider.inspect(NAME) is not None
    assert await provider.inspect(NAME) is not None
    assert host.count(SESSION) == 2 + times


async def test_what_stays_missing_is_gone_and_believed_at_once_from_then_on(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Four times in a row is for certain; so is once for what was never seen."""
    provider.know(NAME, "r1")
    assert await provider.inspect(NAME) is None
    assert host.count(SESSION) == 4
    assert await provider.inspect(NAME) is None
    assert host.count(SESSION) == 5


async def test_end_of_ours_is_believed_at_once(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """What we have ended ourselves is no surprise; and ending it again asks for nothing."""
    host.on(SESSION, shows(), missing())
    host.on("POST /stop", shows(status="stopped"))
    await provider.kill(NAME)
    await provider.kill(NAME)
    assert host.asked == [SESSION, "POST /stop", SESSION]
    assert host.bodies == [{"runtime_id": "r1"}]


async def test_429_is_asked_again_when_the_host_wants_it(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Not before the time that it says."""
    host.on(START, says({"detail": "full"}, 429, Retry_After="7"), shows())
    with trio.fail_after(60):
        assert (await provider.launch(PLAN)).state is SandboxState.RUNNING
    assert 7 <= trio.current_time() < 8


async def test_500s_are_asked_again_with_backoff(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Until it works, as long as the deadline allows."""
    host.on(START, *[says({}, status) for status in (500, 502, 503, 504)], CUT, shows())
    with trio.fail_after(60):
        await provider.launch(PLAN)
    assert host.count(START) == 6
    assert 2 < trio.current_time() < 5


@pytest.mark.parametrize(
    ("reply", "words"),
    [
        (says({"detail": "boom"}, 500), "500: boom"),
        (says({"detail": "full"}, 429, Retry_After="3600"), "429: full"),
        (CUT, "peer closed"),
        (httpx2.ConnectError("refused"), "refused"),
        (httpx2.Response(200, content=b"<html>welcome</html>"), "makes no sense"),
        (httpx2.Response(404, content=b"<html>nginx</html>"), r"\[remote\] url"),
        (httpx2.Response(302, headers={"Location": "https://elsewhere/"}), r"\[remote\] url"),
        (says({"detail": "no"}, 401), "the key is refused"),
        (says({"detail": "no"}, 403), "the key is refused"),
        (hang, "did not answer within"),
    ],
)
async def test_outage_is_never_a_death(
    host: ScriptedHost,
    provider: RemoteProvider,
    autojump_clock: MockClock,
    reply: Reply,
    words: str,
) -> None:
    """Whatever a host does in place of an answer, nothing is known by it; that is told in words, within a limit."""
    for line in (SESSION, START, "GET /list", "GET /image_exists?image=image"):
        host.on(line, reply)
    await trio.lowlevel.checkpoint()
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: provider.inspect(NAME),
        lambda: provider.launch(PLAN),
        provider.list_owned,
        provider.engine,
        lambda: provider.find_image("image"),
        lambda: provider.pause(NAME),
        lambda: provider.unpause(NAME),
        lambda: provider.stop(NAME, 1.0),
        lambda: provider.kill(NAME),
    ]
    for call in calls:
        began = trio.current_time()
        with pytest.raises(EngineUnavailable, match=words) as caught:
            await call()
        assert trio.current_time() - began <= 61
        assert KEY not in str(caught.value)


async def test_hang_is_left_a_little_after_the_deadline_and_not_before(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """A change is waited for although its caller has given up: the host may do it still."""
    host.on(START, hang)
    with trio.move_on_after(10), pytest.raises(EngineUnavailable):
        await provider.launch(PLAN)
    assert 10 < trio.current_time() <= 11.5


async def test_change_is_carried_through_when_its_caller_is_cancelled(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """The answer comes after the cancellation, and is what is returned."""

    async def slowly() -> httpx2.Response:
        await trio.sleep(1.5)
        return shows()

    host.on(START, slowly)
    with trio.move_on_after(0.5) as scope:
        view = await provider.launch(PLAN)
        assert view.state is SandboxState.RUNNING
        await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert trio.current_time() == pytest.approx(1.5)


async def test_kill_waits_for_no_start(host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock) -> None:
    """A hundred starts that hang hold up nothing else."""
    host.on(START, hang)
    host.on(SESSION, shows())
    host.on("POST /stop", shows(status="stopped"))

    async def launch() -> None:
        with pytest.raises(EngineUnavailable):
            await provider.launch(PLAN)

    async with trio.open_nursery() as nursery:
        for _ in range(100):
            nursery.start_soon(launch)
        await trio.testing.wait_all_tasks_blocked()
        began = trio.current_time()
        await provider.kill(NAME)
        assert trio.current_time() - began < 0.01


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (says({"error": {"code": "sandbox_failed", "message": "no such runtime"}}, 500), SandboxFailed),
        (says({"error": {"code": "image_unavailable", "message": "no image"}}, 500), ImageUnavailable),
        (says({"error": {"code": "forbidden", "message": "not allowed", "path": "image"}}, 403), SandboxFailed),
        (says({"detail": [{"msg": "wrong"}]}, 422), SandboxFailed),
        (says({"detail": "taken"}, 409), Conflict),
    ],
)
async def test_refused_start_is_told_and_not_asked_again(
    host: ScriptedHost,
    provider: RemoteProvider,
    autojump_clock: MockClock,
    reply: httpx2.Response,
    error: type[Exception],
) -> None:
    """What will not heal."""
    host.on(START, reply)
    with pytest.raises(error, match="POST /start: it answers"):
        await provider.launch(PLAN)
    assert host.count(START) == 1


async def test_start_whose_sandbox_has_died_is_an_ended_sandbox(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """The host has tried as often as it does: whether to try once more is the restart policy's to say."""
    host.on(START, says({"error": {"code": "sandbox_failed", "message": "exited"}}, 500))
    host.on(SESSION, shows(status="error", pod_status="failed", restart_reasons=["Error"]))
    assert (await provider.launch(PLAN)).state is SandboxState.EXITED


async def test_refusal_that_quotes_the_request_tells_no_secret(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Neither the host's key nor the sandbox's variables get into an error, a log or a repr."""
    host.on(START, says({"detail": f"bad: {KEY} secret"}, 422))
    with pytest.raises(SandboxFailed) as caught:
        await provider.launch(PLAN)
    told = f"{caught.value!r}{caught.value}{provider!r}{provider._host!r}"
    assert KEY not in told
    assert "secret" not in told


async def test_conflict_of_what_was_done_meanwhile_is_fine(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """A pause that was answered too late has paused it all the same; one that has not is refused."""
    host.on(SESSION, shows(), shows(status="paused", pod_status="not found"))
    host.on("POST /pause", says({"detail": "not while PAUSED"}, 409))
    await provider.pause(NAME)
    host.on(SESSION, shows(pod_status="pending"))
    with pytest.raises(SandboxFailed, match="409"):
        await provider.pause(NAME)


async def test_what_the_host_itself_does_not_know_is_unknown(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Its own engine does not answer."""
    host.on(SESSION, shows(status="error", pod_status="unknown"))
    with pytest.raises(EngineUnavailable, match="does not know what became of"):
        await provider.inspect(NAME)


async def test_list_and_workspace_are_ours_alone(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Sessions of other daemons, and of other clients, are neither listed nor ended."""
    names = [NAME, "conversationd-01234567-c1-2", "conversationd-01234567-c10-1", "conversationd-76543210-c1-1", "mine"]
    host.on("GET /list", lists(*(runtime(session_id=name, runtime_id=f"id-{name}") for name in names)))
    assert [owned.name for owned in await provider.list_owned()] == names[:3]
    for name in names:
        host.on(f"GET /sessions/{name}", shows(session_id=name, runtime_id=f"id-{name}"))
    host.on("POST /stop", shows())
    await provider.remove_workspace(PLAN.conversation)
    assert host.bodies == [{"runtime_id": f"id-{name}"} for name in names[:2]]


async def test_image_is_looked_for_only_where_it_may_not_be_pulled(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Any other is the host's to fetch."""

    async def ignore(_: object) -> None:
        await trio.lowlevel.checkpoint()

    host.on("GET /image_exists?image=image", says({"exists": False, "image": None}))
    await provider.ensure_image(attrs.evolve(PLAN.spec, pull=PullPolicy.MISSING), ignore, 1.0)
    assert host.asked == []
    with pytest.raises(ImageUnavailable):
        await provider.ensure_image(PLAN.spec, ignore, 1.0)


async def test_output_comes_when_it_has_failed(
    host: ScriptedHost, provider: RemoteProvider, autojump_clock: MockClock
) -> None:
    """Following waits for the end, through outages, and then tells what the host has kept."""
    failed = shows(status="error", pod_status="failed", pod_logs="one\ntwo\nthree")
    host.on(SESSION, shows(), shows(), says({}, 401), shows(), failed)
    async with provider.follow_logs(NAME, 2) as lines:
        assert [line async for line in lines] == ["two", "three"]
    assert await provider.logs(NAME, 1) == ["three"]
