"""The whole of it: the daemon over a real engine, with real agents that really work."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import pytest
import trio
from docker import APIClient

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, Conversation, RemoteError, connect
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ExecutionStatus
from tests.e2e.conftest import StartAgentDaemon
from tests.e2e.llm_stub import API_KEY
from tests.e2e.work import PATIENCE, Work, holds_secret, long_step, model, secrets_told, work_of

STARTS = 10
AT_ONCE = 2


def lines(count: int) -> list[str]:
    """What is in the agent's file after so many steps."""
    return [f"step-{step}" for step in range(count)]


async def test_agent_works_through_pause_crash_and_restart_to_the_end(
    agent_daemon: StartAgentDaemon, raw: APIClient
) -> None:
    """An agent is paused in the middle, goes on, is killed at work, goes on by itself, ends, and is stopped."""
    with trio.fail_after(PATIENCE), model(raw, 6, long_step(4)) as llm:
        llm.hold(2)
        async with work_of(agent_daemon(""), raw, llm) as work:
            assert (await work.start()).status is Status.RUNNING
            await work.told("execution", to="running")
            await work.asked(3)
            await pause_in_the_middle(work)
            assert (await work.client.resume("works")).status is Status.RUNNING
            await work.asked(4)
            llm.release()
            await work.written(4)
            await kill_in_the_middle(work)
            await work.told("execution", to="finished")
            await check_access(work)
            assert (await work.client.get("works")).execution_status is ExecutionStatus.FINISHED
            stopped = await work.client.stop("works")
            assert (stopped.conversation.status, stopped.was_running) == (Status.STOPPED, True)
            assert (await work.container())["State"]["Status"] == "exited"
            assert await work.steps() == lines(6)


async def pause_in_the_middle(work: Work) -> None:
    """Pause while the model thinks about step 2: that step is still done, no further one, and nothing moves then."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work.client.pause, "works")
        await work.pause_noted()
        assert (await work.client.get("works")).status is Status.RUNNING
        work.llm.hold(3)
    conversation = await work.client.get("works")
    assert (conversation.status, conversation.execution_status) == (Status.PAUSED, ExecutionStatus.PAUSED)
    assert await work.is_frozen()
    assert work.llm.asked == (0, 1, 2)
    assert await work.steps() == lines(3)


async def kill_in_the_middle(work: Work) -> None:
    """Kill the sandbox from outside while a command runs in it: the next incarnation comes by itself."""
    before = await work.container()
    await work.kill_container()
    scheduled = await work.told("restart_scheduled")
    assert (scheduled.data["cause"], scheduled.data["exit_code"]) == ("exited", 137)
    assert (work.seen[-2].kind, work.seen[-2].data["to"]) == ("status", "STARTING")
    await work.told("status", to="RUNNING")
    after = await work.container()
    assert after["Id"] != before["Id"]
    assert after["Mounts"] == before["Mounts"]
    conversation = await work.client.get("works")
    assert conversation.incarnation == 1 + conversation.restarts


async def check_access(work: Work) -> None:
    """What `connect` gives opens the agent server, and nothing else does."""
    answer = await work.ask_agent("GET")
    assert (answer.status, answer.body["execution_status"]) == (200, "finished")
    assert (await work.ask_agent("GET", key="wrong")).status == 401


async def test_agent_does_not_notice_that_the_daemon_is_killed(agent_daemon: StartAgentDaemon, raw: APIClient) -> None:
    """After kill -9 the agent works on in its container; the next daemon follows it again, to its end."""
    daemon = agent_daemon("")
    with trio.fail_after(PATIENCE), model(raw, 5) as llm:
        llm.hold(2)
        async with work_of(daemon, raw, llm) as work:
            before = await work.start()
            await work.asked(3)
            sandbox = await work.container()
        daemon.kill()
        llm.hold(4)
        await work.asked(5)
        daemon.start()
        async with work_of(daemon, raw, llm) as work:
            after = await work.client.get("works")
            assert (after.status, after.sandbox, after.incarnation) == (Status.RUNNING, before.sandbox, 1)
            llm.release()
            await work.told("execution", to="finished")
            now = await work.container()
            assert [now["Id"], now["State"]["StartedAt"]] == [sandbox["Id"], sandbox["State"]["StartedAt"]]
            assert await work.steps() == lines(5)
    assert llm.asked == (0, 1, 2, 3, 4, 5)


async def test_agent_that_was_stopped_in_a_step_keeps_its_history_and_waits(
    agent_daemon: StartAgentDaemon, raw: APIClient
) -> None:
    """A stop ends a running step; after a restart the conversation is there, and only runs when it is told to."""
    with trio.fail_after(PATIENCE), model(raw, 4, long_step(2)) as llm:
        async with work_of(agent_daemon(""), raw, llm) as work:
            await work.start()
            await work.written(2)
            before = await work.history("ActionEvent")
            asked = llm.asked
            began = time.monotonic()
            await work.client.stop("works")
            assert time.monotonic() - began < 10
            assert (await work.client.restart("works")).status is Status.RUNNING
            assert (await work.history("ActionEvent"))[: len(before)] == before
            assert (await work.ask_agent("GET")).body["execution_status"] != "running"
            assert llm.asked == asked
            await work.ask_agent("POST", "/run")
            await work.told("execution", to="finished")
            assert await work.steps() == lines(4)


async def test_ten_starts_in_a_row_all_reach_running(
    agent_daemon: StartAgentDaemon, raw: APIClient, out_loud: Callable[[str], None]
) -> None:
    """Whatever boots fail on the way, nobody who starts a conversation sees it."""
    daemon, began = agent_daemon(""), time.monotonic()
    names = [f"start{number}" for number in range(STARTS)]
    failed_boots: list[str] = []

    async def start_each(client: ControlClient, request: JsonObject) -> None:
        await trio.lowlevel.checkpoint()
        while names:
            name = names.pop()
            conversation = await client.start(name, request=request)
            assert conversation.status is Status.RUNNING
            told = [event.data["message"] for event in await client.history(name) if event.kind == "restart_scheduled"]
            assert conversation.incarnation == 1 + len(told)
            failed_boots.extend(told)
            await client.stop(name, force=True)

    with trio.fail_after(PATIENCE * AT_ONCE), model(raw, 0) as llm:
        async with connect(UnixAddress(daemon.socket)) as client, trio.open_nursery() as nursery:
            for _ in range(AT_ONCE):
                nursery.start_soon(start_each, client, llm.request_body())
    assert names == []
    out_loud(f"{STARTS} starts, {AT_ONCE} at a time: {time.monotonic() - began:.0f} s, failed boots: {failed_boots}")


async def test_request_that_the_agent_refuses_fails_at_once(agent_daemon: StartAgentDaemon, raw: APIClient) -> None:
    """The caller gets the agent's own words, without the secrets in them, and no further boot is tried."""
    with trio.fail_after(PATIENCE), model(raw, 1) as llm:
        request = llm.request_body()
        request["agent_settings"]["llm"]["base_url"] = [API_KEY]
        async with work_of(agent_daemon(""), raw, llm) as work:
            with pytest.raises(RemoteError) as caught:
                await work.client.start("works", request=request)
            assert caught.value.has(ErrorCode.AGENT_REFUSED)
            assert caught.value.data["status"] == 422
            assert "base_url" in str(caught.value.data["body"])
            assert API_KEY not in f"{caught.value} {caught.value.data}"
            refused = await work.client.get("works")
            assert refused.status is Status.ERROR
            assert refused.error is not None
            assert refused.error.code == ErrorCode.AGENT_REFUSED
            await work.told("phase", phase="agent")
            await work.told("status", to="ERROR")
            assert [event.kind for event in work.seen[-2:]] == ["phase", "status"]
            assert llm.asked == ()


async def test_end_of_a_sandbox_tells_no_secret(agent_daemon: StartAgentDaemon, raw: APIClient) -> None:
    """An agent that dies for good is told with its last words; the keys are only where they have to be."""
    daemon = agent_daemon("max_restarts = 0\n")
    with trio.fail_after(PATIENCE), model(raw, 2) as llm:
        llm.hold(1)
        async with work_of(daemon, raw, llm) as work:
            await start_at_last(work)
            await work.asked(2)
            access = await work.client.connect("works")
            container = await work.container()
            await work.kill_container()
            await work.told("status", to="ERROR")
            conversation = await work.client.get("works")
            assert conversation.error is not None
            assert conversation.error.log_tail
            with pytest.raises(RemoteError) as caught:
                await work.client.connect("works")
    assert len(access.session_api_key) >= 32
    told = [str(conversation), str(caught.value.data), repr(access), str(container["Config"]["Cmd"]), container["Path"]]
    told += [str(container["Args"]), str(container["Config"]["Labels"])]
    assert [text for text in told if holds_secret(text, {access.session_api_key} | daemon.session_keys)] == []
    assert secrets_told(daemon) == []
    assert access.session_api_key in str(container["Config"]["Env"])


async def start_at_last(work: Work) -> None:
    """Start it, and again as often as a boot fails: the policy of this test allows for no restart."""
    start: Callable[[], Awaitable[Conversation]] = work.start
    while True:
        await trio.lowlevel.checkpoint()
        with suppress(RemoteError):
            await start()
            return
        start = partial(work.client.restart, "works")
