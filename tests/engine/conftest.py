"""Fixtures for tests of the Docker provider against a real engine."""

import uuid
from collections.abc import AsyncIterator, Iterator

import docker
import pytest

from supervisor.sandbox.docker import DockerProvider, Lanes
from tests.engine.sandboxes import Workbench


@pytest.fixture
def raw(engine_url: str) -> Iterator[docker.APIClient]:
    """docker-py itself, to look at the engine behind the provider's back."""
    client = docker.APIClient(base_url=engine_url, version="auto")
    yield client
    client.close()


@pytest.fixture
def owner(raw: docker.APIClient) -> Iterator[str]:
    """An owner of this test alone; what it still owns at the end is removed."""
    owner = uuid.uuid4().hex
    label = {"label": f"io.conversationd.owner={owner}"}
    yield owner
    for container in raw.containers(all=True, filters=label):
        raw.remove_container(container["Id"], v=True, force=True)
    for volume in raw.volumes(filters=label)["Volumes"] or ():
        raw.remove_volume(volume["Name"])


@pytest.fixture
async def provider(engine_url: str, owner: str) -> AsyncIterator[DockerProvider]:
    """A provider on the engine."""
    async with DockerProvider(engine_url, owner, Lanes()) as provider:
        yield provider


@pytest.fixture
def bench(provider: DockerProvider, tiny_image: str, raw: docker.APIClient) -> Workbench:
    """Makes plans for tiny sandboxes, and launches them."""
    return Workbench(provider, tiny_image, raw)
