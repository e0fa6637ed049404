"""The sandbox port: what an actor may ask of whatever runs sandboxes.

A provider is one class that satisfies `SandboxProvider`, and one line in a table of `supervisor.daemon`. The
contract:

* Every call is safe to repeat. `launch` of a name that we own answers with what is there; `stop`, `kill`, `remove` and
  `remove_workspace` of something that is gone are fine.
* A mutation is never abandoned half way: when its caller is cancelled it still waits until the engine has answered,
  and the engine's answer is bounded by the caller's deadline plus a little.
* An engine that does not answer raises `EngineUnavailable`. Only `inspect` answering None says that a sandbox is gone.
* Nothing blocks the Trio loop, `kill` never waits behind another kind of call, and `remove` never behind a `stop`.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

import attrs

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import LocalImage, SandboxSpec


class SandboxState(StrEnum):
    """What the engine says that a sandbox does."""

    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    EXITED = "exited"


_USUAL_PORTS: Final = {False: 80, True: 443}


@attrs.frozen
class Endpoint:
    """A TCP endpoint that the daemon can connect to, and how HTTP is spoken there.

    With `tls` it has a certificate for `host`. `path` is what a proxy wants before the path of every request, like
    "/runtimes/7"; "" for none.
    """

    host: str
    port: int
    tls: bool = False
    path: str = ""

    @property
    def authority(self) -> str:
        """Host and port as URLs and the header `Host` write them, without the port that is the scheme's usual one."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _USUAL_PORTS[self.tls] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The endpoint as clients write it, without a slash at its end."""
        return f"{'https' if self.tls else 'http'}://{self.authority}{self.path}"


@attrs.frozen
class SandboxView:
    """A sandbox as the engine shows it.

    `image` is "" where the engine does not tell it. `published` is where callers on this host reach the sandbox's port,
    None where it has none or is not running. `direct` is the same port without the engine's proxy in between, where
    there is such a way: unlike the proxy, it refuses a connection as long as nothing listens, and, unless the provider
    cautions, no user of this host can take it. `message` is the engine's own error, empty if it has none. `session_key`
    is what opens its agent server, where the engine gives it a key of its own; None where it has the plan's.
    `is_pending` says of one that runs that its engine is still bringing it up, or brings it up again: where it is
    reached, and by what key, is going to be told.
    """

    id: str
    name: str
    image: str
    state: SandboxState
    published: Endpoint | None = None
    direct: Endpoint | None = None
    exit_code: int | None = None
    oom_killed: bool = False
    message: str = ""
    session_key: str | None = attrs.field(default=None, repr=False)
    is_pending: bool = False

    @property
    def url(self) -> str | None:
        """The published endpoint as callers write it."""
        return self.published.url if self.published else None


@attrs.frozen
class OwnedSandbox:
    """One row of the list of all sandboxes that carry our labels."""

    name: str
    conversation: ConversationId
    incarnation: int
    state: SandboxState


@attrs.frozen
class SandboxPlan:
    """What `launch` makes. `env` is complete: the spec's, and the agent's with its session key."""

    conversation: ConversationId
    incarnation: int
    spec: SandboxSpec
    env: Mapping[str, str] = attrs.field(repr=False)


@attrs.frozen
class PullProgress:
    """Bytes of an image that have come, of those that are known to be needed so far."""

    current: int
    total: int


@attrs.frozen
class EngineInfo:
    """What the engine says of itself. `data_root` is where it keeps images and volumes, if that is on this host."""

    version: str
    api_version: str
    data_root: str | None = None


class EngineObserver(Protocol):
    """Who hears what happens on the engine. All calls are made in the Trio thread and must not block.

    What is heard is a hint to look again, never the truth itself: engines lose, repeat and delay their events.
    """

    def engine_connected(self) -> None:
        """The events stream stands (again): everything may have changed meanwhile."""

    def engine_lost(self, reason: str) -> None:
        """The engine does not answer: nothing is known from now on."""

    def sandbox_changed(self, conversation: ConversationId) -> None:
        """Something happened to a sandbox of this conversation."""


class SandboxProvider(Protocol):
    """The engine that runs sandboxes, as the actors see it; see the module for what all calls promise."""

    @property
    def name(self) -> str:
        """The name by which a spec chooses this provider."""

    @property
    def caution(self) -> str:
        """What its users have to know: told at the daemon's start, and in its status. Empty if there is nothing."""

    @property
    def heals_itself(self) -> bool:
        """Whether the engine probes its sandboxes and restarts by itself those that fail: then we do not.

        A probe of ours may fail for what is between, and what we could do about it may cost the workspace.
        """

    def workspace(self, conversation: ConversationId, spec: SandboxSpec) -> str:
        """The absolute path by which what runs in the sandbox finds its workspace."""

    def sandbox_name(self, conversation: ConversationId, incarnation: int) -> str:
        """The name of this incarnation's sandbox: always the same for the same daemon."""

    def know(self, name: str, engine_id: str) -> None:
        """Take a record's word for what the engine calls a sandbox of ours: its name may change behind our back."""

    async def engine(self) -> EngineInfo:
        """Ask the engine who it is.

        Raises:
            EngineUnavailable: it does not answer.
        """

    async def find_image(self, image: str) -> LocalImage | None:
        """Look for an image on the engine's host; None says that it is not there.

        Raises:
            EngineUnavailable: the engine does not answer.
        """

    async def ensure_image(
        self, spec: SandboxSpec, progress: Callable[[PullProgress], Awaitable[None]], stall: float
    ) -> None:
        """Make the image present as the spec's pull policy says, telling progress a few times a second at most.

        Raises:
            ImageUnavailable: it is not there and cannot or may not be fetched, or no byte came for `stall` seconds.
            EngineUnavailable: the engine does not answer.
        """

    async def launch(self, plan: SandboxPlan) -> SandboxView:
        """Create the sandbox and start it; or answer with the one of this name that we already own, started.

        One of the name that does not run may be replaced by another one. What is answered with need not be ready, and
        may be pending still. A user that the spec gives by numbers owns the workspace, whoever owns its path in the
        image.

        Raises:
            SandboxFailed: the engine refuses it (bad command, bad limit): asking again will not help.
            ImageUnavailable: the image went away meanwhile.
            Conflict: the name is taken by something that is not ours.
            EngineUnavailable: the engine does not answer; the sandbox may or may not exist.
        """

    async def inspect(self, name: str) -> SandboxView | None:
        """Look at a sandbox; None says for certain that there is none. One engine call, and one more to be certain."""

    async def pause(self, name: str) -> None:
        """Freeze every process of the sandbox. Frozen already is fine.

        Raises:
            SandboxFailed: it does not run.
        """

    async def unpause(self, name: str) -> None:
        """Thaw it. Thawed already is fine.

        Raises:
            SandboxFailed: it does not run.
        """

    async def stop(self, name: str, grace: float) -> None:
        """End it: its stop signal, then SIGKILL after `grace` seconds. A frozen one is ended, too.

        An engine that knows no other end removes it, with its workspace: `inspect` says None of it then.
        """

    async def kill(self, name: str) -> None:
        """End it at once by SIGKILL, in the lane of its own. What that leaves is as for `stop`."""

    async def remove(self, name: str) -> None:
        """Remove it, by force if it still runs; the workspace stays."""

    async def remove_workspace(self, conversation: ConversationId) -> None:
        """Remove the conversation's workspace for ever."""

    async def export_workspace(self, name: str, workspace: str, target: Path) -> None:
        """Write the workspace directory of a sandbox, running or not, into a new tar file `target` (mode 0600).

        Raises:
            SandboxFailed: the sandbox is gone, or its engine cannot do that.
        """

    async def logs(self, name: str, tail: int) -> Sequence[str]:
        """The last `tail` lines of its output, oldest first; none if it is gone, or its engine tells none.

        Raises:
            EngineUnavailable: the engine does not answer, or not to the end.
        """

    def follow_logs(self, name: str, tail: int) -> AbstractAsyncContextManager[AsyncIterator[str]]:
        """Open its output: the last `tail` lines, then each new one until it ends."""

    async def list_owned(self) -> Sequence[OwnedSandbox]:
        """Every sandbox of this daemon, in any state, in one engine call."""

    async def list_workspaces(self) -> Sequence[ConversationId]:
        """Whose workspaces there are, of those that are not part of a sandbox, in one engine call."""

    async def watch(self, observer: EngineObserver) -> None:
        """Tell the observer what happens, reconnecting for ever; ends only by cancellation."""
