"""The bench of the fake engine."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import pytest

from supervisor.sandbox.port import SandboxPlan, SandboxProvider
from tests.conformance.benches.bench import ALL_PROMISES, SLEEP, Bench, Promises, plan_of
from tests.fakes.engine import FakeEngine


@attrs.define
class FakeBench:
    """The fake engine."""

    provider: FakeEngine
    promises: Promises = ALL_PROMISES

    def plan(self, incarnation: int = 1) -> SandboxPlan:
        """See `Bench`."""
        self.provider.greeting = ["hello"]
        return plan_of("docker", "image", SLEEP, incarnation)

    def plan_ending(self, exit_code: int) -> SandboxPlan:
        """See `Bench`."""
        self.provider.exits_at_boot.append((exit_code, False))
        return plan_of("docker", "image", SLEEP, 1)

    def take_name(self, name: str) -> None:
        """See `Bench`."""
        self.provider.foreign_names.add(name)

    def kill_from_outside(self, name: str) -> None:
        """See `Bench`."""
        self.provider.die(name, 137)

    @asynccontextmanager
    async def away(self) -> AsyncIterator[SandboxProvider]:
        """See `Bench`."""
        self.provider.go_down()
        yield self.provider
        self.provider.come_up()


@asynccontextmanager
async def open_fake_bench(_: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A fake engine of its own."""
    yield FakeBench(FakeEngine(owner=uuid.uuid4().hex, latency=0.0))
