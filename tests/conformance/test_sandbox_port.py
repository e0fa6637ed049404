"""Every promise of the sandbox port, on the fake engine and on the real one alike, so that the fake cannot drift."""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio

from supervisor.conversation.errors import Conflict, EngineUnavailable, ImageUnavailable, SandboxFailed
from supervisor.conversation.ids import ConversationId
from supervisor.sandbox.port import OwnedSandbox, SandboxProvider, SandboxState, SandboxView
from tests.conformance.benches.bench import C1, Bench

PATIENCE: Final = 30.0


async def state_of(bench: Bench, name: str) -> SandboxState | None:
    """What the engine shows now."""
    view = await bench.provider.inspect(name)
    return view.state if view is not None else None


async def until_ended(bench: Bench, name: str) -> SandboxView:
    """Look until the sandbox has ended."""
    with trio.fail_after(PATIENCE):
        while True:
            view = await bench.provider.inspect(name)
            assert view is not None
            if view.state is SandboxState.EXITED:
                return view
            await trio.sleep(0.01)


async def test_launch_runs_under_the_name_that_the_incarnation_has(bench: Bench) -> None:
    """A launched sandbox runs, under the name that the provider tells for it, with its port published on loopback."""
    view = await bench.provider.launch(bench.plan())
    assert view.name == bench.provider.sandbox_name(C1, 1)
    assert view.state is SandboxState.RUNNING
    assert view.published is not None
    assert view.published.host == "127.0.0.1"
    assert view.url == f"http://127.0.0.1:{view.published.port}"
    assert await bench.provider.inspect(view.name) == view


async def test_launch_twice_makes_one_sandbox(bench: Bench) -> None:
    """Asking again for the same incarnation answers with the sandbox that is there."""
    first = await bench.provider.launch(bench.plan())
    assert (await bench.provider.launch(bench.plan())).id == first.id
    assert len(await bench.provider.list_owned()) == 1


async def test_launch_of_a_name_that_is_not_ours_is_a_conflict(bench: Bench) -> None:
    """A foreign container of the name is neither adopted nor listed, where the engine can tell whose one is."""
    bench.take_name(bench.provider.sandbox_name(C1, 1))
    if not bench.promises.knows_foreign:
        adopted = await bench.provider.launch(bench.plan())
        assert [owned.name for owned in await bench.provider.list_owned()] == [adopted.name]
        return
    with pytest.raises(Conflict):
        await bench.provider.launch(bench.plan())
    assert await bench.provider.list_owned() == []


async def test_find_image_says_whether_it_is_there(bench: Bench) -> None:
    """With its size; what is no name of an image is none. Without images none is ever found."""
    found = await bench.provider.find_image(bench.plan().spec.image)
    assert (found is not None) is bench.promises.has_images
    if found is not None:
        assert found.size > 0
        assert found.created
    assert await bench.provider.find_image("no-such-image:1") is None
    assert await bench.provider.find_image("/no name/of an image") is None


async def test_inspect_of_nothing_is_none(bench: Bench) -> None:
    """None says for certain that there is no such sandbox."""
    assert await bench.provider.inspect(bench.provider.sandbox_name(C1, 7)) is None


async def test_pause_and_unpause_may_be_repeated(bench: Bench) -> None:
    """Frozen already and thawed already are fine."""
    name = (await bench.provider.launch(bench.plan())).name
    await bench.provider.pause(name)
    await bench.provider.pause(name)
    assert await state_of(bench, name) is SandboxState.PAUSED
    await bench.provider.unpause(name)
    await bench.provider.unpause(name)
    assert await state_of(bench, name) is SandboxState.RUNNING


async def test_pause_of_what_does_not_run_is_refused(bench: Bench) -> None:
    """An ended sandbox can be neither frozen nor thawed, and neither can one that never was."""
    name = (await bench.provider.launch(bench.plan())).name
    await bench.provider.kill(name)
    for gone in (name, bench.provider.sandbox_name(C1, 7)):
        with pytest.raises(SandboxFailed):
            await bench.provider.pause(gone)
        with pytest.raises(SandboxFailed):
            await bench.provider.unpause(gone)


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("forced", [False, True])
async def test_stop_and_kill_end_it_frozen_or_not(bench: Bench, frozen: bool, forced: bool) -> None:
    """A stopped or killed sandbox has ended when the call returns, or is gone; doing it again is fine."""
    name = (await bench.provider.launch(bench.plan())).name
    if frozen:
        await bench.provider.pause(name)
    for _ in range(2):
        if forced:
            await bench.provider.kill(name)
        else:
            await bench.provider.stop(name, 1.0)
    if not bench.promises.keeps_what_ended:
        assert await bench.provider.inspect(name) is None
        return
    assert (await until_ended(bench, name)).exit_code in (137, 143)


async def test_what_is_gone_can_be_ended_and_removed(bench: Bench) -> None:
    """Ending and removing ask only that it be gone in the end."""
    name = bench.provider.sandbox_name(C1, 1)
    await bench.provider.stop(name, 1.0)
    await bench.provider.kill(name)
    await bench.provider.remove(name)
    await bench.provider.remove_workspace(C1)
    assert not await bench.provider.logs(name, 10)


async def test_workspaces_are_listed_until_they_are_removed(bench: Bench) -> None:
    """Also without a sandbox; where a workspace is part of its sandbox there is none to list."""
    name = (await bench.provider.launch(bench.plan())).name
    await bench.provider.remove(name)
    assert list(await bench.provider.list_workspaces()) == ([C1] if bench.promises.keeps_workspaces else [])
    await bench.provider.remove_workspace(C1)
    assert list(await bench.provider.list_workspaces()) == []


async def test_remove_ends_what_runs(bench: Bench) -> None:
    """A removed sandbox is nowhere, whatever it did before."""
    name = (await bench.provider.launch(bench.plan())).name
    await bench.provider.remove(name)
    assert await bench.provider.inspect(name) is None
    assert await bench.provider.list_owned() == []
    await bench.provider.remove_workspace(C1)


async def test_an_exit_shows_its_code(bench: Bench) -> None:
    """The exit code of what ended by itself is told, and that it was not for want of memory."""
    view = await bench.provider.launch(bench.plan_ending(3))
    ended = await until_ended(bench, view.name)
    assert (ended.exit_code, ended.oom_killed) == (3 if bench.promises.tells_exit_codes else None, False)


async def test_list_shows_every_incarnation_with_its_state(bench: Bench) -> None:
    """One list has all of ours, with conversation, incarnation and state."""
    names = [(await bench.provider.launch(bench.plan(incarnation))).name for incarnation in (1, 2)]
    bench.kill_from_outside(names[0])
    await until_ended(bench, names[0])
    assert sorted(await bench.provider.list_owned(), key=lambda owned: owned.incarnation) == [
        OwnedSandbox(names[0], C1, 1, SandboxState.EXITED),
        OwnedSandbox(names[1], C1, 2, SandboxState.RUNNING),
    ]


async def test_output_is_kept_after_the_end(bench: Bench) -> None:
    """What a sandbox wrote can be read, and followed, also when it has ended; some engines tell only how it failed."""
    name = (await bench.provider.launch(bench.plan())).name
    with trio.fail_after(PATIENCE):
        async with bench.provider.follow_logs(name, 10) as lines:
            if not bench.promises.tells_output:
                assert list(await bench.provider.logs(name, 10)) == []
                bench.kill_from_outside(name)
                told = [line async for line in lines]
                assert told == list(await bench.provider.logs(name, 10)) != []
                return
            assert await anext(lines) == "hello"
            await bench.provider.kill(name)
            assert [line async for line in lines] == []
    assert list(await bench.provider.logs(name, 10)) == ["hello"]


async def test_export_writes_a_new_private_file(bench: Bench, tmp_path: Path) -> None:
    """The workspace of a sandbox that has ended can be taken out, where the engine can do that at all."""
    name = (await bench.provider.launch(bench.plan())).name
    target = tmp_path / "workspace.tar"
    if not bench.promises.exports:
        with pytest.raises(SandboxFailed):
            await bench.provider.export_workspace(name, "/workspace", target)
        return
    await bench.provider.kill(name)
    await bench.provider.export_workspace(name, "/workspace", target)
    assert target.stat().st_size > 0
    assert target.stat().st_mode & 0o777 == 0o600


async def test_a_missing_image_is_told(bench: Bench) -> None:
    """An image that is not there and may not be pulled is unavailable; where there are none, none is needed."""
    plan = bench.plan()
    missing = attrs.evolve(plan.spec, image="conversationd-tests/there-is-none:1")

    async def ignore(_: object) -> None:
        await trio.lowlevel.checkpoint()

    await bench.provider.ensure_image(plan.spec, ignore, 5.0)
    with pytest.raises(ImageUnavailable) if bench.promises.has_images else nullcontext():
        await bench.provider.ensure_image(missing, ignore, 5.0)


@attrs.define
class Listener:
    """Remembers what it hears."""

    connected: trio.Event = attrs.field(factory=trio.Event)
    changed: trio.Event = attrs.field(factory=trio.Event)

    def engine_connected(self) -> None:
        """See `EngineObserver`."""
        self.connected.set()

    def engine_lost(self, reason: str) -> None:
        """See `EngineObserver`."""
        pytest.fail(f"the engine was lost: {reason}")

    def sandbox_changed(self, conversation: ConversationId) -> None:
        """See `EngineObserver`."""
        assert conversation == C1
        self.changed.set()


@attrs.define
class Loss:
    """Remembers that the engine was lost."""

    lost: trio.Event = attrs.field(factory=trio.Event)

    def engine_connected(self) -> None:
        """See `EngineObserver`."""
        pytest.fail("an engine that does not answer is not connected")

    def engine_lost(self, reason: str) -> None:
        """See `EngineObserver`."""
        assert reason
        self.lost.set()

    def sandbox_changed(self, conversation: ConversationId) -> None:
        """See `EngineObserver`."""
        pytest.fail(f"nothing is known of {conversation}")


async def unanswered(provider: SandboxProvider, name: str) -> list[str]:
    """Which of the things that can be asked were not answered, all of them asked at once."""
    asks: Mapping[str, Callable[[], Awaitable[object]]] = {
        "engine": provider.engine,
        "list": provider.list_owned,
        "inspect": partial(provider.inspect, name),
        "unpause": partial(provider.unpause, name),
    }
    found: list[str] = []

    async def ask(what: str) -> None:
        await trio.lowlevel.checkpoint()
        try:
            await asks[what]()
        except EngineUnavailable:
            found.append(what)

    with trio.fail_after(2 * PATIENCE):
        async with trio.open_nursery() as nursery:
            for what in asks:
                nursery.start_soon(ask, what)
    return sorted(found)


async def test_an_engine_that_does_not_answer_says_nothing_of_its_sandboxes(bench: Bench) -> None:
    """Whatever is asked is unknown, which is no end; what ran runs on. Only the host's own kernel is always there."""
    name = (await bench.provider.launch(bench.plan())).name
    can_be_away = bench.promises.can_be_away
    async with bench.away() as provider:
        assert await unanswered(provider, name) == (["engine", "inspect", "list", "unpause"] if can_be_away else [])
        if can_be_away:
            loss = Loss()
            with trio.fail_after(PATIENCE):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(provider.watch, loss)
                    await loss.lost.wait()
                    nursery.cancel_scope.cancel()
    assert await state_of(bench, name) is SandboxState.RUNNING


async def test_watch_tells_of_a_death_from_outside(bench: Bench) -> None:
    """Who watches hears first that the engine is there, and then that a sandbox may have changed."""
    listener = Listener()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.provider.watch, listener)
            await listener.connected.wait()
            view = await bench.provider.launch(bench.plan())
            listener.changed = trio.Event()
            bench.kill_from_outside(view.name)
            await listener.changed.wait()
            nursery.cancel_scope.cancel()
    assert (await until_ended(bench, view.name)).exit_code == (137 if bench.promises.tells_exit_codes else None)
