"""Whatever a sandbox makes of processes is frozen, and ends, with it."""

import os
import signal
import uuid
from functools import partial

import pytest
import trio
import trio.testing

from supervisor.conversation.ids import ConversationId
from supervisor.sandbox.port import SandboxState
from supervisor.sandbox.process.proc import identify, lives, open_pidfd, send
from supervisor.sandbox.process.trees import moving_of
from tests.conformance.benches.bench import C1
from tests.sandbox.process.rig import PATIENCE, Rig, sleepers


def nap() -> str:
    """A number of seconds that nobody else sleeps."""
    return f"1000.{uuid.uuid4().int % 10**12}"


def escapees(seconds: str) -> str:
    """A script with a child, a grandchild, one in a session of its own, and one that was forked twice."""
    return (
        f"sleep {seconds} & (sleep {seconds} & wait) & setsid sleep {seconds} & "
        f"(setsid sh -c 'sleep {seconds} & exit' &) ; "
    )


async def until_there_are(seconds: str, number: int) -> None:
    """Wait for so many sleepers."""
    with trio.fail_after(PATIENCE):
        while True:
            await trio.sleep(0.01)
            if len(sleepers(seconds)) == number:
                return


@pytest.mark.parametrize(
    ("how", "frozen"),
    [("exit", False), *((how, frozen) for how in ("stop", "kill", "remove", "kill -9") for frozen in (False, True))],
)
async def test_nothing_of_the_tree_outlives_it(rig: Rig, how: str, frozen: bool) -> None:
    """Grandchildren, double forks and sessions of their own end when the sandbox does, however it does."""
    seconds = nap()
    ending = "read nothing < go; exit 3" if how == "exit" else "wait"
    view = await rig.launch(f"mkfifo go; {escapees(seconds)} {ending}")
    await until_there_are(seconds, 4)
    if frozen:
        await rig.provider.pause(view.name)
    if how == "stop":
        await rig.provider.stop(view.name, 5.0)
    elif how == "kill -9":
        os.kill(rig.running(view.name).main.pid, signal.SIGKILL)
        await rig.provider.kill(view.name)
    elif how == "exit":
        with trio.fail_after(PATIENCE):
            await trio.Path(rig.state_dir, "workspaces", C1, "go").write_text("now\n")
            await rig.until_ended(view.name)
    else:
        await (rig.provider.kill if how == "kill" else rig.provider.remove)(view.name)
    assert sleepers(seconds) == []


async def test_a_crowd_that_forks_is_ended(rig: Rig) -> None:
    """A few dozen processes that each start others all the time do not outrun their end."""
    seconds = nap()
    bomb = f"for i in 1 2 3 4 5 6; do (while :; do (sleep {seconds} & sleep {seconds} &) ; done) & done; wait"
    view = await rig.launch(bomb)
    with trio.fail_after(PATIENCE):
        while True:
            await trio.sleep(0.01)
            if len(sleepers(seconds)) >= 24:
                break
    await rig.provider.kill(view.name)
    assert sleepers(seconds) == []


async def test_pause_is_complete_when_it_returns(rig: Rig) -> None:
    """Nobody of the whole tree moves, down to those that left its session."""
    seconds = nap()
    view = await rig.launch(f"{escapees(seconds)} while :; do :; done")
    await until_there_are(seconds, 4)
    tree = {process.pid for process in sleepers(seconds)} | {rig.running(view.name).main.pid}
    await rig.provider.pause(view.name)
    if (rig.directory(view.name) / "paused").exists():  # what control groups freeze shows in their own files
        assert moving_of(tree) == set()
    await rig.provider.unpause(view.name)
    assert (await rig.provider.inspect(view.name)).state is SandboxState.RUNNING  # type: ignore[union-attr]
    assert len(sleepers(seconds)) == 4


async def test_a_pid_that_is_somebody_elses_now_is_never_signalled() -> None:
    """A process with the recorded pid but another start time, or of another boot, is a stranger."""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(partial(trio.run_process, ["sleep", "1000"], check=False))
        now = identify(process.pid)
        assert now is not None
        for stranger in (now._replace(start=now.start - 1), now._replace(boot="another")):
            assert not lives(stranger)
            assert open_pidfd(stranger) is None
            send(stranger, signal.SIGKILL)
        assert lives(now)
        assert process.poll() is None
        send(now, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert open_pidfd(now) is None


async def test_a_sandbox_of_a_pid_that_was_reused_has_ended(loose: Rig) -> None:
    """It is seen as ended, and stop, kill and remove leave the stranger alone."""
    view = await loose.launch("exec sleep 1000")
    running = loose.running(view.name)
    await loose.provider.kill(view.name)
    stranger = identify(os.getpid())
    assert stranger is not None
    text = (loose.directory(view.name) / "running.json").read_text()
    for ours in (running.keeper, running.main):
        text = text.replace(f"[{ours.pid}, ", f"[{stranger.pid}, ")
    (loose.directory(view.name) / "running.json").write_text(text)
    await loose.provider.stop(view.name, 1.0)
    await loose.provider.kill(view.name)
    assert (await loose.until_ended(view.name)).exit_code == 137
    await loose.provider.remove(view.name)


async def test_after_a_reboot_all_have_ended(loose: Rig) -> None:
    """Whatever has their pids now."""
    view = await loose.launch("exec sleep 1000")
    path = loose.directory(view.name) / "running.json"
    boot = loose.running(view.name).keeper.boot
    text = path.read_text()
    path.write_text(text.replace(boot, "another"))
    seen = await loose.provider.inspect(view.name)
    path.write_text(text)
    assert seen is not None
    assert (seen.state, seen.exit_code, seen.message) == (SandboxState.EXITED, 137, "the host was restarted")


class Ears:
    """Hears what is told."""

    def __init__(self) -> None:
        self.changed = trio.Event()

    def engine_connected(self) -> None:
        """See `EngineObserver`."""

    def engine_lost(self, reason: str) -> None:
        """See `EngineObserver`."""
        pytest.fail(reason)

    def sandbox_changed(self, conversation: ConversationId) -> None:
        """See `EngineObserver`."""
        self.changed.set()


async def test_what_a_killed_keeper_kept_is_ended_and_told(rig: Rig) -> None:
    """Its sandbox is ended as an engine ends one whose shim is gone, and none of its tree is lost sight of."""
    seconds, ears = nap(), Ears()
    view = await rig.launch(f"{escapees(seconds)} wait")
    await until_there_are(seconds, 4)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rig.provider.watch, ears)
            await trio.testing.wait_all_tasks_blocked(0.01)
            os.kill(rig.running(view.name).keeper.pid, signal.SIGKILL)
            await ears.changed.wait()
            nursery.cancel_scope.cancel()
    assert sleepers(seconds) == []
    ended = await rig.until_ended(view.name)
    assert (ended.exit_code, ended.message) == (137, "its keeper was killed, and the rest of it with it")


@pytest.mark.parametrize("how", ["kill", "remove", "launch"])
async def test_whoever_comes_first_ends_what_a_killed_keeper_kept(rig: Rig, how: str) -> None:
    """Also when nobody watches; a launch makes a new run of it."""
    seconds = nap()
    view = await rig.launch(f"{escapees(seconds)} wait")
    await until_there_are(seconds, 4)
    keeper = rig.running(view.name).keeper
    os.kill(keeper.pid, signal.SIGKILL)
    with trio.fail_after(PATIENCE):
        while True:
            await trio.sleep(0.01)
            if not lives(keeper):
                break
    if how == "launch":
        assert (await rig.launch("exec sleep 1000")).id != view.id
    else:
        await (rig.provider.kill if how == "kill" else rig.provider.remove)(view.name)
    assert sleepers(seconds) == []


async def test_a_keeper_passes_sigterm_on(loose: Rig) -> None:
    """A host that shuts down tells everybody to end: the sandbox ends by itself, and its end is known."""
    view = await loose.launch("trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done")
    await loose.lines(view.name, 1)
    os.kill(loose.running(view.name).keeper.pid, signal.SIGTERM)
    assert (await loose.until_ended(view.name)).exit_code == 7
