"""Pulling images, from a registry of one image on this host."""

from collections.abc import Iterator

import attrs
import docker
import pytest
import trio

from supervisor.conversation.errors import EngineUnavailable, ImageUnavailable
from supervisor.conversation.spec import PullPolicy
from supervisor.sandbox.docker import DockerProvider, Lanes
from supervisor.sandbox.port import PullProgress
from tests.engine.registry import Registry, running_registry
from tests.engine.sandboxes import PATIENCE, tiny_spec


@pytest.fixture
def registry(raw: docker.APIClient) -> Iterator[tuple[Registry, str]]:
    """A registry; the image is gone from the engine afterwards."""
    with running_registry() as (registry, name):
        yield registry, name
        if raw.images(name):
            raw.remove_image(name)


async def ensure(provider: DockerProvider, image: str, pull: PullPolicy, stall: float = PATIENCE) -> list[PullProgress]:
    """Ensure an image; answers with the progress that was told."""
    told: list[PullProgress] = []

    async def tell(progress: PullProgress) -> None:
        await trio.lowlevel.checkpoint()
        told.append(progress)

    await provider.ensure_image(attrs.evolve(tiny_spec(image), pull=pull), tell, stall)
    return told


async def test_missing_image_is_pulled_with_progress(
    provider: DockerProvider, registry: tuple[Registry, str], raw: docker.APIClient
) -> None:
    """Bytes only grow, up to those of the whole image; a second time there is nothing to do."""
    served, image = registry
    told = await ensure(provider, image, PullPolicy.MISSING)
    assert told[-1] == PullProgress(len(served.layer), len(served.layer))
    assert told == sorted(told, key=lambda progress: progress.current)
    assert raw.images(image)
    assert await ensure(provider, image, PullPolicy.MISSING) == []


async def test_policy_always_asks_the_registry(provider: DockerProvider, registry: tuple[Registry, str]) -> None:
    """An image that is there already has no bytes to fetch, but is asked for."""
    _, image = registry
    await ensure(provider, image, PullPolicy.ALWAYS)
    assert await ensure(provider, image, PullPolicy.ALWAYS) == []


async def test_image_without_tag_is_the_latest_only(
    provider: DockerProvider, registry: tuple[Registry, str], raw: docker.APIClient
) -> None:
    """The engine on its own would fetch every tag of the repository."""
    _, image = registry
    untagged = image.removesuffix(":1")
    await ensure(provider, untagged, PullPolicy.MISSING)
    assert [tag for row in raw.images(untagged) for tag in row["RepoTags"]] == [f"{untagged}:latest"]
    raw.remove_image(untagged)


async def test_policy_never_does_not_pull(provider: DockerProvider, registry: tuple[Registry, str]) -> None:
    """An image that is not there stays away."""
    with pytest.raises(ImageUnavailable, match="may not be pulled"):
        await ensure(provider, registry[1], PullPolicy.NEVER)


async def test_registry_error_comes_in_its_words(provider: DockerProvider, registry: tuple[Registry, str]) -> None:
    """An image that the registry does not have."""
    with pytest.raises(ImageUnavailable, match="manifest"):
        await ensure(provider, registry[1].removesuffix(":1") + ":no-such-tag", PullPolicy.MISSING)


async def test_unreachable_registry_is_an_unavailable_image(provider: DockerProvider) -> None:
    """The engine answers; it is the registry that does not."""
    with pytest.raises(ImageUnavailable, match="refused"):
        await ensure(provider, "127.0.0.1:1/nothing:1", PullPolicy.MISSING)


@pytest.mark.parametrize("image", ["", "../containers/json", "a b", "-x", "a?b"])
async def test_name_that_is_none_is_refused(provider: DockerProvider, image: str) -> None:
    """It does not get as far as the engine's URLs."""
    with pytest.raises(ImageUnavailable, match="not the name"):
        await ensure(provider, image, PullPolicy.MISSING)


async def test_name_that_the_engine_refuses_is_unavailable(provider: DockerProvider) -> None:
    """The engine knows more about names than we do."""
    with pytest.raises(ImageUnavailable):
        await ensure(provider, "UPPER/case:1", PullPolicy.MISSING)


async def test_pull_that_stalls_is_given_up(provider: DockerProvider) -> None:
    """No byte for as long as it may take: the pull ends, and says why."""
    with (
        running_registry(stalling=True) as (_, image),
        pytest.raises(ImageUnavailable, match=r"did not advance for 0\.5 s"),
    ):
        await ensure(provider, image, PullPolicy.MISSING, stall=0.5)


async def test_pull_is_cancelled_at_once(provider: DockerProvider) -> None:
    """However long the registry takes."""
    with running_registry(stalling=True) as (registry, image):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ensure, provider, image, PullPolicy.MISSING)
            await trio.to_thread.run_sync(registry.stalled.wait, abandon_on_cancel=True)
            before = trio.current_time()
            nursery.cancel_scope.cancel()
        assert trio.current_time() - before < 1


async def test_pull_without_an_engine_says_so(owner: str) -> None:
    """The image may be there for all we know."""
    async with DockerProvider("unix:///no/such/engine.sock", owner, Lanes()) as provider:
        with pytest.raises(EngineUnavailable, match=r"/no/such/engine\.sock"):
            await ensure(provider, "x", PullPolicy.MISSING)
