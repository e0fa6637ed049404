"""The bench of a real Docker Engine."""

import uuid
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import docker
import pytest

from supervisor.sandbox.docker import DockerProvider, Lanes
from supervisor.sandbox.port import SandboxPlan, SandboxProvider
from tests.conformance.benches.bench import ALL_PROMISES, Promises, RealBench, plan_of


@attrs.define
class DockerBench:
    """A real Docker Engine."""

    provider: DockerProvider
    raw: docker.APIClient
    image: str
    owner: str
    engine_url: str
    promises: Promises = ALL_PROMISES

    def plan(self, incarnation: int = 1) -> SandboxPlan:
        """See `Bench`."""
        return plan_of("docker", self.image, ("sh", "-c", "echo hello; exec sleep 1000"), incarnation)

    def plan_ending(self, exit_code: int) -> SandboxPlan:
        """See `Bench`."""
        return plan_of("docker", self.image, ("sh", "-c", f"exit {exit_code}"), 1)

    def take_name(self, name: str) -> None:
        """See `Bench`."""
        self.raw.create_container(self.image, ["sleep", "1"], name=name, labels={"conversationd-tests": "foreign"})

    def kill_from_outside(self, name: str) -> None:
        """See `Bench`."""
        self.raw.kill(name)

    def away(self) -> AbstractAsyncContextManager[SandboxProvider]:
        """See `Bench`."""
        return DockerProvider("unix:///nonexistent/docker.sock", self.owner, Lanes())

    def another(self) -> AbstractAsyncContextManager[SandboxProvider]:
        """See `RealBench`."""
        return DockerProvider(self.engine_url, self.owner, Lanes())

    def remains(self) -> list[str]:
        """See `RealBench`."""
        filters = {"label": f"io.conversationd.owner={self.owner}"}
        containers = [f"container {row['Id']}" for row in self.raw.containers(all=True, filters=filters)]
        volumes = self.raw.volumes(filters=filters)["Volumes"] or ()
        return containers + [f"volume {row['Name']}" for row in volumes]


@asynccontextmanager
async def open_docker_bench(request: pytest.FixtureRequest) -> AsyncIterator[RealBench]:
    """An owner of its own on the engine of the tests; nothing of it is left."""
    engine_url, image = request.getfixturevalue("engine_url"), request.getfixturevalue("tiny_image")
    owner = uuid.uuid4().hex
    raw = docker.APIClient(base_url=engine_url, version="auto")
    try:
        async with DockerProvider(engine_url, owner, Lanes()) as provider:
            yield DockerBench(provider, raw, image, owner, engine_url)
    finally:
        for filters in ({"label": f"io.conversationd.owner={owner}"}, {"label": "conversationd-tests=foreign"}):
            for container in raw.containers(all=True, filters=filters):
                raw.remove_container(container["Id"], v=True, force=True)
        for volume in raw.volumes(filters={"label": f"io.conversationd.owner={owner}"})["Volumes"] or ():
            raw.remove_volume(volume["Name"])
        raw.close()
