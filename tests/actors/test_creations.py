"""Whoever is to make a conversation, or waits for that, comes in the order in which he asked."""

from contextlib import suppress
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from supervisor.actors.creations import Creations
from supervisor.control.service import StartRequest
from supervisor.conversation.errors import Conflict
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from tests.actors.test_life import reach
from tests.world import C1, World, open_world

C2 = ConversationId("c2")


def creations(world: World) -> Creations:
    """The world's."""
    return world.supervisor._creations


async def test_claims_are_given_in_the_order_of_asking(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Whoever stops waiting leaves the others their places, and the last one leaves nothing behind."""
    async with open_world(tmp_path) as world:
        order: list[int] = []
        leaves = trio.CancelScope()

        async def claim(number: int) -> None:
            with leaves if number == 3 else trio.CancelScope():
                async with creations(world).claiming(C1):
                    order.append(number)

        async with trio.open_nursery() as nursery, creations(world).claiming(C1):
            for number in range(10):
                nursery.start_soon(claim, number)
                await wait_all_tasks_blocked()
            leaves.cancel()
        assert order == [0, 1, 2, 4, 5, 6, 7, 8, 9]
        assert not creations(world).is_claimed(C1)


async def test_who_stops_waiting_as_the_claim_ends_leaves_the_next_one_alone(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It was the last to wait, and by the time that it is gone somebody else has the claim, or nobody."""
    async with open_world(tmp_path) as world:
        for claimed_again in (False, True):
            leaves = trio.CancelScope()

            async def wait(leaves: trio.CancelScope = leaves) -> None:
                with leaves:
                    async with creations(world).claiming(C1):
                        raise AssertionError

            async with trio.open_nursery() as nursery:
                async with creations(world).claiming(C1):
                    nursery.start_soon(wait)
                    await wait_all_tasks_blocked()
                    leaves.cancel()
                if claimed_again:
                    async with creations(world).claiming(C1):
                        await wait_all_tasks_blocked()
                        assert creations(world).is_claimed(C1)
            assert not creations(world).is_claimed(C1)


async def test_forced_stop_does_not_overtake_what_waits(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A restart that came before it is refused or undone, although the conversation has its actor by then."""
    async with open_world(tmp_path) as world:
        await reach(world, Status.STOPPED)
        async with trio.open_nursery() as nursery, creations(world).claiming(C1):
            nursery.start_soon(_restart, world)
            await wait_all_tasks_blocked()
            nursery.start_soon(lambda: world.stop(force=True))
            await wait_all_tasks_blocked()
        await trio.sleep(10)
        assert world.record().status is Status.STOPPED
        assert not world.engine.runs(C1)


async def test_start_keeps_its_place_if_the_one_with_its_key_fails(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A forced stop that came after it finds what it has made."""
    async with open_world(tmp_path) as world:
        record = attrs.evolve(await world.start(C2), id=C1)
        request = StartRequest(idempotency_key="key", wait=False)
        async with trio.open_nursery() as nursery, creations(world).claiming(C1):
            with suppress(ZeroDivisionError), creations(world).making(record, "key"):
                nursery.start_soon(world.start, C1, request)
                await wait_all_tasks_blocked()
                nursery.start_soon(lambda: world.stop(force=True))
                await wait_all_tasks_blocked()
                raise ZeroDivisionError
        assert world.record().status is Status.STOPPED


async def _restart(world: World) -> None:
    """Whether it is refused, or undone, is a matter of moments."""
    with pytest.raises(Conflict):
        await world.supervisor.restart(C1, None, force=False)
