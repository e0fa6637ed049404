"""Logs and exports, from a real engine."""

import tarfile
import threading
from pathlib import Path

import pytest
import trio

from supervisor.conversation.errors import Busy, SandboxFailed
from supervisor.sandbox.docker import DockerProvider, Lanes
from supervisor.sandbox.docker.streams import READER
from tests.engine.sandboxes import PATIENCE, Workbench, until

FILL = "head -c 40000000 /dev/urandom >/workspace/big; echo ready; sleep 1000"


def files_in(directory: Path) -> list[str]:
    """The names of a directory's files."""
    return [path.name for path in directory.iterdir()]


def readers() -> int:
    """How many threads read a stream."""
    return sum(thread.name == READER for thread in threading.enumerate())


async def test_logs_are_the_last_lines_of_both_streams(bench: Workbench, provider: DockerProvider) -> None:
    """In their order, decoded, and no more than asked for."""
    lines = await bench.run("echo one; echo two >&2; printf 'b\\xffd\\n'; printf unended")
    assert sorted(lines) == sorted(["one", "two", "b\N{REPLACEMENT CHARACTER}d", "unended"])
    assert [line for line in lines if line != "two"] == ["one", "b\N{REPLACEMENT CHARACTER}d", "unended"]
    assert await provider.logs(provider.sandbox_name(bench.plan().conversation, 1), 2) == tuple(lines[-2:])


async def test_endless_line_comes_in_pieces(bench: Workbench) -> None:
    """A line without an end is bounded."""
    lines = await bench.run("head -c 40000 /dev/zero | tr '\\0' x; echo")
    assert [len(line) for line in lines] == [16384, 16384, 7232]


async def test_followed_logs_end_with_the_sandbox(bench: Workbench, provider: DockerProvider) -> None:
    """The last lines come first, then the new ones, then the end."""
    view = await bench.launch(
        "sh", "-c", "echo old; echo now; until [ -e /workspace/go ]; do sleep 0.02; done; echo late"
    )
    await bench.wait_output(view.name, "now")
    with trio.fail_after(PATIENCE):
        async with provider.follow_logs(view.name, 1) as lines:
            seen = [await anext(lines)]
            await bench.touch(view.name, "/workspace/go")
            seen += [line async for line in lines]
    assert seen == ["now", "late"]


async def test_following_an_idle_sandbox_leaves_no_thread(bench: Workbench, provider: DockerProvider) -> None:
    """Leaving the context ends the reader at once, though nothing ever comes."""
    view = await bench.launch("sh", "-c", "echo up; sleep 1000")
    entered = trio.Event()

    async def follow() -> None:
        async with provider.follow_logs(view.name, 10) as lines:
            async for _ in lines:
                entered.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await entered.wait()
        await until(lambda: readers() == 1)
        began = trio.current_time()
        nursery.cancel_scope.cancel()
    assert readers() == 0
    assert trio.current_time() - began < 1


async def test_body_of_followed_logs_raises_its_own_error(bench: Workbench, provider: DockerProvider) -> None:
    """What the body raises arrives as it is, in no group."""
    view = await bench.launch()
    with pytest.raises(LookupError):
        async with provider.follow_logs(view.name, 10):
            raise LookupError


async def test_followers_beyond_the_lane_are_refused(
    bench: Workbench, provider: DockerProvider, engine_url: str, owner: str
) -> None:
    """Nobody waits in silence for somebody else's log to end, and a place that was left can be had."""
    view = await bench.launch()
    async with DockerProvider(engine_url, owner, Lanes(stream=1)) as narrow:
        async with narrow.follow_logs(view.name, 1):
            with pytest.raises(Busy):
                async with narrow.follow_logs(view.name, 1):
                    raise AssertionError
        async with narrow.follow_logs(view.name, 1):
            await provider.kill(view.name)


async def test_following_a_sandbox_that_is_gone_fails(provider: DockerProvider) -> None:
    """There is no output to wait for."""
    with pytest.raises(SandboxFailed, match="gone"):
        async with provider.follow_logs("conversationd-none", 1):
            raise AssertionError


async def test_export_holds_the_workspace(bench: Workbench, provider: DockerProvider, tmp_path: Path) -> None:
    """Of a sandbox that has ended, too, in a file that nobody else may read."""
    await bench.run("mkdir /workspace/d; echo content >/workspace/d/f")
    target = tmp_path / "workspace.tar"
    await provider.export_workspace(provider.sandbox_name(bench.plan().conversation, 1), "/workspace", target)
    assert target.stat().st_mode & 0o777 == 0o600
    with tarfile.open(target) as tar:
        member = tar.extractfile("workspace/d/f")
        assert member is not None
        assert member.read() == b"content\n"


async def test_export_never_overwrites(bench: Workbench, provider: DockerProvider, tmp_path: Path) -> None:
    """A file or a link of that name stays as it is."""
    view = await bench.launch()
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("mine")
    link.symlink_to(tmp_path / "elsewhere")
    for path in (target, link):
        with pytest.raises(SandboxFailed, match="cannot write"):
            await provider.export_workspace(view.name, "/workspace", path)
    assert target.read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()


async def test_export_of_what_is_not_there_leaves_no_file(
    bench: Workbench, provider: DockerProvider, tmp_path: Path
) -> None:
    """Neither a directory that does not exist nor a sandbox that is gone makes one."""
    view = await bench.launch()
    for name, directory in ((view.name, "/no/such"), ("conversationd-none", "/workspace")):
        with pytest.raises(SandboxFailed):
            await provider.export_workspace(name, directory, tmp_path / "target")
    assert files_in(tmp_path) == []


async def test_cancelled_export_leaves_no_file(bench: Workbench, provider: DockerProvider, tmp_path: Path) -> None:
    """Half a workspace is worse than none."""
    view = await bench.launch("sh", "-c", FILL)
    await bench.wait_output(view.name, "ready")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(provider.export_workspace, view.name, "/workspace", tmp_path / "target")
        await until(lambda: bool(files_in(tmp_path)))
        nursery.cancel_scope.cancel()
    assert files_in(tmp_path) == []
