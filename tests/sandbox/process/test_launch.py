"""How a process sandbox begins: its port, its environment, what it is refused, and what a death midway leaves."""

import signal
import stat
import sys
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio

from supervisor.agent.none import NoAgent
from supervisor.agent.port import AgentSession
from supervisor.conversation.errors import EngineUnavailable, SandboxFailed
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import Mount, PullPolicy, SandboxSpec
from supervisor.sandbox.port import SandboxPlan, SandboxState
from supervisor.sandbox.process.commands import program_of
from supervisor.sandbox.process.homes import Home
from supervisor.sandbox.process.output import MOST
from supervisor.sandbox.process.provider import ProcessProvider
from tests.conformance.benches.bench import C1
from tests.process_host import left_on_host
from tests.sandbox.process.rig import PATIENCE, Rig, open_rig

SERVES: Final = (
    "from http.server import HTTPServer, SimpleHTTPRequestHandler as Handler\n"
    "HTTPServer(('127.0.0.1', {port}), Handler).serve_forever()"
)

DRAW_PORTS: Final = """
import socket, sys
sys.path.insert(0, sys.argv[1])
from supervisor.sandbox.process.keeper import _reserve_port
open("/proc/sys/net/ipv4/ip_local_port_range", "w").write("40000 40003")
reserved = _reserve_port()
ours = reserved.getsockname()[1]
drawn, listener = [], socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", ours))
listener.listen()
for reuse in (0, 1):
    while True:
        other = socket.socket()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        try:
            other.bind(("127.0.0.1", 0))
        except OSError:
            break
        drawn.append(other)
print(ours, *sorted(other.getsockname()[1] for other in drawn))
"""


def changed(plan: SandboxPlan, **changes: object) -> SandboxPlan:
    """The plan with these of its spec changed."""
    return attrs.evolve(plan, spec=attrs.evolve(plan.spec, **changes))  # type: ignore[arg-type]  # the tests' own words


async def test_a_reserved_port_is_given_to_nobody_else() -> None:
    """In a network with four ports everybody who asks for any gets one of the other three; its server has its own."""
    root = str(Path(__file__).parents[3])
    command = ["unshare", "--net", sys.executable, "-c", DRAW_PORTS, root]
    done = await trio.run_process(command, capture_stdout=True)
    ours, *others = (int(port) for port in done.stdout.split())
    assert sorted({ours, *others}) == [40000, 40001, 40002, 40003]
    assert ours not in others


async def test_its_server_binds_the_port_that_is_published(loose: Rig) -> None:
    """It stands in the command in place of `{port}`; until something listens there, connections are refused."""
    view = await loose.provider.launch(loose.plan(sys.executable, "-c", SERVES))
    assert view.published is not None
    assert view.direct == view.published
    session = AgentSession(loose.plan().conversation, "/", view.published, view.direct, "key", "secret")
    with trio.fail_after(PATIENCE):
        await NoAgent().wait_ready(session)


async def test_a_port_is_not_needed(loose: Rig) -> None:
    """Without one nothing is published, and a command that asks for it is refused in words."""
    none = changed(loose.plan("sleep", "1000"), port=None)
    assert (await loose.provider.launch(none)).published is None
    with pytest.raises(SandboxFailed, match="port"):
        await loose.provider.launch(changed(loose.plan("serve", "{port}", incarnation=2), port=None))


@pytest.mark.parametrize(
    ("key", "value"),
    [("mounts", (Mount("/a", "/b"),)), ("runtime", "runsc"), ("network", "other"), ("user", "somebody")],
)
async def test_what_only_a_container_can_have_is_refused(loose: Rig, key: str, value: object) -> None:
    """In words that name it; nothing is made."""
    with pytest.raises(SandboxFailed, match=key):
        await loose.provider.launch(changed(loose.plan("sleep", "1000"), **{key: value}))
    assert await loose.provider.list_owned() == []


async def test_it_has_an_environment_of_its_own(loose: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the daemon's, its workspace as home and directory, no core dumps and no new privileges."""
    monkeypatch.setenv("DAEMONS_OWN", "1")
    view = await loose.launch("env; pwd; ulimit -c; umask; grep NoNewPrivs /proc/$$/status")
    await loose.until_ended(view.name)
    lines = await loose.lines(view.name, 1)
    workspace = loose.provider.workspace(loose.plan().conversation, loose.plan().spec)
    assert {f"HOME={workspace}", "LANG=C.UTF-8", f"CONVERSATIOND_SANDBOX={view.name}", "KEY=secret"} <= set(lines)
    assert not [line for line in lines if "DAEMONS_OWN" in line]
    assert lines[-4:] == [workspace, "0", "0022", "NoNewPrivs:\t1"]


def descriptors(pid: int) -> dict[str, str]:
    """What a process has open, by its descriptors."""
    return {path.name: str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}


async def test_it_inherits_no_descriptor(loose: Rig) -> None:
    """Nothing is open in it but its input, which is empty, and its output."""
    view = await loose.provider.launch(loose.plan("sleep", "1000"))
    opened = descriptors(loose.running(view.name).main.pid)
    assert opened["0"] == "/dev/null"
    assert opened["1"] == opened["2"]
    assert len(opened) == 3


async def test_a_user_by_numbers_owns_its_workspace(loose: Rig) -> None:
    """What runs is that user, and may write there. Tests run as root, as the README says."""
    loose.state_dir.chmod(0o711)
    view = await loose.provider.launch(
        changed(loose.plan("sh", "-c", "id -u; id -g; touch mine && echo wrote"), user="1234:2345")
    )
    await loose.until_ended(view.name)
    assert await loose.lines(view.name, 3) == ["1234", "2345", "wrote"]


def open_to_all(directory: Path) -> None:
    """Let everybody go through it."""
    directory.chmod(0o711)


def names_below(directory: Path) -> set[str]:
    """The names of everything in it."""
    return {path.name for path in directory.rglob("*")}


async def test_workspaces_may_be_where_other_users_can_go(loose: Rig) -> None:
    """The state directory is its owner's alone, so a sandbox with a user needs its workspace elsewhere."""
    with tempfile.TemporaryDirectory() as made:
        elsewhere = Path(made)
        open_to_all(elsewhere)
        async with ProcessProvider(loose.state_dir, loose.owner, home=Home(), workspaces=elsewhere) as provider:
            plan = changed(loose.plan("sh", "-c", "pwd; touch mine && echo wrote"), user="1234:2345")
            workspace = provider.workspace(C1, plan.spec)
            view = await provider.launch(plan)
            await loose.until_ended(view.name)
            assert await loose.lines(view.name, 2) == [workspace, "wrote"]
            await provider.remove(view.name)
            await provider.remove_workspace(C1)
            assert C1 not in names_below(elsewhere)


async def test_no_secret_is_written_where_others_could_read_it(loose: Rig) -> None:
    """Nor anywhere on the disk, and nothing that is written is anybody else's to read."""
    secret = uuid.uuid4().hex
    plan = loose.plan("sleep", "1000")
    await loose.provider.launch(attrs.evolve(plan, env={"TOKEN": secret}))
    files = [path for path in loose.state_dir.rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert secret.encode() not in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert {stat.S_IMODE(path.stat().st_mode) for path in (loose.state_dir / "sandboxes").glob("**/")} == {0o700}


async def test_the_log_is_bounded_and_followed_over_its_turns(loose: Rig) -> None:
    """However much is written, two files of a size are kept, the newest lines in them."""
    view = await loose.launch("yes 0123456789012345678901234567890123456789 | head -c 4000000; echo; echo the end")
    async with loose.provider.follow_logs(view.name, 1) as lines:  # it may have ended already
        last = [line async for line in lines][-1]
    sizes = [path.stat().st_size for path in loose.directory(view.name).glob("output*")]
    assert len(sizes) == 2
    assert all(size <= MOST for size in sizes)
    assert (await loose.provider.logs(view.name, 1))[-1] == last == "the end"


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (("python3", "-m", "openhands.agent_server"), "openhands.agent_server"),
        (("/usr/bin/python3.11", "serve.py"), "python3.11"),
        (("/opt/agent", "-m", "x"), "agent"),
    ],
)
def test_programs_have_names_that_people_know(argv: tuple[str, ...], program: str) -> None:
    """What is shown where containers show their image."""
    assert program_of(argv) == program


async def test_a_keeper_that_cannot_start_is_the_hosts_fault() -> None:
    """It says nothing of the sandbox, so that it is tried again; nothing is left."""
    async with open_rig(python=("false",)) as rig:
        with pytest.raises(EngineUnavailable):
            await rig.launch("exec sleep 1000")
        assert [owned.state for owned in await rig.provider.list_owned()] == [SandboxState.CREATED]


DYING: Final = """
import os, signal, sys, threading
from pathlib import Path
import trio
from supervisor.sandbox.process.provider import ProcessProvider
from supervisor.sandbox.process.homes import Home
from tests.sandbox.process.test_launch import sleeping
calls = 0
def count(frame, event, _):
    global calls
    if event in ("call", "c_call") and "sandbox/process" in frame.f_code.co_filename:
        calls += 1
        if calls == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
provider = ProcessProvider(Path(sys.argv[1]), sys.argv[2], home=Home())
threading.setprofile(count)
trio.run(provider.launch, sleeping())
print(calls)
"""


def sleeping() -> SandboxPlan:
    """A sandbox that sleeps."""
    spec = SandboxSpec(
        provider="process", image="", pull=PullPolicy.NEVER, command=("sleep", "1000"), env={}, port=1, user=None,
        workspace="/", memory=2**26, cpus=1.0, pids_limit=9, network="bridge", init=False,
    )  # fmt: skip
    return SandboxPlan(ConversationId("c1"), 1, spec, {})


@pytest.mark.parametrize("step", [*range(1, 60, 6), *range(60, 240, 12)])
async def test_a_daemon_killed_at_any_step_of_a_launch_leaves_one_sandbox_at_most(loose: Rig, step: int) -> None:
    """The next launch of the name finishes what was begun: one server runs, one directory is there."""
    command = [sys.executable, "-c", DYING, str(loose.state_dir), loose.owner, str(step)]
    done = await trio.run_process(command, check=False, capture_stdout=True, cwd=Path(__file__).parents[3])
    assert done.returncode in (0, -signal.SIGKILL)
    view = await loose.provider.launch(sleeping())
    assert view.state is SandboxState.RUNNING
    served = [words for words in left_on_host(loose.owner) if "sleep" in words]
    assert served == [f"process {loose.running(view.name).main.pid}: sleep 1000 "]
    await loose.provider.remove(view.name)
    assert list((loose.state_dir / "sandboxes").iterdir()) == []


DYING_KEEPER: Final = """
import os, signal, sys
sys.path.insert(0, {root!r})
from supervisor.sandbox.process.keeper import main
calls = 0
def count(frame, event, _):
    global calls
    if event == "call" and "sandbox/process" in frame.f_code.co_filename:
        calls += 1
        if calls == {step}:
            os.kill(os.getpid(), signal.SIGKILL)
sys.setprofile(count)
main(sys.argv[2])
"""


@pytest.mark.parametrize("step", range(2, 40, 2))
async def test_a_keeper_killed_at_any_step_leaves_no_server_that_nobody_knows(step: int) -> None:
    """The launch fails or succeeds; the next one, with a keeper that lives, makes the only server there is.

    Unless it comes while the kernel is still ending the first one, and adopts that: it is found dead a moment later.
    """
    program = DYING_KEEPER.format(root=str(Path(__file__).parents[3]), step=step)
    async with open_rig(python=(sys.executable, "-I", "-S", "-c", program)) as dying:
        with suppress(EngineUnavailable):
            await dying.provider.launch(sleeping())
        async with dying.living() as provider:
            view = await provider.launch(sleeping())
            assert view.state is SandboxState.RUNNING
            with trio.fail_after(PATIENCE):
                await trio.lowlevel.checkpoint()
                while not (served := [words for words in left_on_host(dying.owner) if "sleep" in words]):
                    view = await provider.launch(sleeping())
            assert served == [f"process {dying.running(view.name).main.pid}: sleep 1000 "]


async def test_what_is_no_workspace_is_not_listed() -> None:
    """Nothing is there before the first one, and what somebody else put there has no conversation."""
    async with open_rig() as rig:
        assert list(await rig.provider.list_workspaces()) == []
        await rig.provider.launch(sleeping())
        await trio.Path(rig.state_dir, "workspaces", "lost+found").mkdir()
        assert list(await rig.provider.list_workspaces()) == [C1]
