"""An engine in memory: a sandbox provider on simulated time, whose faults are switched on by tests."""

import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from supervisor.conversation.errors import Conflict, EngineUnavailable, ImageUnavailable, SandboxFailed
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import LocalImage, SandboxSpec
from supervisor.sandbox.port import (
    Endpoint,
    EngineInfo,
    EngineObserver,
    OwnedSandbox,
    PullProgress,
    SandboxPlan,
    SandboxState,
    SandboxView,
)


@attrs.define
class FakeSandbox:
    """One sandbox of the fake engine."""

    plan: SandboxPlan
    state: SandboxState
    port: int
    exit_code: int | None = None
    oom_killed: bool = False
    lines: list[str] = attrs.field(factory=list)
    pending: bool = False


_MOST = 60.0
_LEAST = 2.0


class FakeEngine:
    """Satisfies `SandboxProvider`. Every call takes `latency` seconds and waits for its gate, if one is closed.

    As with the real one only `ensure_image` can be cancelled. Every other call is waited for, and answers with
    `EngineUnavailable` a second after its caller's deadline, after 2 seconds at the earliest and 60 at the latest.
    """

    def __init__(self, name: str = "docker", owner: str = "fake", latency: float = 0.01) -> None:
        self.name = name
        self.owner = owner
        self.latency = latency
        self.sandboxes: dict[str, FakeSandbox] = {}
        self.workspaces: set[ConversationId] = set()
        self.images = {"image"}
        self.calls: Counter[str] = Counter()
        self.most_at_once: Counter[ConversationId] = Counter()
        self.exits_at_boot: list[tuple[int, bool]] = []
        self.pull_script: list[tuple[float, PullProgress]] = []
        self._next_port = 40000
        self._up = trio.Event()
        self._up.set()
        self._down = trio.Event()
        self._gates: dict[str, trio.Event] = {}
        self._full_lanes: set[str] = set()
        self._failures: dict[str, list[Exception]] = {}
        self._observers: list[EngineObserver] = []
        self.deaf = False
        self.immortal = False
        self.greeting: list[str] = []
        # What is launched, or thawed, is brought up later, and somewhere else: by `bring_up`.
        self.launches_pending = False
        self.thaws_pending = False
        self.foreign_names: set[str] = set()
        self.caution = ""
        self.heals_itself = False
        # Called with a call's name before the engine hears of it, and when it has done it.
        self.before: Callable[[str], None] = lambda call: None
        self.done: Callable[[str], None] = lambda call: None

    # What tests do to it.

    def close_gate(self, call: str) -> None:
        """Let calls of this name wait until the gate opens."""
        self._gates[call] = trio.Event()

    def fill_lane(self, call: str) -> None:
        """Let calls of this name wait for a free lane for ever: as long as they wait they can be cancelled."""
        self._full_lanes.add(call)

    def open_gate(self, call: str) -> None:
        """Let the calls that wait, and all later ones, through."""
        self._gates.pop(call).set()

    def fail_next(self, call: str, error: Exception, times: int = 1) -> None:
        """Let the next calls of this name raise an error."""
        self._failures.setdefault(call, []).extend([error] * times)

    def go_down(self) -> None:
        """Stop answering; sandboxes live on."""
        if self._up.is_set():
            self._up = trio.Event()
            self._down.set()

    def come_up(self) -> None:
        """Answer again."""
        if not self._up.is_set():
            self._down = trio.Event()
            self._up.set()

    def die(self, name: str, exit_code: int = 1, *, oom: bool = False) -> None:
        """End a sandbox from inside."""
        sandbox = self.sandboxes[name]
        sandbox.state, sandbox.exit_code, sandbox.oom_killed = SandboxState.EXITED, exit_code, oom
        self.tell(sandbox.plan.conversation)

    def vanish(self, name: str) -> None:
        """Remove a sandbox behind everyone's back."""
        self.tell(self.sandboxes.pop(name).plan.conversation)

    def bring_up(self, name: str) -> None:
        """Let a pending sandbox, or one that runs, be reached by a port that it did not have before."""
        self._next_port += 1
        sandbox = self.sandboxes[name]
        sandbox.pending, sandbox.port = False, self._next_port
        self.tell(sandbox.plan.conversation)

    def tell(self, conversation: ConversationId) -> None:
        """Send an event."""
        if not self.deaf:
            for observer in self._observers:
                observer.sandbox_changed(conversation)

    def states(self) -> dict[str, SandboxState]:
        """What every sandbox does, by name."""
        return {name: sandbox.state for name, sandbox in self.sandboxes.items()}

    def runs(self, conversation: ConversationId) -> bool:
        """Whether a sandbox of this conversation runs, not frozen."""
        return any(
            sandbox.plan.conversation == conversation and sandbox.state is SandboxState.RUNNING
            for sandbox in self.sandboxes.values()
        )

    # The port.

    def workspace(self, conversation: ConversationId, spec: SandboxSpec) -> str:
        """As the port says."""
        return spec.workspace

    def sandbox_name(self, conversation: ConversationId, incarnation: int) -> str:
        """As the port says."""
        return f"{self.owner[:8]}-{conversation}-{incarnation}"

    def know(self, name: str, engine_id: str) -> None:
        """As the port says; nobody renames its sandboxes."""

    async def engine(self) -> EngineInfo:
        """As the port says."""
        await self._answer("engine")
        return EngineInfo("fake-1", "1.0")

    async def find_image(self, image: str) -> LocalImage | None:
        """As the port says."""
        await self._answer("find_image")
        return LocalImage("2026-01-01T00:00:00Z", 1) if image in self.images else None

    async def ensure_image(
        self, spec: SandboxSpec, progress: Callable[[PullProgress], Awaitable[None]], stall: float
    ) -> None:
        """As the port says; `pull_script` gives the delays and the progress of a pull."""
        await self._answer("ensure_image")
        for delay, step in self.pull_script:
            await trio.sleep(min(delay, stall))
            if delay > stall:
                raise ImageUnavailable(f"the pull of {spec.image} stalled")
            await progress(step)
        if spec.image not in self.images and not self.pull_script:
            raise ImageUnavailable(f"there is no image {spec.image}")

    async def launch(self, plan: SandboxPlan) -> SandboxView:
        """As the port says; `exits_at_boot` ends the next sandboxes as soon as they run."""
        await self._answer("launch")
        name = self.sandbox_name(plan.conversation, plan.incarnation)
        known = self.sandboxes.get(name)
        if name in self.foreign_names:
            raise Conflict(f"a container {name} exists that is not ours")
        if known is None:
            self._next_port += 1
            self.sandboxes[name] = FakeSandbox(plan, SandboxState.RUNNING, self._next_port, lines=[*self.greeting])
            self.workspaces.add(plan.conversation)
            owned = sum(sandbox.plan.conversation == plan.conversation for sandbox in self.sandboxes.values())
            self.most_at_once[plan.conversation] = max(self.most_at_once[plan.conversation], owned)
            self.sandboxes[name].pending = self.launches_pending
            if self.exits_at_boot:
                code, oom = self.exits_at_boot.pop(0)
                self.die(name, code, oom=oom)
        else:
            known.state = SandboxState.RUNNING
        self.done("launch")
        return self._view(name)

    async def inspect(self, name: str) -> SandboxView | None:
        """As the port says."""
        await self._answer("inspect")
        self.done("inspect")
        return self._view(name) if name in self.sandboxes else None

    async def pause(self, name: str) -> None:
        """As the port says."""
        await self._answer("pause")
        self._alive(name).state = SandboxState.PAUSED
        self.done("pause")

    async def unpause(self, name: str) -> None:
        """As the port says."""
        await self._answer("unpause")
        sandbox = self._alive(name)
        sandbox.pending |= self.thaws_pending and sandbox.state is SandboxState.PAUSED
        sandbox.state = SandboxState.RUNNING
        self.done("unpause")

    async def stop(self, name: str, grace: float) -> None:
        """As the port says."""
        await self._answer("stop")
        self._end(name, 143)
        self.done("stop")

    async def kill(self, name: str) -> None:
        """As the port says."""
        await self._answer("kill")
        self._end(name, 137)
        self.done("kill")

    async def remove(self, name: str) -> None:
        """As the port says."""
        await self._answer("remove")
        gone = self.sandboxes.pop(name, None)
        if gone is not None:
            self.tell(gone.plan.conversation)
        self.done("remove")

    async def remove_workspace(self, conversation: ConversationId) -> None:
        """As the port says."""
        await self._answer("remove_workspace")
        self.workspaces.discard(conversation)
        self.done("remove_workspace")

    async def export_workspace(self, name: str, workspace: str, target: Path) -> None:
        """As the port says; the file names what was exported."""
        await self._answer("export_workspace")
        target.touch(0o600, exist_ok=False)  # noqa: ASYNC240 - the mock clock knows no threads
        target.write_text(f"{name}:{workspace}")  # noqa: ASYNC240 - the same
        self.done("export_workspace")

    async def logs(self, name: str, tail: int) -> Sequence[str]:
        """As the port says."""
        await self._answer("logs")
        return self.sandboxes[name].lines[-tail:] if name in self.sandboxes else []

    @asynccontextmanager
    async def follow_logs(self, name: str, tail: int) -> AsyncIterator[AsyncIterator[str]]:
        """As the port says; ends after what is there."""
        await self._answer("follow_logs")
        send, receive = trio.open_memory_channel[str](tail)
        for line in self.sandboxes[name].lines[-tail:]:
            send.send_nowait(line)
        send.close()
        yield receive

    async def list_owned(self) -> Sequence[OwnedSandbox]:
        """As the port says."""
        await self._answer("list_owned")
        return [
            OwnedSandbox(name, sandbox.plan.conversation, sandbox.plan.incarnation, sandbox.state)
            for name, sandbox in self.sandboxes.items()
        ]

    async def list_workspaces(self) -> Sequence[ConversationId]:
        """As the port says."""
        await self._answer("list_workspaces")
        return sorted(self.workspaces)

    async def watch(self, observer: EngineObserver) -> None:
        """As the port says, but for a bug that `fail_next` puts into it."""
        await self._answer("watch", up=False)
        while True:
            if not self._up.is_set():
                observer.engine_lost("the fake engine is down")
            await self._up.wait()
            self._observers.append(observer)
            observer.engine_connected()
            try:
                await self._down.wait()
            finally:
                self._observers.remove(observer)

    async def _answer(self, call: str, *, up: bool = True) -> None:
        """Take the time that a call takes; what comes after it is what the engine does, whoever still waits."""
        self.calls[call] += 1
        self.before(call)
        await trio.lowlevel.checkpoint()
        if call in self._full_lanes:
            await trio.sleep_forever()
        await self._take_time(call)
        if up and not self._up.is_set():
            raise EngineUnavailable("the fake engine is down")
        if self._failures.get(call):
            raise self._failures[call].pop(0)

    async def _take_time(self, call: str) -> None:
        mutation = call != "ensure_image"
        limit = min(max(trio.current_effective_deadline() - trio.current_time() + 1, _LEAST), _MOST)
        with trio.move_on_after(limit if mutation else math.inf, shield=mutation) as scope:
            await trio.sleep(self.latency)
            if call in self._gates:
                await self._gates[call].wait()
        if scope.cancelled_caught:
            raise EngineUnavailable(f"the fake engine did not answer within {limit:g} s")

    def _alive(self, name: str) -> FakeSandbox:
        sandbox = self.sandboxes.get(name)
        if sandbox is None or sandbox.state not in (SandboxState.RUNNING, SandboxState.PAUSED):
            raise SandboxFailed(f"sandbox {name} does not run")
        self.tell(sandbox.plan.conversation)
        return sandbox

    def _end(self, name: str, exit_code: int) -> None:
        known = self.sandboxes.get(name)
        if known is not None and known.state is not SandboxState.EXITED and not self.immortal:
            self.die(name, exit_code)

    def _view(self, name: str) -> SandboxView:
        sandbox = self.sandboxes[name]
        return SandboxView(
            id=f"id-{name}",
            name=name,
            image=sandbox.plan.spec.image,
            state=sandbox.state,
            published=Endpoint("127.0.0.1", sandbox.port) if self._has_port(sandbox) else None,
            exit_code=sandbox.exit_code,
            oom_killed=sandbox.oom_killed,
            is_pending=sandbox.pending,
        )

    def _has_port(self, sandbox: FakeSandbox) -> bool:
        runs = sandbox.state in (SandboxState.RUNNING, SandboxState.PAUSED)
        return runs and not sandbox.pending and sandbox.plan.spec.port is not None
