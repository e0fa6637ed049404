"""The benches on which the sandbox port's promises are tried: the fake engine, and the real one."""

import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, Protocol

import attrs
import docker
import pytest

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import PullPolicy, SandboxSpec
from supervisor.sandbox.docker import DockerProvider, Lanes
from supervisor.sandbox.port import SandboxPlan, SandboxProvider
from tests.fakes.engine import FakeEngine

C1: Final = ConversationId("c1")
SLEEP: Final = ("sleep", "1000")


class Bench(Protocol):
    """A provider, and the few things that the port does not say how to bring about."""

    @property
    def provider(self) -> SandboxProvider:
        """The provider under test."""

    def plan(self, incarnation: int = 1) -> SandboxPlan:
        """A small sandbox of C1 that sleeps, and whose output is one line, `hello`."""

    def plan_ending(self, exit_code: int) -> SandboxPlan:
        """A sandbox of C1 that ends by itself, soon."""

    def take_name(self, name: str) -> None:
        """Let something that is not ours have a sandbox's name."""

    def kill_from_outside(self, name: str) -> None:
        """End a sandbox behind the provider's back."""


@attrs.define
class FakeBench:
    """The fake engine."""

    provider: FakeEngine

    def plan(self, incarnation: int = 1) -> SandboxPlan:
        """See `Bench`."""
        self.provider.greeting = ["hello"]
        return _plan("image", SLEEP, incarnation)

    def plan_ending(self, exit_code: int) -> SandboxPlan:
        """See `Bench`."""
        self.provider.exits_at_boot.append((exit_code, False))
        return _plan("image", SLEEP, 1)

    def take_name(self, name: str) -> None:
        """See `Bench`."""
        self.provider.foreign_names.add(name)

    def kill_from_outside(self, name: str) -> None:
        """See `Bench`."""
        self.provider.die(name, 137)


@attrs.define
class DockerBench:
    """A real Docker Engine."""

    provider: DockerProvider
    raw: docker.APIClient
    image: str

    def plan(self, incarnation: int = 1) -> SandboxPlan:
        """See `Bench`."""
        return _plan(self.image, ("sh", "-c", "echo hello; exec sleep 1000"), incarnation)

    def plan_ending(self, exit_code: int) -> SandboxPlan:
        """See `Bench`."""
        return _plan(self.image, ("sh", "-c", f"exit {exit_code}"), 1)

    def take_name(self, name: str) -> None:
        """See `Bench`."""
        self.raw.create_container(self.image, ["sleep", "1"], name=name, labels={"conversationd-tests": "foreign"})

    def kill_from_outside(self, name: str) -> None:
        """See `Bench`."""
        self.raw.kill(name)


def _plan(image: str, command: tuple[str, ...], incarnation: int) -> SandboxPlan:
    env: Mapping[str, str] = {"KEY": "secret"}
    spec = SandboxSpec(
        provider="docker",
        image=image,
        pull=PullPolicy.NEVER,
        command=command,
        env=env,
        port=8000,
        user=None,
        workspace="/workspace",
        memory=64 * 1024**2,
        cpus=1.0,
        pids_limit=32,
        network="bridge",
        init=True,
    )
    return SandboxPlan(C1, incarnation, spec, env)


@pytest.fixture(params=["fake", "docker"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """One bench after the other; nothing is left of either."""
    opened: AbstractAsyncContextManager[Bench]
    if request.param == "fake":
        opened = _fake_bench()
    else:
        opened = _docker_bench(request.getfixturevalue("engine_url"), request.getfixturevalue("tiny_image"))
    async with opened as bench:
        yield bench


@asynccontextmanager
async def _fake_bench() -> AsyncIterator[Bench]:
    yield FakeBench(FakeEngine(owner=uuid.uuid4().hex, latency=0.0))


@asynccontextmanager
async def _docker_bench(engine_url: str, image: str) -> AsyncIterator[Bench]:
    owner = uuid.uuid4().hex
    raw = docker.APIClient(base_url=engine_url, version="auto")
    try:
        async with DockerProvider(engine_url, owner, Lanes()) as provider:
            yield DockerBench(provider, raw, image)
    finally:
        for filters in ({"label": f"io.conversationd.owner={owner}"}, {"label": "conversationd-tests=foreign"}):
            for container in raw.containers(all=True, filters=filters):
                raw.remove_container(container["Id"], v=True, force=True)
        for volume in raw.volumes(filters={"label": f"io.conversationd.owner={owner}"})["Volumes"] or ():
            raw.remove_volume(volume["Name"])
        raw.close()
