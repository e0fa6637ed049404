"""The v1 driver against the real agent server, in a container as hardened as the sandboxes of the daemon are."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import pytest
import trio
from docker import APIClient

from supervisor.agent import AgentSession, V1Driver, open_v1_driver
from supervisor.conversation.errors import AgentRefused
from supervisor.conversation.record import ExecutionStatus
from tests.agent.pausing import pause
from tests.e2e.llm_stub import API_KEY, STEPS_FILE, LlmStub, bridge_gateway, serve_llm
from tests.e2e.machine import Machine

SECONDS = 180


@pytest.fixture
def machine(engine: APIClient, agent_image: str) -> Iterator[Machine]:
    """A workspace, and a way to boot the conversation's agent servers over it."""
    machine = Machine(engine, agent_image)
    yield machine
    machine.remove()


@pytest.fixture
async def driver() -> AsyncIterator[V1Driver]:
    """The driver under test."""
    async with open_v1_driver() as driver:
        yield driver


@asynccontextmanager
async def following(
    driver: V1Driver, session: AgentSession
) -> AsyncIterator[trio.MemoryReceiveChannel[ExecutionStatus]]:
    """Follow the conversation; what is reported comes out of the channel."""
    reports, told = trio.open_memory_channel[ExecutionStatus](100)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(driver.follow, session, reports.send_nowait)
        yield told
        nursery.cancel_scope.cancel()


async def expect(told: trio.MemoryReceiveChannel[ExecutionStatus], status: ExecutionStatus) -> None:
    """Wait until this status is reported."""
    async for heard in told:
        if heard is status:
            return


@contextmanager
def model(engine: APIClient, steps: int, sleep: float = 0.0) -> Iterator[LlmStub]:
    """A stub LLM whose commands take `sleep` seconds each."""
    with serve_llm(
        bridge_gateway(engine), steps, lambda step: f"sleep {sleep}; echo step-{step} >> /workspace/{STEPS_FILE}"
    ) as llm:
        yield llm


async def asked(llm: LlmStub, count: int) -> None:
    """Wait until the agent has asked its model so many times."""
    await trio.to_thread.run_sync(llm.wait_asked, count, SECONDS)


async def test_v1_driver_pauses_after_the_running_tool_and_goes_on_to_the_end(
    engine: APIClient, machine: Machine, driver: V1Driver
) -> None:
    """A pause in the middle waits for the running command, no further one starts, and a run ends the work."""
    with trio.fail_after(SECONDS), model(engine, 4, sleep=1.0) as llm:
        session = await machine.boot(driver)
        await driver.probe(session)
        await driver.begin(session, llm.request_body(), go_on=False)
        async with following(driver, session) as told:
            await expect(told, ExecutionStatus.RUNNING)
            await asked(llm, 2)
            assert await pause(driver, session) is True
            await expect(told, ExecutionStatus.PAUSED)
            written = await machine.steps()
            assert written == [f"step-{step}" for step in llm.replied]
            assert await pause(driver, session) is False
            await driver.run(session)
            await driver.run(session)
            await expect(told, ExecutionStatus.RUNNING)
            await expect(told, ExecutionStatus.FINISHED)
        assert await machine.steps() == ["step-0", "step-1", "step-2", "step-3"]
        assert await pause(driver, session) is False


async def test_v1_driver_pause_waits_for_the_answer_of_the_model_and_its_step(
    engine: APIClient, machine: Machine, driver: V1Driver
) -> None:
    """A pause while the model thinks returns only when what it answered is carried out: then the agent stands still."""
    with trio.fail_after(SECONDS), model(engine, 3) as llm:
        session = await machine.boot(driver)
        llm.hold()
        await driver.begin(session, llm.request_body(), go_on=False)
        async with following(driver, session) as told:
            await asked(llm, 1)
            async with trio.open_nursery() as nursery:

                async def pause_it() -> None:
                    assert await pause(driver, session) is True
                    assert await machine.steps() == ["step-0"]

                nursery.start_soon(pause_it)
                await expect(told, ExecutionStatus.PAUSED)
                assert await machine.steps() == []
                llm.release()
            await driver.run(session)
            await expect(told, ExecutionStatus.FINISHED)
        assert await machine.steps() == ["step-0", "step-1", "step-2"]


async def test_v1_driver_takes_back_a_pause_that_its_caller_gave_up(
    engine: APIClient, machine: Machine, driver: V1Driver
) -> None:
    """A pause that was left while the model thinks comes about nevertheless: a run waits for that, and goes on then."""
    with trio.fail_after(SECONDS), model(engine, 2) as llm:
        session = await machine.boot(driver)
        llm.hold()
        await driver.begin(session, llm.request_body(), go_on=False)
        await asked(llm, 1)
        async with following(driver, session) as told:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_paused, nursery.cancel_scope, told)
                await pause(driver, session)
            with trio.move_on_after(2) as patience:
                await driver.run(session)
            assert patience.cancelled_caught
            llm.release()
            await driver.run(session)
            await expect(told, ExecutionStatus.FINISHED)
        assert await machine.steps() == ["step-0", "step-1"]


async def _cancel_when_paused(scope: trio.CancelScope, told: trio.MemoryReceiveChannel[ExecutionStatus]) -> None:
    await expect(told, ExecutionStatus.PAUSED)
    scope.cancel()


async def test_v1_driver_goes_on_in_a_new_container_over_the_same_workspace(
    engine: APIClient, machine: Machine, driver: V1Driver
) -> None:
    """A server that is killed at work is followed by one that knows the conversation and goes on with it."""
    with trio.fail_after(SECONDS), model(engine, 3) as llm:
        session = await machine.boot(driver)
        await driver.begin(session, llm.request_body(), go_on=False)
        await asked(llm, 1)
        llm.hold()
        await asked(llm, 2)
        await trio.to_thread.run_sync(machine.kill)
        llm.release()
        session = await machine.boot(driver)
        assert await driver.begin(session, llm.request_body(), go_on=True) in {
            ExecutionStatus.RUNNING,
            ExecutionStatus.FINISHED,
        }
        async with following(driver, session) as told:
            await expect(told, ExecutionStatus.FINISHED)
        assert (await machine.steps())[0] == "step-0"
        assert (await machine.steps())[-1] == "step-2"


async def test_v1_driver_starts_the_work_that_was_killed_before_its_first_step(
    engine: APIClient, machine: Machine, driver: V1Driver
) -> None:
    """A server killed between the first message and its run leaves an idle conversation: going on starts it."""
    with trio.fail_after(SECONDS), model(engine, 1) as llm:
        session = await machine.boot(driver)
        await driver.begin(session, llm.request_body(), go_on=False)
        await trio.to_thread.run_sync(machine.kill)
        session = await machine.boot(driver)
        await driver.begin(session, llm.request_body(), go_on=True)
        async with following(driver, session) as told:
            await expect(told, ExecutionStatus.FINISHED)
        assert await machine.steps() == ["step-0"]


async def test_v1_driver_interrupts_a_step_at_once(engine: APIClient, machine: Machine, driver: V1Driver) -> None:
    """An interrupt does not wait for the running command, and leaves the conversation paused."""
    with trio.fail_after(SECONDS), model(engine, 2, sleep=SECONDS) as llm:
        session = await machine.boot(driver)
        await driver.begin(session, llm.request_body(), go_on=False)
        async with following(driver, session) as told:
            await expect(told, ExecutionStatus.RUNNING)
            await asked(llm, 1)
            await driver.interrupt(session)
            await expect(told, ExecutionStatus.PAUSED)
        assert await machine.steps() == []


async def test_v1_driver_reports_what_the_server_refuses(engine: APIClient, machine: Machine, driver: V1Driver) -> None:
    """A wrong key, an unknown conversation and a bad request are refusals that tell no secret."""
    with trio.fail_after(SECONDS), model(engine, 1) as llm:
        session = await machine.boot(driver)
        with pytest.raises(AgentRefused) as wrong_key:
            await driver.begin(attrs.evolve(session, session_key="wrong-key"), llm.request_body(), go_on=False)
        with pytest.raises(AgentRefused) as unknown:
            await driver.run(session)
        body = llm.request_body()
        body["agent_settings"]["llm"]["base_url"] = [API_KEY]
        with pytest.raises(AgentRefused) as bad:
            await driver.begin(session, body, go_on=False)
    assert [caught.value.status for caught in (wrong_key, unknown, bad)] == [401, 404, 422]
    assert "base_url" in bad.value.body
    assert API_KEY not in bad.value.body
    assert machine.key not in bad.value.body
