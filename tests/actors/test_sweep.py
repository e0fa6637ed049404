"""The engine's list: orphans go, what is wanted stays, and no failure ends the watching."""

from collections.abc import Collection
from datetime import datetime
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.control.service import StartRequest
from supervisor.conversation.errors import AgentUnavailable, EngineUnavailable, SandboxFailed
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ExecutionStatus, Observed
from supervisor.conversation.spec import SpecOverrides
from supervisor.sandbox.port import SandboxPlan, SandboxState
from tests.actors.test_restart import name_of
from tests.actors.test_sight import C2
from tests.fakes.engine import FakeEngine, FakeSandbox
from tests.fakes.store import FaultyStore
from tests.world import C1, SETTINGS, SPEC, World, open_world, until


def foreign(conversation: str, incarnation: int = 1) -> FakeSandbox:
    """A sandbox that no record wants."""
    plan = SandboxPlan(ConversationId(conversation), incarnation, SPEC, {})
    return FakeSandbox(plan, SandboxState.RUNNING, 1)


async def test_orphans_are_removed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """At the start and each minute: what carries our labels and no record wants is removed, what is wanted stays."""
    async with open_world(tmp_path) as world:
        await world.start()
        engine, agent = world.engine, world.agent
    engine.sandboxes["gone-1"] = foreign("gone")
    engine.sandboxes["c1-old"] = foreign("c1", 0)
    async with open_world(tmp_path, engine=engine, agent=agent) as world:
        await trio.sleep(1)
        assert list(engine.sandboxes) == [name_of(world)]
        engine.sandboxes["late-1"] = foreign("late")
        await trio.sleep(61)
        assert list(engine.sandboxes) == [name_of(world)]
        assert world.record().status is Status.RUNNING


async def test_orphan_that_cannot_be_removed_keeps_no_other_from_it(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each for itself, and again a minute later."""
    engine = FakeEngine()
    engine.sandboxes = {"a-1": foreign("a"), "b-1": foreign("b")}
    engine.fail_next("remove", SandboxFailed("busy"))
    async with open_world(tmp_path, engine=engine):
        assert len(engine.sandboxes) < 2
        await trio.sleep(61)
        assert engine.sandboxes == {}


async def test_stray_is_not_removed_while_a_restart_takes_it_over(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox that came late has the name of the next one: its own actor removes it, before or not at all."""
    async with open_world(tmp_path) as world:
        await world.start()
        await world.stop()
        name, may_go = world.engine.sandbox_name(C1, 2), trio.Event()
        world.engine.sandboxes[name] = foreign("c1", 2)
        remove = world.engine.remove

        async def remove_later(which: str) -> None:
            if which == name:
                await may_go.wait()
            await remove(which)

        monkeypatch.setattr(world.engine, "remove", remove_later)
        await trio.sleep(61)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(world.supervisor.restart, C1, None, force=False))
            await trio.sleep(1)
            may_go.set()
        await trio.sleep(1)
        assert world.record().status is Status.RUNNING
        assert world.record().restarts == 0
        assert list(world.engine.sandboxes) == [name]


async def test_workspaces_of_deleted_conversations_are_removed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A volume that an engine makes when nobody wants it any more; one that we do not know is left alone."""
    async with open_world(tmp_path) as world:
        for conversation in (C1, C2):
            await world.start(conversation)
            await world.supervisor.stop(conversation, None, force=True)
        await world.supervisor.archive(C2, None)
        await world.supervisor.delete(C1)
        stranger = ConversationId("stranger")
        world.engine.workspaces |= {C1, stranger}
        await trio.sleep(61)
        assert world.engine.workspaces == {C2, stranger}


async def gone(world: World, conversation: ConversationId) -> None:
    """Make a conversation and delete it; its workspace comes afterwards."""
    await world.start(conversation)
    await world.stop(conversation)
    await world.supervisor.delete(conversation)
    world.engine.workspaces.add(conversation)


async def test_late_workspace_that_cannot_be_removed_keeps_no_other_from_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Each for itself, and again a minute later."""
    async with open_world(tmp_path) as world:
        await gone(world, C1)
        await gone(world, C2)
        world.engine.fail_next("remove_workspace", SandboxFailed("busy"))
        await trio.sleep(61)
        assert len(world.engine.workspaces) == 1
        await trio.sleep(61)
        assert world.engine.workspaces == set()


async def test_late_workspace_whose_removal_hangs_holds_up_no_start(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Not for longer than the sweep tries."""
    async with open_world(tmp_path) as world:
        await gone(world, C1)
        world.engine.close_gate("remove_workspace")
        removed = world.engine.calls["remove_workspace"]
        await until(lambda: world.engine.calls["remove_workspace"] > removed)
        began = trio.current_time()
        await world.start()
        assert trio.current_time() - began < 15


async def test_workspace_of_an_id_that_lives_at_another_provider_stays(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Whoever has the id now may know what he left there."""
    other = FakeEngine("other")
    settings = attrs.evolve(SETTINGS, allow=attrs.evolve(SETTINGS.allow, providers=("other",)))
    async with open_world(tmp_path, settings=settings, other_engine=other) as world:
        world.agent.runs = lambda conversation: True
        await gone(world, C1)
        await world.start(C1, StartRequest(spec=SpecOverrides(provider="other")))
        await trio.sleep(61)
        assert (world.engine.workspaces, other.workspaces) == ({C1}, {C1})


async def test_workspace_of_a_conversation_that_is_made_anew_stays(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if that happens just as the sweep has heard that it was deleted: it looks again when it is its turn."""
    async with open_world(tmp_path) as world:
        await gone(world, C1)
        journal = world.supervision.journal
        deleted = journal.deleted

        async def deleted_just_before(ids: Collection[ConversationId], since: datetime) -> frozenset[ConversationId]:
            found = await deleted(ids, since)
            if world.supervision.registry.find(C1) is None:
                await world.start()
            return found

        monkeypatch.setattr(journal, "deleted", deleted_just_before)
        await trio.sleep(61)
        assert world.record().status is Status.RUNNING
        assert world.engine.workspaces == {C1}


@pytest.mark.parametrize("call", ["list_owned", "list_workspaces", "engine"])
@pytest.mark.parametrize("error", [RuntimeError("a bug"), EngineUnavailable("not now")])
async def test_sweep_that_fails_ends_nothing(
    tmp_path: Path, autojump_clock: MockClock, call: str, error: Exception
) -> None:
    """An engine call that fails, or a provider's bug, at the start or later: the daemon serves on, and tries again."""
    engine = FakeEngine()
    engine.fail_next(call, error, times=2)
    async with open_world(tmp_path, engine=engine) as world:
        await world.start()
        await trio.sleep(200)
        engine.sandboxes["late-1"] = foreign("late")
        await trio.sleep(61)
        assert list(engine.sandboxes) == [name_of(world)]


async def test_watch_that_fails_is_begun_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A bug in the provider's events stream costs a second, not the sight of the engine."""
    engine = FakeEngine()
    engine.fail_next("watch", RuntimeError("a bug"), times=2)
    async with open_world(tmp_path, engine=engine) as world:
        await world.start()
        world.engine.die(name_of(world))
        await world.until_status(Status.STARTING)


async def test_daemon_starts_without_an_engine(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It serves what it knows, refuses starts, and goes on when the engine answers."""
    engine = FakeEngine()
    engine.go_down()
    async with open_world(tmp_path, engine=engine) as world:
        assert not (await world.supervisor.info()).engine.reachable
        with pytest.raises(EngineUnavailable):
            await world.start()
        engine.come_up()
        await until(lambda: world.supervision.engines["docker"].answers)
        assert (await world.start()).status is Status.RUNNING


async def test_daemon_starts_although_the_engine_says_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An engine that hangs delays the start by seconds, and no more."""
    engine = FakeEngine()
    engine.close_gate("watch")
    async with open_world(tmp_path, engine=engine):
        assert trio.current_time() < 20


async def test_sight_of_an_engine_outlives_a_full_disk(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The daemon's own event cannot be written: the sweep goes on."""
    async with open_world(tmp_path, make_store=FaultyStore) as world:
        await world.start()
        store = world.supervision.journal._store
        assert isinstance(store, FaultyStore)
        store.full = True
        world.engine.go_down()
        await trio.sleep(10)
        world.engine.come_up()
        await trio.sleep(10)
        store.full = False
        world.engine.sandboxes["late-1"] = foreign("late")
        await trio.sleep(121)
        assert list(world.engine.sandboxes) == [name_of(world)]


async def test_agent_that_cannot_be_followed_is_followed_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A stream that fails is opened again a little later, and nothing else happens."""
    async with open_world(tmp_path) as world:
        world.agent.fail_next("follow", AgentUnavailable("not now"), times=2)
        await world.start()
        world.agent.does(C1, ExecutionStatus.FINISHED)
        await world.until(lambda record: record.execution_status is ExecutionStatus.FINISHED)
        assert world.record().status is Status.RUNNING


async def test_engine_that_is_lost_is_the_trouble_of_its_own_conversations(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Two providers: what one does not see leaves the conversations of the other alone."""
    other = FakeEngine("other")
    settings = attrs.evolve(SETTINGS, allow=attrs.evolve(SETTINGS.allow, providers=("other",)))
    async with open_world(tmp_path, settings=settings, other_engine=other) as world:
        world.agent.runs = lambda conversation: True
        await world.start()
        await world.start(C2, StartRequest(spec=SpecOverrides(provider="other")))
        other.go_down()
        await world.until(lambda record: record.observed is Observed.UNKNOWN, C2)
        await trio.sleep(200)
        assert (world.record().observed, world.record().status) == (Observed.LIVE, Status.RUNNING)
        assert (len(world.engine.sandboxes), len(other.sandboxes)) == (1, 1)
