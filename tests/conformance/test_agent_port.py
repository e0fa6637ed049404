"""Every promise of the agent port, on the fake, on a stub of the older server and on real servers alike.

Nothing of it is timed, and the servers in containers are booted no more often than tests end them. What only one driver
does is in its own tests.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import attrs
import pytest
import trio

from supervisor.conversation.errors import AgentRefused, AgentUnavailable
from supervisor.conversation.record import ExecutionStatus
from tests.agent.pausing import pause
from tests.conformance.agents import ALL, PATIENCE, SERVERS, WORKERS, AgentBench

BEGUN = {ExecutionStatus.IDLE, ExecutionStatus.RUNNING}
all_drivers = pytest.mark.parametrize("agent_bench", ALL, indirect=True)
those_with_agents = pytest.mark.parametrize("agent_bench", WORKERS, indirect=True)
those_with_servers = pytest.mark.parametrize("agent_bench", SERVERS, indirect=True)


class Told:
    """What is reported, as it comes."""

    def __init__(self, reports: trio.MemoryReceiveChannel[ExecutionStatus]) -> None:
        self._reports = reports
        self.statuses: list[ExecutionStatus] = []

    async def wait_for(self, status: ExecutionStatus) -> None:
        """Wait until this is reported from now on."""
        async for told in self._reports:
            self.statuses.append(told)
            if told is status:
                return


@asynccontextmanager
async def following(bench: AgentBench) -> AsyncIterator[Told]:
    """Follow the conversation; whatever happens ends within the patience of these tests."""
    reports, told = trio.open_memory_channel[ExecutionStatus](1000)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.driver.follow, bench.session, reports.send_nowait)
            yield Told(told)
            nursery.cancel_scope.cancel()


async def begin(bench: AgentBench) -> None:
    """Begin, and wait until the agent works."""
    assert await bench.driver.begin(bench.session, bench.request, go_on=False) in BEGUN
    await bench.at_work()


@all_drivers
async def test_key_is_not_shown_before_it_is_known_who_answers(agent_bench: AgentBench) -> None:
    """Neither the wait for the server nor a probe tells whoever is there a secret."""
    with trio.fail_after(PATIENCE):
        await agent_bench.driver.wait_ready(agent_bench.session)
        await agent_bench.driver.probe(agent_bench.session)
    assert [secret for secret in agent_bench.secrets if secret.encode() in agent_bench.shown] == []


@those_with_agents
async def test_begin_is_accepted_and_may_be_repeated(agent_bench: AgentBench) -> None:
    """A second one, also by another driver, finds the conversation as it is; no driver has to remember any."""
    with trio.fail_after(PATIENCE):
        await begin(agent_bench)
        async with following(agent_bench) as told, agent_bench.another() as other:
            await told.wait_for(ExecutionStatus.RUNNING)
            again = await other.begin(agent_bench.session, agent_bench.request, go_on=False)
            assert again is ExecutionStatus.RUNNING
            agent_bench.finish()
            await told.wait_for(ExecutionStatus.FINISHED)
        assert await pause(agent_bench.driver, agent_bench.session) is False


@those_with_agents
async def test_follow_tells_what_is_so_now_and_nothing_twice(agent_bench: AgentBench) -> None:
    """Whoever begins to follow at the end hears of the end; no two reports in a row are the same."""
    with trio.fail_after(PATIENCE):
        async with following(agent_bench) as told:
            await begin(agent_bench)
            await told.wait_for(ExecutionStatus.RUNNING)
            agent_bench.finish()
            await told.wait_for(ExecutionStatus.FINISHED)
        async with following(agent_bench) as later:
            await later.wait_for(ExecutionStatus.FINISHED)
    assert later.statuses == [ExecutionStatus.FINISHED]
    assert [now for before, now in zip(told.statuses, told.statuses[1:], strict=False) if before is now] == []


@those_with_agents
async def test_pause_says_whether_the_agent_was_running_and_run_lets_it_go_on(agent_bench: AgentBench) -> None:
    """The two calls, with a freeze between, are what a pause and a resume of the conversation are made of."""
    driver, session = agent_bench.driver, agent_bench.session
    with trio.fail_after(PATIENCE):
        await begin(agent_bench)
        assert await pause(driver, session) is True
        await agent_bench.freeze()
        await agent_bench.thaw()
        await driver.wait_ready(session)
        await driver.run(session)
        await driver.run(session)
        async with following(agent_bench) as told:
            await told.wait_for(ExecutionStatus.RUNNING)
            agent_bench.finish()
            await told.wait_for(ExecutionStatus.FINISHED)
        assert await pause(driver, session) is False


@those_with_servers
async def test_refusal_has_the_servers_words_and_no_secret(agent_bench: AgentBench) -> None:
    """A body that makes no sense, and a key that is not the sandbox's."""
    driver, session = agent_bench.driver, agent_bench.session
    with trio.fail_after(PATIENCE):
        with pytest.raises(AgentRefused) as body:
            await driver.begin(session, agent_bench.refused, go_on=False)
        with pytest.raises(AgentRefused) as key:
            await driver.begin(attrs.evolve(session, session_key="wrong"), agent_bench.request, go_on=False)
    assert (body.value.status, key.value.status) == (422, 401)
    assert body.value.body
    told = f"{body.value} {body.value.data} {key.value} {key.value.data}"
    assert [secret for secret in agent_bench.secrets if secret in told] == []


@those_with_agents
async def test_interrupted_work_is_on_the_disk_of_the_next_server(agent_bench: AgentBench) -> None:
    """There it stands still until it is told to go on, and what has come to its end is not told so."""
    driver = agent_bench.driver
    with trio.fail_after(PATIENCE):
        await begin(agent_bench)
        async with following(agent_bench) as told:
            await driver.interrupt(agent_bench.session)
            await told.wait_for(ExecutionStatus.PAUSED)
        await agent_bench.kill()
        await agent_bench.reboot()
        request = agent_bench.request
        assert await driver.begin(agent_bench.session, request, go_on=False) is not ExecutionStatus.RUNNING
        assert await driver.begin(agent_bench.session, request, go_on=True) is ExecutionStatus.RUNNING
        async with following(agent_bench) as told:
            agent_bench.finish()
            await told.wait_for(ExecutionStatus.FINISHED)
        assert await driver.begin(agent_bench.session, request, go_on=True) is ExecutionStatus.FINISHED


@those_with_agents
async def test_killed_agent_goes_on_in_the_next_server_and_is_followed_there(agent_bench: AgentBench) -> None:
    """While there is no server every call says so; whoever followed before hears of the end."""
    driver = agent_bench.driver
    async with following(agent_bench) as told:
        await begin(agent_bench)
        await told.wait_for(ExecutionStatus.RUNNING)
        await agent_bench.kill()
        session = agent_bench.session
        for call in (driver.probe, partial(pause, driver), driver.interrupt):
            with pytest.raises(AgentUnavailable):
                await call(session)
        with pytest.raises(AgentUnavailable):
            await driver.begin(session, agent_bench.request, go_on=True)
        await agent_bench.reboot()
        await driver.probe(agent_bench.session)
        status = await driver.begin(agent_bench.session, agent_bench.request, go_on=True)
        assert status is ExecutionStatus.RUNNING
        agent_bench.finish()
        await told.wait_for(ExecutionStatus.FINISHED)


@all_drivers
async def test_dead_server_is_waited_for_until_the_next_one_can_be_used(agent_bench: AgentBench) -> None:
    """A probe of it fails; the wait for it ends after the boot began, and then the next call is answered."""
    happened: list[str] = []

    async def wait() -> None:
        await agent_bench.driver.wait_ready(agent_bench.session)
        happened.append("ready")

    with trio.fail_after(PATIENCE):
        await agent_bench.driver.probe(agent_bench.session)
        await agent_bench.kill()
        with pytest.raises(AgentUnavailable):
            await agent_bench.driver.probe(agent_bench.session)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            happened.append("booting")
            await agent_bench.reboot()
        await agent_bench.driver.probe(agent_bench.session)
        await agent_bench.driver.begin(agent_bench.session, agent_bench.request, go_on=False)
    assert happened == ["booting", "ready"]


@pytest.mark.parametrize("agent_bench", ["none"], indirect=True)
async def test_container_without_an_agent_is_asked_nothing(agent_bench: AgentBench) -> None:
    """Every call of the port can be made all the same, and nothing is reported."""
    driver, session = agent_bench.driver, agent_bench.session
    assert await driver.begin(session, {"a": 1}, go_on=True) is None
    assert await pause(driver, session) is False
    await driver.run(session)
    await driver.interrupt(session)
    assert agent_bench.shown == b""
