"""A process provider over a state directory of its own, in each form that this host has. No pytest in here."""

import shutil
import sys
import tempfile
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeAlias

import attrs
import trio

from supervisor.sandbox.names import owner_name
from supervisor.sandbox.port import SandboxPlan, SandboxState, SandboxView
from supervisor.sandbox.process.homes import Home, legacy_home, unified_home
from supervisor.sandbox.process.proc import Process, read_process
from supervisor.sandbox.process.provider import ProcessProvider
from supervisor.sandbox.process.records import Running, read_running
from tests.conformance.benches.bench import C1, plan_of
from tests.process_host import all_pids, left_on_host

FindHome: TypeAlias = Callable[[str], Home | None]

PATIENCE: Final = 30.0


def _no_home(_: str) -> Home:
    return Home()


def homes_here() -> Mapping[str, FindHome]:
    """The forms that this host has: always without control groups, and with those of each version that we may make."""
    probe, found = owner_name(uuid.uuid4().hex), {"loose": _no_home}
    for form, find in (("legacy", legacy_home), ("unified", unified_home)):
        home = find(probe)
        if home is not None:
            home.close()
            found[form] = find  # type: ignore[assignment]  # it had one
    return found


@attrs.frozen
class Rig:
    """The provider, and what is behind its back."""

    provider: ProcessProvider
    state_dir: Path
    owner: str

    def plan(self, *command: str, incarnation: int = 1) -> SandboxPlan:
        """A sandbox of C1 that runs this."""
        return plan_of("process", "", command, incarnation)

    async def launch(self, script: str, incarnation: int = 1) -> SandboxView:
        """Launch a shell script."""
        return await self.provider.launch(self.plan("sh", "-c", script, incarnation=incarnation))

    def living(self) -> ProcessProvider:
        """A second provider over the same, without control groups, whose keepers are sound."""
        return ProcessProvider(self.state_dir, self.owner, home=Home())

    def directory(self, name: str) -> Path:
        """Where a sandbox is written down."""
        return self.state_dir / "sandboxes" / name

    def running(self, name: str) -> Running:
        """What is written down of its processes."""
        running = read_running(str(self.directory(name)))
        assert running is not None
        return running

    async def lines(self, name: str, least: int) -> list[str]:
        """All lines of its output, as soon as there are so many."""
        with trio.fail_after(PATIENCE):
            while True:
                lines = await self.provider.logs(name, 100_000)
                if len(lines) >= least:
                    return list(lines)
                await trio.sleep(0.01)

    async def until_ended(self, name: str) -> SandboxView:
        """Look until it has ended."""
        with trio.fail_after(PATIENCE):
            while True:
                view = await self.provider.inspect(name)
                assert view is not None
                if view.state is SandboxState.EXITED:
                    return view
                await trio.sleep(0.01)


@asynccontextmanager
async def open_rig(
    find: FindHome = _no_home, python: tuple[str, ...] = (sys.executable, "-I", "-S")
) -> AsyncIterator[Rig]:
    """A rig with nothing in it, and nothing of it left."""
    owner, state_dir = uuid.uuid4().hex, Path(tempfile.mkdtemp(prefix="conversationd-"))
    try:
        async with ProcessProvider(state_dir, owner, home=find(owner_name(owner)), python=python) as provider:
            yield Rig(provider, state_dir, owner)
            for sandbox in await provider.list_owned():
                await provider.remove(sandbox.name)
            await provider.remove_workspace(C1)
            assert left_on_host(owner) == []
    finally:
        shutil.rmtree(state_dir)


def sleepers(seconds: str) -> list[Process]:
    """All `sleep` of so many seconds on this host."""
    found = []
    for pid in all_pids():
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            continue
        if words == f"sleep\0{seconds}\0".encode() and (process := read_process(pid)) is not None:
            found.append(process)
    return found
