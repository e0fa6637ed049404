"""The keeper: no change of status that the life cycle does not have, and none that is told wrongly."""

from pathlib import Path

import attrs
import pytest
from trio.testing import MockClock

from supervisor.actors.clock import SystemClock
from supervisor.actors.keeper import IllegalTransitionError, RecordKeeper
from supervisor.conversation.events import StatusChanged
from supervisor.conversation.lifecycle import Status, is_legal
from tests.journal.samples import C1, C2, NOON, record
from tests.world import SimulatedWallClock, World, open_world


def keeper_of(world: World, status: Status) -> RecordKeeper:
    """A keeper of a record that only it knows."""
    return RecordKeeper(record(C2, status), world.supervision.journal, SimulatedWallClock(), lambda *_: None)


@pytest.mark.parametrize("before", Status)
async def test_illegal_transition_is_never_committed(tmp_path: Path, autojump_clock: MockClock, before: Status) -> None:
    """For each pair of statuses: committed and told if it is in the table, else refused, and nothing is written."""
    async with open_world(tmp_path) as world:
        for after in Status:
            keeper = keeper_of(world, before)
            told = len(await world.statuses(C2))
            moved = attrs.evolve(keeper.record, status=after)
            if is_legal(before, after):
                await keeper.move(moved, StatusChanged(before, after, "test"))
                assert keeper.record.status is after
            else:
                with pytest.raises(IllegalTransitionError):
                    await keeper.move(moved, StatusChanged(before, after, "test"))
                assert keeper.record.status is before
            assert len(await world.statuses(C2)) == told + is_legal(before, after)


async def test_change_has_to_be_told_as_it_is(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An event that tells something else than the record is refused, and so is a silent change."""
    async with open_world(tmp_path) as world:
        keeper = keeper_of(world, Status.RUNNING)
        paused = attrs.evolve(keeper.record, status=Status.PAUSED)
        for change in (
            StatusChanged(Status.STARTING, Status.PAUSED, "test"),
            StatusChanged(Status.RUNNING, Status.STOPPED, "test"),
        ):
            with pytest.raises(IllegalTransitionError):
                await keeper.move(paused, change)
        with pytest.raises(IllegalTransitionError):
            await keeper.save(paused)
        assert await world.kinds(C2) == []


async def test_reload_takes_what_was_committed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """And keeps what it has where nothing was."""
    async with open_world(tmp_path) as world:
        await world.start()
        moves: list[tuple[Status, Status]] = []
        keeper = RecordKeeper(
            record(C1), world.supervision.journal, SimulatedWallClock(), lambda *move: moves.append(move)
        )
        await keeper.reload()
        assert (keeper.record, moves) == (world.record(), [(Status.STARTING, Status.RUNNING)])
        unknown = keeper_of(world, Status.RUNNING)
        await unknown.reload()
        assert unknown.record.status is Status.RUNNING


def test_system_clock_is_in_utc() -> None:
    """The wall time has a zone."""
    assert SystemClock().now().tzinfo == NOON.tzinfo
