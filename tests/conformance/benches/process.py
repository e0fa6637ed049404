"""The bench of sandboxes that are processes of this host."""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import attrs
import pytest

from supervisor.sandbox.port import SandboxPlan, SandboxProvider
from supervisor.sandbox.process.provider import ProcessProvider
from supervisor.sandbox.process.records import read_running
from tests.conformance.benches.bench import Promises, RealBench, plan_of
from tests.process_host import left_on_host

_PROMISES: Final = Promises(has_images=False, can_be_away=False)


@attrs.define
class ProcessBench:
    """This host, with the control groups that it has."""

    provider: ProcessProvider
    owner: str
    state_dir: Path
    promises: Promises = _PROMISES

    def plan(self, incarnation: int = 1) -> SandboxPlan:
        """See `Bench`."""
        return plan_of("process", "", ("sh", "-c", "echo hello; exec sleep 1000"), incarnation)

    def plan_ending(self, exit_code: int) -> SandboxPlan:
        """See `Bench`."""
        return plan_of("process", "", ("sh", "-c", f"exit {exit_code}"), 1)

    def take_name(self, name: str) -> None:
        """See `Bench`."""
        (self.state_dir / "sandboxes" / name).mkdir(parents=True)
        (self.state_dir / "sandboxes" / name / "something").touch()

    def kill_from_outside(self, name: str) -> None:
        """See `Bench`."""
        running = read_running(str(self.state_dir / "sandboxes" / name))
        assert running is not None
        os.kill(running.main.pid, signal.SIGKILL)

    def away(self) -> AbstractAsyncContextManager[SandboxProvider]:
        """See `Bench`; the host's kernel is always there."""
        return self.another()

    def another(self) -> AbstractAsyncContextManager[SandboxProvider]:
        """See `RealBench`."""
        return ProcessProvider(self.state_dir, self.owner)

    def remains(self) -> list[str]:
        """See `RealBench`."""
        return [*left_on_host(self.owner), *(str(path) for path in self.state_dir.glob("*/*"))]


@asynccontextmanager
async def open_process_bench(_: pytest.FixtureRequest) -> AsyncIterator[RealBench]:
    """An owner of its own with a state directory of its own; nothing of it is left."""
    owner, state_dir = uuid.uuid4().hex, Path(tempfile.mkdtemp(prefix="conversationd-"))
    try:
        async with ProcessProvider(state_dir, owner) as provider:
            yield ProcessBench(provider, owner, state_dir)
            for sandbox in await provider.list_owned():
                await provider.remove(sandbox.name)
    finally:
        shutil.rmtree(state_dir)
