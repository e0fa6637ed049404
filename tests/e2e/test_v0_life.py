"""The daemon with the older server, whose stub runs in a real container: through all of a conversation's life."""

import pytest
import trio
from docker import APIClient

from supervisor.control.client import RemoteError
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ExecutionStatus
from tests.e2e.conftest import StartAgentDaemon
from tests.e2e.llm_stub import API_KEY, LlmStub
from tests.e2e.work import PATIENCE, Work, long_step, model, secrets_told, until, work_of

TOKEN = "a-good-token-of-a-git-provider"
VALUE = "the-value-of-a-secret"


def older_request(llm: LlmStub) -> JsonObject:
    """A start request with everything that the older server takes."""
    return {
        "settings": {"llm_model": "openai/stub", "llm_api_key": API_KEY, "llm_base_url": llm.base_url},
        "provider_tokens": {"github": {"token": TOKEN}},
        "secrets": [{"name": "NAME", "value": VALUE, "description": "d"}],
        "initial_user_msg": "Work through the steps.",
        "repository": "o/r",
    }


def lines(count: int) -> list[str]:
    """What is in the agent's file after so many steps."""
    return [f"step-{step}" for step in range(count)]


async def test_older_agent_works_through_pause_crash_restart_and_stop(
    older_daemon: StartAgentDaemon, raw: APIClient
) -> None:
    """It is frozen in the middle, thaws, is killed at work, goes on by itself, is stopped, and waits then."""
    daemon = older_daemon("")
    with trio.fail_after(PATIENCE), model(raw, 6, long_step(4)) as llm:
        llm.hold(2)
        async with work_of(daemon, raw, llm) as work:
            started = await work.client.start("works", request=older_request(llm))
            assert started.status is Status.RUNNING
            await work.told("execution", to="running")
            await work.asked(3)
            await freeze_in_the_middle(work)
            await kill_in_the_middle(work)
            await stop_in_the_middle(work)
    told = [*daemon.log.read_text().splitlines(), *(str(event) for event in work.seen)]
    assert [line for line in told if TOKEN in line or VALUE in line] == []
    assert secrets_told(daemon) == []


async def freeze_in_the_middle(work: Work) -> None:
    """Pause while the model thinks about step 2: nothing moves until it thaws, and then the agent goes on by itself."""
    paused = await work.client.pause("works")
    assert (paused.status, paused.execution_status) == (Status.PAUSED, ExecutionStatus.PAUSED)
    assert (await work.container())["State"]["Paused"] is True
    work.llm.hold(3)
    assert await work.steps() == lines(2)
    assert (await work.client.resume("works")).status is Status.RUNNING
    await work.written(2)
    await work.asked(4)


async def kill_in_the_middle(work: Work) -> None:
    """Kill the container at step 3: the next one takes the conversation up, and its agent goes on to step 4."""
    before = await work.container()
    await work.kill_container()
    await work.told("restart_scheduled")
    await work.told("status", to="RUNNING")
    assert (await work.container())["Id"] != before["Id"]
    work.llm.release()
    await work.written(4)


async def stop_in_the_middle(work: Work) -> None:
    """Stop in a step that never ends: the conversation was closed before its container, and waits after a restart."""
    stopped = await work.client.stop("works")
    assert (stopped.conversation.status, stopped.was_running) == (Status.STOPPED, True)
    asked = work.llm.asked
    assert (await work.client.restart("works")).status is Status.RUNNING

    async def is_idle() -> bool:
        return (await work.client.get("works")).execution_status is ExecutionStatus.IDLE

    await until(is_idle)
    assert work.llm.asked == asked
    assert await work.steps() == lines(5)
    await work.client.stop("works", force=True)


async def test_older_agent_does_not_notice_that_the_daemon_is_killed(
    older_daemon: StartAgentDaemon, raw: APIClient
) -> None:
    """The next daemon follows it to its end, and hands nothing over again."""
    daemon = older_daemon("")
    with trio.fail_after(PATIENCE), model(raw, 3) as llm:
        llm.hold(1)
        async with work_of(daemon, raw, llm) as work:
            await work.client.start("works", request=older_request(llm))
            await work.asked(2)
        daemon.kill()
        daemon.start()
        async with work_of(daemon, raw, llm) as work:
            llm.release()
            await work.told("execution", to="finished")
            assert (await work.client.get("works")).incarnation == 1
            assert await work.steps() == lines(3)
    assert llm.asked == (0, 1, 2, 3)


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"secrets": [{"name": "NAME", "value": {"deep": VALUE}}]}, 422),
        ({"provider_tokens": {"github": {"token": "a-bad-one"}}}, 401),
        ({"settings": None}, 400),
        ({"nonsense": 1}, 422),
    ],
)
async def test_older_agent_refuses_in_its_own_words(
    older_daemon: StartAgentDaemon, raw: APIClient, wrong: JsonObject, status: int
) -> None:
    """What the older server does not take fails the start at once, and no secret is told."""
    with trio.fail_after(PATIENCE), model(raw, 1) as llm:
        async with work_of(older_daemon(""), raw, llm) as work:
            with pytest.raises(RemoteError) as caught:
                await work.client.start("works", request={**older_request(llm), **wrong})
            assert caught.value.has(ErrorCode.AGENT_REFUSED)
            assert caught.value.data["status"] == status
            assert VALUE not in f"{caught.value} {caught.value.data}"
            assert (await work.client.get("works")).incarnation == 1
    assert llm.asked == ()
