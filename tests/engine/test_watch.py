"""The events of a real engine, and engines that go away or hang."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import docker
import pytest
import trio
import trio.testing

from supervisor.conversation.errors import EngineUnavailable
from supervisor.sandbox.docker import DockerProvider, Lanes
from supervisor.sandbox.docker.containers import Containers
from supervisor.sandbox.docker.endings import Endings
from supervisor.sandbox.docker.events import EngineWatch, Pulse
from supervisor.sandbox.docker.lanes import Lane
from supervisor.sandbox.docker.names import Names
from supervisor.sandbox.port import SandboxState
from tests.engine.proxy import proxied_engine
from tests.engine.sandboxes import PATIENCE, RecordingObserver, Workbench
from tests.engine_host import isolated_engine


@asynccontextmanager
async def watching(provider: DockerProvider) -> AsyncIterator[RecordingObserver]:
    """An observer that is told, from the moment in which the engine is connected."""
    observer = RecordingObserver()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(provider.watch, observer)
        await observer.wait_until(bool)
        yield observer
        nursery.cancel_scope.cancel()


async def test_every_change_is_heard(bench: Workbench, provider: DockerProvider) -> None:
    """Start, pause, unpause, end and removal, each by the conversation's id."""
    async with watching(provider) as observer:
        assert observer.seen == ["connected"]
        view = await bench.launch()
        await observer.wait_until(lambda seen: len(seen) == 2)
        for call in (provider.pause, provider.unpause, provider.kill, provider.remove):
            before = len(observer.seen)
            await call(view.name)
            await observer.wait_until(lambda seen, before=before: len(seen) > before)  # type: ignore[misc]  # a default
    assert set(observer.seen) == {"connected", "changed c1"}


async def test_end_is_known_at_once(bench: Workbench, provider: DockerProvider) -> None:
    """What an inspection says in the moment after a death is what the engine says later, too."""
    async with watching(provider) as observer:
        view = await bench.launch("sh", "-c", "until [ -e /workspace/go ]; do sleep 0.02; done; exit 3")
        await observer.wait_until(lambda seen: len(seen) == 2)
        await bench.touch(view.name, "/workspace/go")
        await observer.wait_until(lambda seen: len(seen) == 3)
        at_once = await provider.inspect(view.name)
        assert at_once == await bench.wait_ended(view.name)
        assert at_once is not None
        assert at_once.state is SandboxState.EXITED
        assert at_once.exit_code == 3


async def test_sandbox_that_starts_again_is_seen_running(bench: Workbench, provider: DockerProvider) -> None:
    """An end that was heard a moment ago does not outlive the next start."""
    async with watching(provider):
        view = await bench.launch()
        await provider.kill(view.name)
        assert (await bench.launch()).state is SandboxState.RUNNING
        again = await provider.inspect(view.name)
        assert again is not None
        assert again.state is SandboxState.RUNNING


async def test_foreign_container_is_not_heard(
    bench: Workbench, provider: DockerProvider, raw: docker.APIClient
) -> None:
    """Nothing is told of what is not ours, nor of what only inherited our labels."""
    labels = provider._containers.names.container_labels(bench.plan().conversation, 1)
    foreign = [
        raw.create_container(bench.image, ["true"], labels=given, network_disabled=True)["Id"] for given in ({}, labels)
    ]
    try:
        async with watching(provider) as observer:
            for container in foreign:
                raw.start(container)
                await trio.to_thread.run_sync(raw.wait, container)
            await bench.launch(incarnation=2)
            await observer.wait_until(lambda seen: len(seen) > 1)
            assert observer.seen == ["connected", "changed c1"]
    finally:
        for container in foreign:
            raw.remove_container(container, force=True)


async def test_engine_restart_is_lost_and_found(owner: str) -> None:
    """The stream's end is noticed at once, and so is the engine's return."""
    with isolated_engine() as engine:
        async with DockerProvider(engine.base_url, owner, Lanes()) as provider, watching(provider) as observer:
            await trio.to_thread.run_sync(engine.stop)
            await observer.wait_until(lambda seen: seen[-1].startswith("lost"))
            await trio.to_thread.run_sync(engine.start)
            await observer.wait_until(lambda seen: seen[-1] == "connected")
            assert len(observer.seen) == 3
            assert (await provider.engine()).version


async def test_engine_that_is_not_there_is_lost_once(owner: str, tmp_path: Path) -> None:
    """However often it is tried."""
    async with DockerProvider(f"unix://{tmp_path}/none.sock", owner, Lanes()) as provider:
        async with watching(provider) as observer:
            await trio.sleep(0.2)
        assert len(observer.seen) == 1
        assert "none.sock" in observer.seen[0]


async def test_hanging_engine_is_noticed_by_its_pulse(engine_url: str, owner: str, tmp_path: Path) -> None:
    """A connection that is open but dead says nothing: pings find out, and it is found again when it answers."""
    observer = RecordingObserver()
    names = Names(owner)
    async with proxied_engine(engine_url, tmp_path / "s") as proxy, trio.open_nursery() as nursery:
        lane = Lane(proxy.base_url, 2)
        pulse = Pulse(every=0.05, limit=0.2)
        watch = EngineWatch(lane, Containers(names), Endings(names), observer, pulse)
        nursery.start_soon(watch.run)
        await observer.wait_until(lambda seen: seen == ["connected"])
        proxy.stall()
        await observer.wait_until(lambda seen: seen[-1].startswith("lost"))
        proxy.resume()
        await observer.wait_until(lambda seen: seen[-1] == "connected")
        nursery.cancel_scope.cancel()
    lane.close()


async def test_hanging_engine_costs_a_call_its_limit_and_the_loop_nothing(
    engine_url: str, owner: str, bench: Workbench, tmp_path: Path
) -> None:
    """A call is given up a little after its deadline; meanwhile everything else goes on."""
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            await trio.sleep(0.01)
            beats += 1

    async with (
        proxied_engine(engine_url, tmp_path / "s") as proxy,
        DockerProvider(proxy.base_url, owner, Lanes()) as provider,
        trio.open_nursery() as nursery,
    ):
        await provider.engine()
        proxy.stall()
        nursery.start_soon(beat)
        began = trio.current_time()
        with trio.CancelScope(deadline=began + 0.1), pytest.raises(EngineUnavailable):
            await provider.launch(bench.plan())
        assert 1.5 < trio.current_time() - began < 3
        assert beats > 100
        nursery.cancel_scope.cancel()


async def test_kill_does_not_wait_behind_other_calls(engine_url: str, owner: str, bench: Workbench) -> None:
    """With the lanes of all other calls full of stops that wait for their grace, a kill gets through and ends them."""
    view = await bench.launch("sh", "-c", "trap '' TERM; while :; do sleep 0.02; done", init=False)
    async with DockerProvider(engine_url, owner, Lanes(control=1, stop=1)) as provider:
        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(provider.stop, view.name, 1000.0)
                await trio.testing.wait_all_tasks_blocked()
                await provider.kill(view.name)
    assert (await bench.wait_ended(view.name)).exit_code == 137
