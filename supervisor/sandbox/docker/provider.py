"""The sandbox port on Docker: each call in its lane, under a limit that follows from the caller's deadline."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import trio

from supervisor.conversation.errors import SandboxFailed
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import LocalImage, SandboxSpec
from supervisor.sandbox.docker.client import EngineClient
from supervisor.sandbox.docker.containers import Containers
from supervisor.sandbox.docker.endings import Endings
from supervisor.sandbox.docker.events import EngineWatch
from supervisor.sandbox.docker.exports import export_directory
from supervisor.sandbox.docker.hardening import ENGINE_SOCKETS
from supervisor.sandbox.docker.images import ensure_image, find_image
from supervisor.sandbox.docker.lanes import Lane, Lanes
from supervisor.sandbox.docker.limits import mutation_limit
from supervisor.sandbox.docker.logs import follow_logs, read_logs
from supervisor.sandbox.docker.names import Names
from supervisor.sandbox.port import EngineInfo, EngineObserver, OwnedSandbox, PullProgress, SandboxPlan, SandboxView

_WATCH_LANE: Final = 2
_LOGS_LANE: Final = 8
_UNIX: Final = "unix://"


class DockerProvider:
    """Sandboxes on the Docker Engine at `base_url` (None: docker-py's default socket).

    `owner` is the hex id of the daemon's state directory: containers and volumes that do not carry it are never
    touched. Making a provider asks the engine nothing. Close it at the end, or use it as an async context manager.
    """

    def __init__(
        self, base_url: str | None, owner: str, lanes: Lanes, make_lane: Callable[[str | None, int], Lane] = Lane
    ) -> None:
        names = Names(owner)
        self._containers = Containers(names, _sockets(base_url))
        self._endings = Endings(names)
        self._control = make_lane(base_url, lanes.control)
        self._launch = make_lane(base_url, lanes.launch)
        self._stop = make_lane(base_url, lanes.stop)
        # Apart from stops, which keep their places for as long as programs take to end: a forced stop may need one.
        self._remove = make_lane(base_url, lanes.stop)
        self._stream = make_lane(base_url, lanes.stream)
        self._kill = make_lane(base_url, lanes.kill)
        self._transfer = make_lane(base_url, lanes.transfer)
        # Of its own, so that an engine that stops in the middle of a log keeps nothing else from being done.
        self._logs = make_lane(base_url, _LOGS_LANE)
        # Of its own, so that nothing keeps us from hearing and asking whether the engine lives.
        self._watch = make_lane(base_url, _WATCH_LANE)
        self._lanes = (
            self._control,
            self._launch,
            self._stop,
            self._remove,
            self._stream,
            self._kill,
            self._transfer,
            self._logs,
            self._watch,
        )

    async def __aenter__(self) -> Self:
        await trio.lowlevel.checkpoint()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections to the engine. Nobody may use the provider any more."""
        for lane in self._lanes:
            lane.close()
        await trio.lowlevel.cancel_shielded_checkpoint()

    @property
    def name(self) -> str:
        """The name by which a spec chooses this provider."""
        return "docker"

    @property
    def caution(self) -> str:
        """None: these sandboxes have walls."""
        return ""

    @property
    def heals_itself(self) -> bool:
        """No: there is one restarter, us."""
        return False

    def workspace(self, conversation: ConversationId, spec: SandboxSpec) -> str:  # noqa: ARG002 - each has its own
        """Where the conversation's volume is mounted."""
        return spec.workspace

    def sandbox_name(self, conversation: ConversationId, incarnation: int) -> str:
        """The container's name."""
        return self._containers.names.container(conversation, incarnation)

    def know(self, name: str, engine_id: str) -> None:
        """Remember a container's id; see the port."""
        self._containers.know(name, engine_id)

    async def engine(self) -> EngineInfo:
        """Ask the engine who it is; see the port."""
        return await self._control.look(_engine_info)

    async def find_image(self, image: str) -> LocalImage | None:
        """Look for an image; see the port."""
        return await find_image(self._control, image)

    async def ensure_image(
        self, spec: SandboxSpec, progress: Callable[[PullProgress], Awaitable[None]], stall: float
    ) -> None:
        """Make the image present; see the port."""
        await ensure_image(self._control, self._transfer, spec, progress, stall)

    async def launch(self, plan: SandboxPlan) -> SandboxView:
        """Create and start, or adopt; see the port. Also raises `Forbidden`, for what no sandbox may have."""
        self._endings.forget(self.sandbox_name(plan.conversation, plan.incarnation))
        return await self._launch.call(mutation_limit(), partial(self._containers.launch, plan=plan))

    async def inspect(self, name: str) -> SandboxView | None:
        """Look at a sandbox; see the port."""
        ended = self._endings.recall(name, trio.current_time())
        if ended is not None:
            await trio.lowlevel.checkpoint()
            return ended
        return await self._control.look(partial(self._containers.inspect, name=name))

    async def pause(self, name: str) -> None:
        """Freeze it; see the port."""
        await self._control.call(mutation_limit(), partial(self._containers.pause, name=name))

    async def unpause(self, name: str) -> None:
        """Thaw it; see the port."""
        await self._control.call(mutation_limit(), partial(self._containers.unpause, name=name))

    async def stop(self, name: str, grace: float) -> None:
        """End it gracefully; see the port."""
        await self._stop.call(mutation_limit(grace), partial(self._containers.stop, name=name, grace=grace))

    async def kill(self, name: str) -> None:
        """End it at once; see the port."""
        await self._kill.call(mutation_limit(), partial(self._containers.kill, name=name))

    async def remove(self, name: str) -> None:
        """Remove it; see the port."""
        self._endings.forget(name)
        await self._remove.call(mutation_limit(), partial(self._containers.remove, name=name))

    async def remove_workspace(self, conversation: ConversationId) -> None:
        """Remove the conversation's workspace; see the port.

        Raises:
            Conflict: a container still uses it.
        """
        await self._remove.call(mutation_limit(), partial(self._containers.remove_workspace, conversation=conversation))

    async def export_workspace(self, name: str, workspace: str, target: Path) -> None:
        """Write the workspace into a new tar file; see the port.

        Raises:
            SandboxFailed: the sandbox is gone, or `target` exists or cannot be written.
        """
        container = await self._find(name)
        if container is None:
            raise SandboxFailed(f"{name} is gone: its workspace cannot be exported without it")
        await export_directory(self._transfer, container, workspace, target)

    async def logs(self, name: str, tail: int) -> Sequence[str]:
        """The last lines of its output; see the port."""
        return await read_logs(self._logs, self._containers, name, tail)

    @asynccontextmanager
    async def follow_logs(self, name: str, tail: int) -> AsyncGenerator[AsyncIterator[str]]:
        """Open its output; see the port. At most `Lanes.stream` of them at once, then it raises `Busy`."""
        container = await self._find(name)
        if container is None:
            raise SandboxFailed(f"{name} is gone, and its output with it")
        async with follow_logs(self._stream, container, tail) as lines:
            yield lines

    async def list_owned(self) -> Sequence[OwnedSandbox]:
        """Every sandbox of this daemon; see the port."""
        return await self._control.look(self._containers.list_owned)

    async def list_workspaces(self) -> Sequence[ConversationId]:
        """Whose volumes there are; see the port."""
        return await self._control.look(self._containers.list_workspaces)

    async def watch(self, observer: EngineObserver) -> None:
        """Tell the observer what happens, for ever; see the port."""
        await EngineWatch(self._watch, self._containers, self._endings, observer).run()

    async def _find(self, name: str) -> str | None:
        return await self._control.look(partial(self._containers.find, name=name))


def _engine_info(client: EngineClient) -> EngineInfo:
    version = client.version()
    data_root = client.info().get("DockerRootDir") if client.is_local else None
    return EngineInfo(version=version["Version"], api_version=version["ApiVersion"], data_root=data_root)


def _sockets(base_url: str | None) -> tuple[str, ...]:
    """The engine sockets that no sandbox may see, the one that we use ourselves among them."""
    if base_url is None or not base_url.startswith(_UNIX):
        return ENGINE_SOCKETS
    return (*ENGINE_SOCKETS, "/" + base_url.removeprefix(_UNIX).lstrip("/"))
