"""What a sandbox can and cannot do, seen from inside it: each thing is tried there for real."""

import re
from collections.abc import Mapping
from functools import partial
from types import MappingProxyType
from typing import Final, TypeAlias

import attrs
import pytest
import trio

from supervisor.conversation.errors import Forbidden, SandboxFailed
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import Mount
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.port import SandboxPlan
from tests.engine.sandboxes import C1, Workbench

FIRST_FOUND = "for f in {}; do [ -e $f ] && cat $f && exit; done"
MEMORY = FIRST_FOUND.format("/sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max")
PIDS = FIRST_FOUND.format("/sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max")


Attempts: TypeAlias = Mapping[str, str]

GAINS: Final[Attempts] = MappingProxyType(
    {
        "mount a file system": "mount -t tmpfs none /tmp",
        "mount the host's root": "mount -o bind / /tmp",
        "make /sys writable": "mount -o remount,rw /sys",
        "uncover what the engine hides": "umount /proc/kcore",
        "unmount the workspace": "umount /workspace",
        "change the root": "chroot / true",
        "pivot the root": "pivot_root / /tmp",
        "become root of a user namespace": "unshare -U true",
        "make a mount namespace": "unshare -m true",
        "make a network namespace": "unshare -n true",
        "join the namespaces of process 1": "nsenter -t 1 -m -n true",
        "make a disk's node": "mknod /tmp/disk b 7 0",
        "make a memory's node": "mknod /tmp/memory c 1 1",
        "give a file away": "touch /tmp/own && chown 1234 /tmp/own",
        "rename the host": "hostname other",
        "set the clock": "adjtimex -t 10000",
        "read the kernel's log": "dmesg",
        "load a kernel module": "insmod /bin/busybox",
        "take an interface down": "ip link set lo down",
        "take another address": "ip addr add 10.99.99.99/8 dev lo",
        "send raw packets": "traceroute -n -m 1 127.0.0.1",
        "run before others": "renice -n -5 -p $$",
        "be spared by the OOM killer": "echo -1000 >/proc/self/oom_score_adj",
        "dump core": "ulimit -Hc unlimited",
    }
)
"""What a gain of power would allow, each harmless where it works."""

ALLOWED_BY_THE_ENGINE: Final = frozenset(
    {
        "change the root",
        "make a disk's node",
        "make a memory's node",
        "give a file away",
        "send raw packets",
    }
)
"""What a container that nobody hardened may do: it shows that these are refused by us, and not by a mistake in here."""

REFUSED: Final = re.compile(r"(?i)not permitted|denied")

OWN: Final = frozenset(
    {
        "/",  # the container's own layer
        "/workspace",
        "/dev",  # a small file system in its memory, as are the next three
        "/dev/shm",
        "/dev/mqueue",
        "/sys/fs/cgroup",  # another one, where control groups are of version 1: the groups in it are read-only
        "/etc/resolv.conf",  # the engine makes these three for each container
        "/etc/hostname",
        "/etc/hosts",
    }
)
"""Where a sandbox may write: all of it is its own and goes with it, but for the workspace, which goes by `delete`."""

WRITABLE_MOUNTS: Final = (
    "cut -d' ' -f5 /proc/self/mountinfo | while read -r m; do "
    '{ if [ -d "$m" ]; then chmod 777 "$m"; touch "$m/.probe"; elif [ -c "$m" ]; then false; else true >>"$m"; fi; } '
    '2>/dev/null && echo "$m"; done'
)
"""Prints every mount that takes a write. What the engine hides has a null device over it, which takes everything."""

KERNEL_FILES: Final = (
    "find /proc /sys -path '/proc/[0-9]*' -prune -o -type f -perm +222 -print 2>/dev/null | while read -r f; do "
    '{ echo x >"$f"; } 2>/dev/null && echo "took $f" || echo "$f"; done'
)
"""Writes to every file of the kernel that anybody at all may write to, but for those of the sandbox's own processes."""

KERNEL_MODES: Final = (
    "find /proc -mindepth 1 -path '/proc/[0-9]*' -prune -o -path /proc/sys -prune -o ! -type l ! -type c "
    "-exec chmod -v u+X {} + 2>&1"
)
"""Sets the mode of the kernel's files to what it is. Whoever may do that may set it to 0, for the whole host."""

HOST_FILES: Final = "grep -x -e /proc/sys/kernel/core_pattern -e /proc/sys/vm/drop_caches /tmp/tried | sort"
"""Two of them that change the whole host."""

PLAIN_DEVICES: Final = (
    {"null", "zero", "full", "random", "urandom", "tty", "console", "ptmx", "pts", "shm", "mqueue"}
    | {"fd", "stdin", "stdout", "stderr", "core"}  # links into /proc
)


def script_of(attempts: Attempts) -> str:
    """A shell script that makes each attempt, and prints a line with its exit code and its words."""
    return "; ".join(f'out=$( ({command}) 2>&1 ); echo "$? "$out' for command in attempts.values())


def refusals_missing(attempts: Attempts, lines: list[str]) -> dict[str, str]:
    """The attempts that were not refused in the kernel's own words, with what they said instead."""
    assert len(lines) == len(attempts)
    told = dict(zip(attempts, lines, strict=True))
    return {name: line for name, line in told.items() if line.startswith("0 ") or not REFUSED.search(line)}


C2: Final = ConversationId("c2")
SIGHTS: Final[Attempts] = MappingProxyType(
    {
        "processes": "cat /proc/[0-9]*/comm",
        "devices": "ls /dev",
        "disks": "find / -xdev -type b; find /dev -type b",
        "sockets": "find / -xdev -type s; find /dev /run /var -type s 2>/dev/null",
        "addresses": "tail -n +2 /proc/net/unix; tail -n +2 /proc/net/tcp",
        "interfaces": "ls /sys/class/net",
        "volumes": "grep -o 'volumes/[^/]*' /proc/self/mountinfo",
        "secrets": "find / -name 'secret-of-*' 2>/dev/null",
    }
)
"""What a sandbox can look at: each is printed between its title and an end."""


async def run_unhardened(bench: Workbench, owner: str, script: str, user: str = "") -> list[str]:
    """Run a script in a container with the engine's own defaults, over the workspace of conversation c1."""
    workspace = bench.provider._containers.names.workspace(C1)
    return await trio.to_thread.run_sync(partial(_run_unhardened, bench, owner, script, user, workspace))


def _run_unhardened(bench: Workbench, owner: str, script: str, user: str, workspace: str) -> list[str]:
    host = bench.raw.create_host_config(network_mode="none", binds={workspace: {"bind": "/workspace", "mode": "rw"}})
    labels = {"io.conversationd.owner": owner}
    command = ["sh", "-c", script]
    container = bench.raw.create_container(bench.image, command, user=user, host_config=host, labels=labels)["Id"]
    bench.raw.start(container)
    bench.raw.wait(container)
    output: bytes = bench.raw.logs(container)
    return output.decode().splitlines()


async def test_root_inside_has_no_power(bench: Workbench) -> None:
    """No capability in any set, no way to gain one, system calls filtered, no core dumps."""
    lines = await bench.run("grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status; ulimit -Hc; id -u")
    status = dict(line.split() for line in lines[:-2])
    capabilities = {name: int(value, 16) for name, value in status.items() if name.startswith("Cap")}
    assert capabilities == {"CapInh:": 0, "CapPrm:": 0, "CapEff:": 0, "CapBnd:": 0, "CapAmb:": 0}
    assert (status["NoNewPrivs:"], status["Seccomp:"]) == ("1", "2")
    assert lines[-2:] == ["0", "0"]


async def test_root_inside_gains_nothing(bench: Workbench) -> None:
    """Whatever takes power is refused, for root too."""
    assert refusals_missing(GAINS, await bench.run(script_of(GAINS))) == {}


async def test_attempts_would_succeed_without_the_hardening(bench: Workbench, owner: str) -> None:
    """The same attempts work where the engine's defaults hold, as far as these let them: so they do try something."""
    allowed = {name: GAINS[name] for name in GAINS if name in ALLOWED_BY_THE_ENGINE}
    await bench.launch()
    lines = await run_unhardened(bench, owner, script_of(allowed))
    assert {name: line.split()[0] for name, line in zip(allowed, lines, strict=True)} == dict.fromkeys(allowed, "0")


async def test_what_is_left_in_the_workspace_gives_no_power(bench: Workbench, owner: str) -> None:
    """Neither a program that is set-user-id root nor a device node, whoever has put it there."""
    await bench.run("cp /bin/busybox /workspace/ && chmod 4755 /workspace/busybox")
    planted = "mknod -m 666 /workspace/disk b 7 0 && mknod -m 666 /workspace/memory c 1 1 && echo planted"
    assert await run_unhardened(bench, owner, planted) == ["planted"]
    become_root = "/workspace/busybox crontab -l 2>&1"
    assert await run_unhardened(bench, owner, become_root, user="1234") == ["crontab: unknown uid 1234"]
    read = "for node in disk memory; do dd if=/workspace/$node count=1 2>&1 | tail -n 1; done"
    assert await bench.run(f"{become_root}; {read}", user="1234", incarnation=2) == [
        "crontab: must be suid to work properly",
        "dd: can't open '/workspace/disk': Operation not permitted",
        "dd: can't open '/workspace/memory': Operation not permitted",
    ]


async def test_sandbox_writes_only_what_is_its_own(bench: Workbench) -> None:
    """Its layer, its volume, its small file systems in memory, and the three files that the engine made for it."""
    written = set(await bench.run(WRITABLE_MOUNTS))
    assert written <= OWN
    assert {"/", "/workspace"} <= written


async def test_kernel_takes_nothing_from_a_sandbox(bench: Workbench) -> None:
    """No file of /proc or /sys takes a write: none that would change the host, none that holds the sandbox's limits."""
    lines = await bench.run(f"({KERNEL_FILES}) >/tmp/tried; grep took /tmp/tried; grep -c . /tmp/tried; {HOST_FILES}")
    tried, *present = lines[-3:]
    assert int(tried) > 100
    assert present == ["/proc/sys/kernel/core_pattern", "/proc/sys/vm/drop_caches"]
    assert lines[:-3] == []


async def test_sandbox_sets_no_mode_of_the_kernels_files(bench: Workbench) -> None:
    """All sandboxes and the host share these: one that could set the mode of /proc/meminfo could hide it from all."""
    lines = await bench.run(KERNEL_MODES)
    assert [line for line in lines if line.startswith("mode of")] == []
    assert "chmod: /proc/meminfo: Read-only file system" in lines


async def test_crash_leaves_no_core_dump(bench: Workbench) -> None:
    """A program that dies by a signal that dumps core leaves its memory nowhere."""
    assert await bench.run("cd /workspace; { sh -c 'kill -SEGV $$'; } 2>/dev/null; echo $?; ls -A") == ["139"]


async def test_sandbox_sees_nobody_else(bench: Workbench) -> None:
    """No process, socket, disk or volume but its own: not the engine's, the host's, or another conversation's."""
    other = await bench.launch("sh", "-c", "touch /workspace/secret-of-c1; echo done; exec sleep 1000")
    await bench.wait_output(other.name, "done")
    look = "; ".join(f"echo '{title}'; {command}; echo end" for title, command in SIGHTS.items())
    plan = bench.plan("sh", "-c", f"touch /workspace/secret-of-c2; {look}")
    view = await bench.provider.launch(attrs.evolve(plan, conversation=C2))
    await bench.wait_ended(view.name)
    lines = iter(await bench.provider.logs(view.name, 1000))
    seen = {next(lines): {line.strip() for line in iter(partial(next, lines), "end")} for _ in SIGHTS}
    assert seen.pop("processes") <= {"docker-init", "tini", "sh", "cat"}
    assert seen.pop("devices") <= PLAIN_DEVICES
    assert seen == {
        "disks": set(),
        "sockets": set(),
        "addresses": set(),
        "interfaces": {"lo"},
        "volumes": {f"volumes/{bench.provider._containers.names.workspace(C2)}"},
        "secrets": {"/workspace/secret-of-c2"},
    }


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


@pytest.mark.parametrize(
    ("user", "told"), [("1234", "1234:0 755"), ("1234:2345", "1234:2345 2775"), ("0", "0:0 755"), ("", "0:0 777")]
)
async def test_user_by_numbers_owns_the_workspace(bench: Workbench, user: str, told: str) -> None:
    """Whoever owns its path in the image. Without one it stays as the image has it: the next sandbox's may differ."""
    script = "stat -c '%u:%g %a' /workspace; touch /workspace/file"
    assert await bench.run(script, user=user or None) == [told]


async def test_entrypoint_and_directory_are_the_plans(bench: Workbench, provider: DockerProvider) -> None:
    """In place of the image's; the command goes after the entrypoint."""
    view = await bench.launch("-c", "pwd; echo $0", "third", entrypoint=("sh",), working_dir="/tmp")
    await bench.wait_ended(view.name)
    assert await provider.logs(view.name, 10) == ("/tmp", "third")


async def test_runtime_is_the_plans(bench: Workbench) -> None:
    """The engine is told its name, and one that it does not have fails in words that say what to do."""
    view = await bench.launch(runtime="runc")
    container = await trio.to_thread.run_sync(bench.raw.inspect_container, view.name)
    assert container["HostConfig"]["Runtime"] == "runc"
    with pytest.raises(SandboxFailed, match=r"no-such-runtime.*daemon\.json"):
        await bench.launch(incarnation=2, runtime="no-such-runtime")


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
