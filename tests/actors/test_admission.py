"""Admission: what may be started at all, and how much of it at once."""

from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.actors.settings import CapacityLimits
from supervisor.control.service import StartRequest
from supervisor.conversation.errors import (
    CapacityExceeded,
    ConversationdError,
    EngineUnavailable,
    Forbidden,
    InvalidTransition,
    NotFound,
)
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.spec import SpecOverrides
from tests.actors.test_commands import C2, C3
from tests.world import C1, SETTINGS, open_world, until


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (StartRequest(agent="v9"), "agent"),
        (StartRequest(spec=SpecOverrides(provider="lxc")), "spec.provider"),
        (StartRequest(spec=SpecOverrides(memory=2**60)), "spec.memory"),
    ],
)
async def test_start_beyond_the_allowance_is_forbidden(
    tmp_path: Path, autojump_clock: MockClock, request_: StartRequest, path: str
) -> None:
    """What the config does not allow is refused by its path, and no conversation is made."""
    async with open_world(tmp_path) as world:
        with pytest.raises(Forbidden) as caught:
            await world.start(request=request_)
        assert caught.value.path == path
        with pytest.raises(NotFound):
            await world.supervisor.get(C1)


async def test_start_of_a_provider_that_is_not_there_is_forbidden(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Also one that the config allows but the daemon does not have."""
    allow = attrs.evolve(SETTINGS.allow, providers=("*",))
    async with open_world(tmp_path, settings=attrs.evolve(SETTINGS, allow=allow)) as world:
        with pytest.raises(Forbidden, match="no sandbox provider"):
            await world.start(request=StartRequest(spec=SpecOverrides(provider="lxc")))


async def test_start_without_an_engine_is_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Nothing is begun that cannot go on."""
    async with open_world(tmp_path) as world:
        world.engine.go_down()
        await until(lambda: not world.supervision.engines["docker"].answers)
        with pytest.raises(EngineUnavailable):
            await world.start()
        with pytest.raises(NotFound):
            await world.supervisor.get(C1)


async def test_start_beyond_max_running_is_refused(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A typed refusal that says when to come back; paused and stopped conversations do not count."""
    settings = attrs.evolve(SETTINGS, capacity=CapacityLimits(max_running=2, max_starting=0))
    async with open_world(tmp_path, settings=settings) as world:
        await world.start()
        await world.start(C2)
        with pytest.raises(CapacityExceeded) as caught:
            await world.start(C3)
        assert caught.value.retry_after > 0
        await world.supervisor.pause(C1, None)
        await world.start(C3)
        for wake in (world.supervisor.resume(C1, None), world.start(C1)):
            with pytest.raises(CapacityExceeded):
                await wake
        await world.stop(C3)
        with pytest.raises(InvalidTransition):
            await world.supervisor.resume(C3, None)
        await world.supervisor.resume(C1, None)
        with pytest.raises(CapacityExceeded):
            await world.supervisor.restart(C3, None, force=False)
        await world.supervisor.restart(C2, None, force=True)


@pytest.mark.parametrize("limits", [CapacityLimits(2, 0), CapacityLimits(0, 2)])
async def test_concurrent_starts_do_not_slip_past_the_limit(
    tmp_path: Path, autojump_clock: MockClock, limits: CapacityLimits
) -> None:
    """Starts that come in one moment are counted as they come."""
    async with open_world(tmp_path, settings=attrs.evolve(SETTINGS, capacity=limits)) as world:
        refused: list[ConversationdError] = []

        async def start(number: int) -> None:
            await trio.lowlevel.checkpoint()
            try:
                await world.start(ConversationId(f"c{number}"))
            except CapacityExceeded as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(start, number)
        assert len(refused) == 4
        assert len(world.engine.sandboxes) == 2


async def test_concurrent_resumes_do_not_slip_past_the_limit(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The same for conversations that wake up."""
    settings = attrs.evolve(SETTINGS, capacity=CapacityLimits(max_running=1, max_starting=0))
    async with open_world(tmp_path, settings=settings) as world:
        for conversation in (C1, C2, C3):
            await world.start(conversation)
            await world.supervisor.pause(conversation, None)
        refused: list[ConversationdError] = []

        async def resume(conversation: ConversationId) -> None:
            await trio.lowlevel.checkpoint()
            try:
                await world.supervisor.resume(conversation, None)
            except CapacityExceeded as error:
                refused.append(error)

        async with trio.open_nursery() as nursery:
            for conversation in (C1, C2, C3):
                nursery.start_soon(resume, conversation)
        assert len(refused) == 2
        assert (await world.supervisor.info()).capacity.running == 1


async def test_limit_of_an_hour_ago_is_forgotten(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A resume that failed does not count for ever."""
    settings = attrs.evolve(SETTINGS, capacity=CapacityLimits(max_running=1, max_starting=0))
    async with open_world(tmp_path, settings=settings) as world:
        await world.start()
        await world.supervisor.pause(C1, None)
        await trio.sleep(1)
        world.engine.fail_next("unpause", EngineUnavailable("not now"))
        with pytest.raises(EngineUnavailable):
            await world.supervisor.resume(C1, None)
        assert (await world.start(C2)).status is Status.RUNNING
