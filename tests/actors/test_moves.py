"""Sandboxes that their engine brings up by itself, once more or later: they are reached where they are then."""

from pathlib import Path

import trio
from trio.testing import MockClock

from supervisor.agent.port import AgentSession
from supervisor.control.service import StartRequest
from supervisor.conversation.lifecycle import Status
from tests.world import C1, World, open_world, until


def follow_the_port(world: World) -> None:
    """Let the agent server of C1 listen on the port that its sandbox has now, and nowhere else."""

    def listens(session: AgentSession) -> bool:
        sandbox = world.engine.sandboxes[world.engine.sandbox_name(C1, world.record().incarnation)]
        return session.published is not None and session.published.port == sandbox.port and not sandbox.pending

    world.agent.listens = listens


def url_of(world: World) -> str:
    """Where the engine has the first sandbox of C1."""
    return f"http://127.0.0.1:{world.engine.sandboxes[world.engine.sandbox_name(C1, 1)].port}"


async def test_boot_waits_for_the_port_of_a_pending_sandbox(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its agent server is not asked before it is known where it is, and no other sandbox is made meanwhile."""
    async with open_world(tmp_path) as world:
        follow_the_port(world)
        world.engine.launches_pending = True
        await world.start(request=StartRequest(wait=False))
        await world.until(lambda record: record.phase == "boot")
        await trio.sleep(10)
        assert "wait_ready" not in world.agent.calls
        world.engine.bring_up(world.engine.sandbox_name(C1, 1))
        await world.until_status(Status.RUNNING)
        assert (await world.supervisor.connect(C1)).url == url_of(world)
        assert world.engine.calls["launch"] == 1


async def test_daemon_that_was_killed_goes_on_waiting_for_a_pending_sandbox(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Whoever finds it so knows that it is coming."""
    async with open_world(tmp_path) as world:
        world.engine.launches_pending = True
        await world.start(request=StartRequest(wait=False))
        await world.until(lambda record: record.phase == "boot")
        engine = world.engine
    async with open_world(tmp_path, engine=engine) as world:
        await trio.sleep(1)
        engine.bring_up(engine.sandbox_name(C1, 1))
        await world.until_status(Status.RUNNING)
        assert engine.calls["launch"] == 1


async def test_boot_follows_a_sandbox_that_moves(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One that its engine has restarted before it was ready is waited for at its new port, not at the old one."""
    async with open_world(tmp_path) as world:
        world.agent.listens = lambda session: False
        await world.start(request=StartRequest(wait=False))
        await world.until(lambda record: record.phase == "boot")
        await trio.sleep(1)
        follow_the_port(world)
        world.engine.bring_up(world.engine.sandbox_name(C1, 1))
        await world.until_status(Status.RUNNING)
        assert (await world.supervisor.connect(C1)).url == url_of(world)
        assert world.record().restarts == 0


async def test_resume_follows_a_sandbox_that_had_lost_its_memory(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Its engine boots it again: the resume is done when it is ready where it is then."""
    async with open_world(tmp_path) as world:
        await world.start()
        await world.supervisor.pause(C1, None)
        before = url_of(world)
        follow_the_port(world)
        world.engine.thaws_pending = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.supervisor.resume, C1, None)
            await until(lambda: world.engine.sandboxes[world.engine.sandbox_name(C1, 1)].pending)
            await trio.sleep(5)
            world.engine.bring_up(world.engine.sandbox_name(C1, 1))
        assert world.record().status is Status.RUNNING
        assert (await world.supervisor.connect(C1)).url == url_of(world) != before
