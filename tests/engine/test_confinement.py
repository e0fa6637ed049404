"""What a sandbox can and cannot do, seen from inside it."""

import attrs
import pytest

from supervisor.conversation.errors import Forbidden, SandboxFailed
from supervisor.conversation.spec import Mount
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.port import SandboxPlan
from tests.engine.sandboxes import C1, Workbench

FIRST_FOUND = "for f in {}; do [ -e $f ] && cat $f && exit; done"
MEMORY = FIRST_FOUND.format("/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max")
PIDS = FIRST_FOUND.format("/sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max")


async def test_root_inside_has_no_power(bench: Workbench) -> None:
    """No capability, no way to gain one, no core dumps; and mounting is refused."""
    lines = await bench.run(
        "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status; ulimit -c; mount -t tmpfs none /tmp 2>&1; echo $?; "
        "ls /var/run/docker.sock /run/docker.sock 2>&1 | grep -c 'No such file'"
    )
    values = {line.split()[0]: line.split()[1] for line in lines[:3]}
    assert int(values["CapEff:"], 16) == 0
    assert int(values["CapBnd:"], 16) == 0
    assert values["NoNewPrivs:"] == "1"
    assert lines[3] == "0"
    assert "permission denied" in lines[4]
    assert lines[5:] == ["1", "2"]


async def test_limits_hold(bench: Workbench) -> None:
    """Memory and number of processes are what the spec says."""
    assert await bench.run(MEMORY) == [str(64 * 1024**2)]
    assert await bench.run(PIDS, incarnation=2) == ["32"]


async def test_fork_bomb_stays_inside(bench: Workbench) -> None:
    """More processes than allowed cannot be made."""
    output = await bench.run("for i in $(seq 64); do sleep 1000 & done; true", pids_limit=16)
    assert any("can't fork" in line for line in output)


async def test_too_much_memory_is_told_apart(bench: Workbench) -> None:
    """A sandbox that the kernel ended for its memory says so."""
    view = await bench.launch("sh", "-c", "x=a; while :; do x=$x$x; done", memory=16 * 1024**2)
    ended = await bench.wait_ended(view.name)
    assert ended.oom_killed
    assert ended.exit_code == 137


async def test_environment_and_user_are_the_plans(bench: Workbench, provider: DockerProvider) -> None:
    """The plan's environment is complete, and the spec's user runs the command."""
    plan = bench.plan("sh", "-c", "echo $KEY; id -u", user="1234")
    view = await provider.launch(SandboxPlan(C1, 1, plan.spec, {"KEY": "secret value"}))
    await bench.wait_ended(view.name)
    assert await provider.logs(view.name, 10) == ("secret value", "1234")


async def test_image_command_is_used_when_none_is_given(bench: Workbench, provider: DockerProvider) -> None:
    """An image without a command of its own then is refused, in words."""
    plan = bench.plan()
    without = attrs.evolve(plan, spec=attrs.evolve(plan.spec, command=None))
    with pytest.raises(SandboxFailed, match=r"(?i)no command"):
        await provider.launch(without)


async def test_mount_is_read_only(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A mount shows the host's files, and keeps them as they are."""
    directory = tmp_path_factory.mktemp("shown")
    (directory / "file").write_text("from the host\n")
    mounts = (Mount(str(directory), "/shown"),)
    output = await bench.run("cat /shown/file; echo x 2>&1 >/shown/new || echo refused", mounts=mounts)
    assert output[0] == "from the host"
    assert output[-1] == "refused"
    assert [path.name for path in directory.iterdir()] == ["file"]


@pytest.mark.parametrize("source", ["/var/run/docker.sock", "/run", "/", "/var/../run/docker.sock"])
async def test_mount_that_shows_the_engine_is_forbidden(
    bench: Workbench, provider: DockerProvider, source: str
) -> None:
    """Neither the socket nor a directory above it reaches a sandbox, and nothing is made."""
    with pytest.raises(Forbidden):
        await bench.launch(mounts=(Mount(source, "/x"),))
    assert await provider.list_owned() == []
