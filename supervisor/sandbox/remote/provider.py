"""The provider itself: the calls of the port, each a request or two of the runtime API."""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import trio

from supervisor.conversation.errors import Conflict, EngineUnavailable, ImageUnavailable, SandboxFailed
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import LocalImage, PullPolicy, SandboxSpec
from supervisor.sandbox.names import read_name, sandbox_name
from supervisor.sandbox.port import (
    EngineInfo,
    EngineObserver,
    OwnedSandbox,
    PullProgress,
    SandboxPlan,
    SandboxState,
    SandboxView,
)
from supervisor.sandbox.remote.answers import Garbled, Runtime, parse_image, parse_runtime, parse_runtimes
from supervisor.sandbox.remote.host import Host, Refused
from supervisor.sandbox.remote.polling import LIST, Bell, Poller
from supervisor.sandbox.remote.starts import start_body
from supervisor.sandbox.remote.views import is_in_doubt, last_lines, read_view, state_of

_T = TypeVar("_T")

_MISSING: Final = 404
_CONFLICT: Final = 409
_INVALID: Final = frozenset({400, 422})
_ASKED_AGAIN_AFTER: Final = (0.2, 0.5, 1.0)
_FOLLOWED_EVERY: Final = 2.0


class RemoteProvider:
    """Sandboxes at a host that serves the runtime API, each a runtime of its own there.

    `owner` is the hex id of the daemon's state directory. A runtime's session is the sandbox's name, so that asking
    twice is harmless and everything is found again by its name; nothing is kept here but which names were last seen
    alive. `memory` is what the host gives a runtime of the factor 1, in bytes.

    The API has no end that keeps the files: what is stopped, killed or removed is gone with its workspace, and
    `inspect` says None of it. It tells no exit codes, no output but the last lines of a runtime that has failed, and
    nothing that could be exported. The host restarts its runtimes itself; one that it restarts is alive, and pending.
    """

    def __init__(self, host: Host, owner: str, memory: int) -> None:
        self._host = host
        self._owner = owner
        self._memory = memory
        self._bell = Bell()
        self._alive: set[str] = set()

    @property
    def name(self) -> str:
        """The name by which a spec chooses this provider."""
        return "remote"

    @property
    def caution(self) -> str:
        """That an end is for ever."""
        return "stopping or restarting a sandbox at a remote host removes its files: pause what is to be kept"

    @property
    def heals_itself(self) -> bool:
        """Yes: it is a daemon of sandboxes like this one."""
        return True

    def workspace(self, conversation: ConversationId, spec: SandboxSpec) -> str:  # noqa: ARG002 - each has its own
        """What the spec says, which has to be what the host has: the API cannot ask for another."""
        return spec.workspace

    def sandbox_name(self, conversation: ConversationId, incarnation: int) -> str:
        """The runtime's session."""
        return sandbox_name(self._owner, conversation, incarnation)

    def know(self, name: str, engine_id: str) -> None:  # noqa: ARG002 - a session's name does not change
        """Remember that there was one: a host that does not know it is asked again before it is believed."""
        self._alive.add(name)

    async def engine(self) -> EngineInfo:
        """Ask for the list, which proves the host and the key; see the port."""
        await self._list()
        return EngineInfo(version=f"runtime API at {self._host.address}", api_version="")

    async def find_image(self, image: str) -> LocalImage | None:
        """Look for an image at the host; see the port."""
        await trio.lowlevel.checkpoint()
        try:
            return _read(parse_image, await self._host.look(f"/image_exists?image={quote(image, safe='')}"))
        except Refused as refused:
            if refused.status in _INVALID:
                return None
            raise EngineUnavailable(refused.words) from None

    async def ensure_image(
        self,
        spec: SandboxSpec,
        progress: Callable[[PullProgress], Awaitable[None]],  # noqa: ARG002 - the host tells none
        stall: float,  # noqa: ARG002 - the same
    ) -> None:
        """See that an image is there which may not be pulled; any other is the host's to pull as it starts."""
        await trio.lowlevel.checkpoint()
        if spec.pull is PullPolicy.NEVER and await self.find_image(spec.image) is None:
            raise ImageUnavailable(f"the remote host at {self._host.address} has no image {spec.image}")

    async def launch(self, plan: SandboxPlan) -> SandboxView:
        """Start a session, or find it started; see the port. It may be pending for as long as the host boots it."""
        name = self.sandbox_name(plan.conversation, plan.incarnation)
        body = start_body(plan, name, self._memory)
        with self._moving():
            try:
                runtime = _read(parse_runtime, await self._host.change("/start", body))
            except Refused as refused:
                return await self._failed_start(name, refused)
        self._note(runtime)
        return read_view(runtime)

    async def inspect(self, name: str) -> SandboxView | None:
        """Look at a session; see the port. More than one request only where the host has lost what it had.

        Raises:
            EngineUnavailable: the host does not answer, or does not know itself.
        """
        runtime = await self._find(name)
        if runtime is not None and is_in_doubt(runtime):
            raise EngineUnavailable(f"the remote host at {self._host.address} does not know what became of {name}")
        return None if runtime is None else read_view(runtime)

    async def pause(self, name: str) -> None:
        """Freeze it; see the port."""
        await self._move("/pause", name, SandboxState.PAUSED)

    async def unpause(self, name: str) -> None:
        """Thaw it; see the port. One whose memory the host has lost is pending until it has booted again."""
        await self._move("/resume", name, SandboxState.RUNNING)

    async def stop(self, name: str, grace: float) -> None:
        """End it, and its files with it: the grace period is the host's; see the port."""
        await self._end(name, grace)

    async def kill(self, name: str) -> None:
        """The same as `stop`, which is all that the API has."""
        await self._end(name)

    async def remove(self, name: str) -> None:
        """The same as `stop`: nothing is left by either."""
        await self._end(name)

    async def remove_workspace(self, conversation: ConversationId) -> None:
        """See that none of the conversation's sessions is left: each had its own workspace."""
        for owned in await self.list_owned():
            if owned.conversation == conversation:
                await self._end(owned.name)

    async def export_workspace(self, name: str, workspace: str, target: Path) -> None:  # noqa: ARG002 - see below
        """Refuse: the API cannot.

        Raises:
            SandboxFailed: always.
        """
        await trio.lowlevel.checkpoint()
        raise SandboxFailed(f"{name} is at a remote host, which cannot export workspaces")

    async def logs(self, name: str, tail: int) -> Sequence[str]:
        """The last lines of one that has failed; of no other does the host tell any."""
        runtime = await self._find(name)
        return [] if runtime is None else last_lines(runtime, tail)

    @asynccontextmanager
    async def follow_logs(self, name: str, tail: int) -> AsyncGenerator[AsyncIterator[str]]:
        """Wait for its end, then tell what `logs` has, if anything.

        Raises:
            SandboxFailed: it is gone.
        """
        if await self._find(name) is None:
            raise SandboxFailed(f"{name} is gone, and its output with it")
        yield _Ending(self, name, tail)

    async def list_owned(self) -> Sequence[OwnedSandbox]:
        """Every session of this daemon; see the port."""
        owned = []
        for runtime in await self._list():
            ownership = read_name(self._owner, runtime.session_id)
            if ownership is not None:
                self._note(runtime)
                state = state_of(runtime)
                owned.append(OwnedSandbox(runtime.session_id, ownership.conversation, ownership.incarnation, state))
        return owned

    async def list_workspaces(self) -> Sequence[ConversationId]:
        """None: each is part of its session."""
        await trio.lowlevel.checkpoint()
        return ()

    async def watch(self, observer: EngineObserver) -> None:
        """Tell the observer what happens, for ever; see the port."""
        await Poller(self._host, self._owner, observer, self._bell).run()

    async def _list(self) -> Sequence[Runtime]:
        try:
            return _read(parse_runtimes, await self._host.look(LIST))
        except Refused as refused:
            raise EngineUnavailable(refused.words) from None

    async def _find(self, name: str) -> Runtime | None:
        """The runtime of a session. That one is gone which was there is believed when it was said a few times."""
        for pause in _ASKED_AGAIN_AFTER:
            runtime = await self._find_once(name)
            if runtime is not None or name not in self._alive:
                return runtime
            await trio.sleep(pause)
        runtime = await self._find_once(name)
        if runtime is None:
            self._alive.discard(name)
        return runtime

    async def _find_once(self, name: str) -> Runtime | None:
        await trio.lowlevel.checkpoint()
        try:
            runtime = _read(parse_runtime, await self._host.look(f"/sessions/{name}"))
        except Refused as refused:
            if refused.status == _MISSING:
                return None
            raise EngineUnavailable(refused.words) from None
        self._note(runtime)
        return runtime

    def _note(self, runtime: Runtime) -> None:
        if state_of(runtime) is not SandboxState.EXITED:
            self._alive.add(runtime.session_id)

    async def _failed_start(self, name: str, refused: Refused) -> SandboxView:
        """One that has booted and died at the host is an ended sandbox; whatever else it refuses will not heal."""
        runtime = await self._find(name)
        if runtime is not None and state_of(runtime) is SandboxState.EXITED and runtime.restart_reasons:
            return read_view(runtime)
        if refused.code == "image_unavailable":
            raise ImageUnavailable(refused.words)
        if refused.status == _CONFLICT:
            raise Conflict(refused.words)
        raise SandboxFailed(refused.words)

    async def _move(self, target: str, name: str, wanted: SandboxState) -> None:
        runtime = await self._living(name)
        if state_of(runtime) is wanted:
            return
        words = ""
        with self._moving():
            try:
                await self._host.change(target, {"runtime_id": runtime.runtime_id})
            except Refused as refused:
                words = refused.words
        # Another request of ours, which nobody waited for any more, may have done it.
        if words and state_of(await self._living(name)) is not wanted:
            raise SandboxFailed(words)

    async def _living(self, name: str) -> Runtime:
        runtime = await self._find(name)
        if runtime is None or state_of(runtime) is SandboxState.EXITED:
            raise SandboxFailed(f"sandbox {name} does not run")
        return runtime

    async def _end(self, name: str, extra: float = 0.0) -> None:
        runtime = await self._find(name)
        if runtime is None:
            return
        with self._moving():
            try:
                await self._host.change("/stop", {"runtime_id": runtime.runtime_id}, extra)
            except Refused as refused:
                if refused.status != _MISSING:
                    raise EngineUnavailable(refused.words) from None
        self._alive.discard(name)

    @contextmanager
    def _moving(self) -> Iterator[None]:
        """Something is changed at the host: whoever watches it looks now, and again when it is done or has failed."""
        self._bell.ring()
        try:
            yield
        finally:
            self._bell.ring()


class _Ending:
    """The output of a sandbox, as far as its host tells any: what is there once it has ended."""

    def __init__(self, provider: RemoteProvider, name: str, tail: int) -> None:
        self._provider = provider
        self._name = name
        self._tail = tail
        self._lines: Iterator[str] | None = None

    def __aiter__(self) -> "_Ending":
        return self

    async def __anext__(self) -> str:
        await trio.lowlevel.checkpoint()
        if self._lines is None:
            await self._ended()
            self._lines = iter(await self._provider.logs(self._name, self._tail))
        for line in self._lines:
            return line
        raise StopAsyncIteration

    async def _ended(self) -> None:
        while await self._lives():  # noqa: ASYNC110 - a host tells nothing by itself
            await trio.sleep(_FOLLOWED_EVERY)

    async def _lives(self) -> bool:
        await trio.lowlevel.checkpoint()
        try:
            view = await self._provider.inspect(self._name)
        except EngineUnavailable:
            return True  # unknown is not ended
        return view is not None and view.state is not SandboxState.EXITED


def _read(parse: Callable[[bytes], _T], body: bytes) -> _T:
    try:
        return parse(body)
    except Garbled as error:
        raise EngineUnavailable(f"the remote host's answer makes no sense: {error}") from error
