"""What the engine tests share: plans for tiny sandboxes, waiting for what they do, and an observer that remembers."""

import io
import tarfile
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypedDict, Unpack

import attrs
import docker
import trio

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import Mount, PullPolicy, SandboxSpec
from supervisor.sandbox.docker import DockerProvider
from supervisor.sandbox.port import Endpoint, SandboxPlan, SandboxState, SandboxView

C1: Final = ConversationId("c1")
PATIENCE: Final = 30.0
SLEEP: Final = ("sleep", "1000")
SERVE: Final = ("httpd", "-f", "-p", "8000", "-h", "/etc")


def tiny_spec(image: str) -> SandboxSpec:
    """A small sandbox that sleeps."""
    return SandboxSpec(
        provider="docker",
        image=image,
        pull=PullPolicy.NEVER,
        command=SLEEP,
        env={},
        port=None,
        user=None,
        workspace="/workspace",
        memory=64 * 1024**2,
        cpus=1.0,
        pids_limit=32,
        network="none",
        init=True,
    )


class SpecChanges(TypedDict, total=False):
    """What a test changes of the tiny spec."""

    image: str
    port: int
    network: str
    user: str | None
    workspace: str
    memory: int
    cpus: float
    pids_limit: int
    init: bool
    mounts: tuple[Mount, ...]
    entrypoint: tuple[str, ...]
    working_dir: str
    runtime: str


@attrs.frozen
class Workbench:
    """Makes and launches tiny sandboxes of conversation c1."""

    provider: DockerProvider
    image: str
    raw: docker.APIClient

    def plan(self, *command: str, incarnation: int = 1, **changes: Unpack[SpecChanges]) -> SandboxPlan:
        """A plan for a command, with other changes to the spec."""
        spec = attrs.evolve(tiny_spec(self.image), command=command or SLEEP, **changes)
        return SandboxPlan(C1, incarnation, spec, dict(spec.env))

    async def launch(self, *command: str, incarnation: int = 1, **changes: Unpack[SpecChanges]) -> SandboxView:
        """Launch such a plan."""
        return await self.provider.launch(self.plan(*command, incarnation=incarnation, **changes))

    async def run(self, script: str, incarnation: int = 1, **changes: Unpack[SpecChanges]) -> list[str]:
        """Run a shell script in a sandbox to its end; answers with its output."""
        view = await self.launch("sh", "-c", script, incarnation=incarnation, **changes)
        await self.wait_ended(view.name)
        return list(await self.provider.logs(view.name, 1000))

    async def wait_ended(self, name: str) -> SandboxView:
        """Wait until a sandbox has exited; the engine's own view of it, not an event's."""
        await trio.to_thread.run_sync(self.raw.wait, name)
        view = await self.provider.inspect(name)
        assert view is not None
        assert view.state is SandboxState.EXITED
        return view

    async def touch(self, name: str, path: str) -> None:
        """Make a file inside a sandbox that runs, without running anything inside: in a chroot engines cannot exec."""
        directory, _, file = path.rpartition("/")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as tar:
            tar.addfile(tarfile.TarInfo(file))
        await trio.to_thread.run_sync(self.raw.put_archive, name, directory, buffer.getvalue())

    async def wait_output(self, name: str, line: str) -> None:
        """Wait until a sandbox has printed a line."""
        with trio.fail_after(PATIENCE):
            async with self.provider.follow_logs(name, 100) as lines:
                async for seen in lines:
                    if seen == line:
                        return
        raise AssertionError(f"{name} ended without printing {line!r}")


async def until(satisfied: Callable[[], bool]) -> None:
    """Wait for what sets no event, such as a file."""
    await trio.lowlevel.checkpoint()
    deadline = trio.current_time() + PATIENCE
    while not satisfied():
        assert trio.current_time() < deadline
        await trio.lowlevel.checkpoint()


async def get_when_ready(endpoint: Endpoint) -> bytes:
    """The first line of an HTTP answer, as soon as there is one."""
    await trio.lowlevel.checkpoint()
    deadline, answer = trio.current_time() + PATIENCE, b""
    while not answer:
        assert trio.current_time() < deadline
        with suppress(OSError, trio.BrokenResourceError):  # the engine's proxy accepts before anything listens
            answer = await _get(endpoint)
    return answer.partition(b"\r\n")[0]


async def _get(endpoint: Endpoint) -> bytes:
    async with await trio.open_tcp_stream(endpoint.host, endpoint.port) as stream:
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        return bytes(await stream.receive_some())


@attrs.define
class RecordingObserver:
    """Remembers what it is told; tests wait for it."""

    seen: list[str] = attrs.field(factory=list)
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def engine_connected(self) -> None:
        """The engine answers."""
        self._note("connected")

    def engine_lost(self, reason: str) -> None:
        """The engine does not."""
        self._note(f"lost: {reason}")

    def sandbox_changed(self, conversation: ConversationId) -> None:
        """A sandbox changed."""
        self._note(f"changed {conversation}")

    async def wait_until(self, satisfied: Callable[[list[str]], bool]) -> None:
        """Wait until what was seen satisfies a condition."""
        with trio.fail_after(PATIENCE):
            await trio.lowlevel.checkpoint()
            while not satisfied(self.seen):
                await self._changed.wait()

    def _note(self, what: str) -> None:
        self.seen.append(what)
        self._changed.set()
        self._changed = trio.Event()
