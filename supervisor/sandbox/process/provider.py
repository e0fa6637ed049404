"""The sandbox port on processes of this host: each call in its lane."""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from platform import release
from types import TracebackType
from typing import Final, Self

import trio

from supervisor.conversation.errors import Busy, SandboxFailed
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import LocalImage, SandboxSpec
from supervisor.sandbox.names import owner_name, sandbox_name
from supervisor.sandbox.port import EngineInfo, EngineObserver, OwnedSandbox, PullProgress, SandboxPlan, SandboxView
from supervisor.sandbox.process.commands import Commands
from supervisor.sandbox.process.following import follow_logs
from supervisor.sandbox.process.homes import Home, find_home
from supervisor.sandbox.process.lanes import Lane
from supervisor.sandbox.process.logs import read_logs
from supervisor.sandbox.process.sandboxes import PYTHON, Sandbox, Sandboxes
from supervisor.sandbox.process.watching import KeeperWatch
from supervisor.sandbox.process.workspaces import Workspaces

_NO_WALLS: Final = (
    "process sandboxes are no security boundary: what runs in one can do all that its user can, to the others, to this "
    "daemon and to their ports"
)
_FOLLOWED_MOST: Final = 32


class ProcessProvider:
    """Sandboxes as processes of this host, kept below `state_dir`.

    `owner` is the hex id of the daemon's state directory. `home` is where control groups are made, `Home()` for none;
    `python` runs the keepers; below `workspaces` conversations work, if not in `state_dir`, where no other user can go.
    Making a provider starts nothing. Close it at the end, or use it as an async context manager: what runs runs on.
    """

    def __init__(
        self,
        state_dir: Path,
        owner: str,
        commands: Commands | None = None,
        *,
        home: Home | None = None,
        python: Sequence[str] = PYTHON,
        workspaces: Path | None = None,
    ) -> None:
        self._owner = owner
        self._state_dir = state_dir
        self._home = find_home(owner_name(owner)) if home is None else home
        self._workspaces = Workspaces(workspaces / owner_name(owner) if workspaces else state_dir / "workspaces")
        self._sandboxes = Sandboxes(
            owner, state_dir / "sandboxes", self._workspaces, commands or Commands(), self._home, python
        )
        self._look, self._change, self._launch, self._kill, self._transfer, self._watch_lane = map(
            Lane, (8, 8, 8, 16, 4, 4)
        )
        self._followed = trio.CapacityLimiter(_FOLLOWED_MOST)
        self._watch = KeeperWatch(self._sandboxes, self._watch_lane)

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave no control group that is empty."""
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(self._home.close)

    @property
    def name(self) -> str:
        """The name by which a spec chooses this provider."""
        return "process"

    @property
    def caution(self) -> str:
        """That these sandboxes have no walls, and which limits are not kept on this host."""
        unlimited = ", ".join(self._home.unlimited)
        if not unlimited:
            return _NO_WALLS
        if not self._home.directories:
            return f"{_NO_WALLS}; {unlimited} limit nothing here: this user can make no control groups"
        return f"{_NO_WALLS}; {unlimited} limit nothing here: there is no such controller for our control groups"

    @property
    def heals_itself(self) -> bool:
        """No: there is one restarter, us."""
        return False

    def workspace(self, conversation: ConversationId, spec: SandboxSpec) -> str:  # noqa: ARG002 - not as in a container
        """The conversation's own directory on this host."""
        return str(self._workspaces.path(conversation))

    def sandbox_name(self, conversation: ConversationId, incarnation: int) -> str:
        """The name of the sandbox's directory."""
        return sandbox_name(self._owner, conversation, incarnation)

    def know(self, name: str, engine_id: str) -> None:
        """Nothing to know: nobody renames our directories; see the port."""

    async def engine(self) -> EngineInfo:
        """The host's kernel; see the port."""
        await trio.lowlevel.checkpoint()
        return EngineInfo(version=f"Linux {release()}", api_version=self.name, data_root=str(self._state_dir))

    async def find_image(self, image: str) -> LocalImage | None:  # noqa: ARG002 - the port's shape
        """There are no images; see the port."""
        await trio.lowlevel.checkpoint()
        return None

    async def ensure_image(
        self,
        spec: SandboxSpec,  # noqa: ARG002 - the port's shape, here and below
        progress: Callable[[PullProgress], Awaitable[None]],  # noqa: ARG002
        stall: float,  # noqa: ARG002
    ) -> None:
        """Nothing is needed but this host; see the port."""
        await trio.lowlevel.checkpoint()

    async def launch(self, plan: SandboxPlan) -> SandboxView:
        """Make and start, or adopt; see the port."""
        try:
            return await self._launch.call(self._sandboxes.launch, plan)
        finally:
            self._watch.add(self.sandbox_name(plan.conversation, plan.incarnation))

    async def inspect(self, name: str) -> SandboxView | None:
        """Look at a sandbox; see the port."""
        return await self._look.call(self._sandboxes.inspect, name)

    async def pause(self, name: str) -> None:
        """Freeze it; see the port."""
        await self._change.call(self._sandboxes.pause, name)

    async def unpause(self, name: str) -> None:
        """Thaw it; see the port."""
        await self._change.call(self._sandboxes.unpause, name)

    async def stop(self, name: str, grace: float) -> None:
        """End it gracefully; see the port. Whoever is cancelled in the grace period leaves it told to end."""
        keeper = await self._change.call(self._sandboxes.begin_stop, name)
        if keeper is not None:
            try:
                with trio.move_on_after(grace):
                    await trio.lowlevel.wait_readable(keeper)
            finally:
                trio.lowlevel.notify_closing(keeper)
                os.close(keeper)
        await self._kill.call(self._sandboxes.kill, name)

    async def kill(self, name: str) -> None:
        """End it at once; see the port."""
        await self._kill.call(self._sandboxes.kill, name)

    async def remove(self, name: str) -> None:
        """Remove it; see the port."""
        await self._change.call(self._sandboxes.remove, name)

    async def remove_workspace(self, conversation: ConversationId) -> None:
        """Remove the conversation's workspace; see the port.

        Raises:
            Conflict: a sandbox still uses it.
        """
        await self._transfer.call(self._sandboxes.remove_workspace, conversation)

    async def export_workspace(self, name: str, workspace: str, target: Path) -> None:  # noqa: ARG002 - it is known
        """Write the workspace into a new tar file; see the port.

        Raises:
            SandboxFailed: the sandbox is gone, or `target` exists or cannot be written.
        """
        sandbox = await self._find(name)
        await self._transfer.call(self._workspaces.export, sandbox.conversation, target)

    async def logs(self, name: str, tail: int) -> Sequence[str]:
        """The last lines of its output; see the port."""
        sandbox = await self._look.call(self._sandboxes.find, name)
        return () if sandbox is None else await self._look.call(read_logs, sandbox.path, tail)

    @asynccontextmanager
    async def follow_logs(self, name: str, tail: int) -> AsyncGenerator[AsyncIterator[str]]:
        """Open its output; see the port. At most 32 of them at once, then it raises `Busy`."""
        sandbox, holder = await self._find(name), object()
        try:
            self._followed.acquire_on_behalf_of_nowait(holder)
        except trio.WouldBlock:
            raise Busy(f"{_FOLLOWED_MOST} logs are followed already: try again when one has ended") from None
        try:
            async with follow_logs(self._look, sandbox, tail) as lines:
                yield lines
        finally:
            self._followed.release_on_behalf_of(holder)

    async def list_owned(self) -> Sequence[OwnedSandbox]:
        """Every sandbox of this daemon; see the port."""
        return await self._look.call(self._sandboxes.list_owned)

    async def list_workspaces(self) -> Sequence[ConversationId]:
        """Whose directories there are; see the port."""
        return await self._look.call(self._workspaces.list_owned)

    async def watch(self, observer: EngineObserver) -> None:
        """Tell the observer what ends, for ever; see the port."""
        await self._watch.run(observer)

    async def _find(self, name: str) -> Sandbox:
        sandbox = await self._look.call(self._sandboxes.find, name)
        if sandbox is None:
            raise SandboxFailed(f"{name} is gone, and its output and its hold on the workspace with it")
        return sandbox
