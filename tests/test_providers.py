"""Which sandbox providers a daemon opens, and what `auto` stands for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import MockClock

from supervisor.config import Config, RemoteConfig, SandboxConfig
from supervisor.conversation.spec import Allowance
from supervisor.providers import PROVIDERS, NoSuchProvider, ProviderOpener, Surroundings, open_providers
from supervisor.sandbox.port import SandboxProvider
from supervisor.sandbox.remote.address import HostAddress
from supervisor.secret_file import UnsafeSecret
from tests.fakes.engine import FakeEngine


def around(provider: str, *allowed: str) -> Surroundings:
    """A daemon's surroundings with this default, and these that starts may choose."""
    spec = attrs.evolve(SandboxConfig().spec, provider=provider)
    return Surroundings(Config(sandbox=SandboxConfig(spec, Allowance(providers=allowed))), "owner", {})


def opener(engine: FakeEngine) -> ProviderOpener:
    """What opens this engine."""

    @asynccontextmanager
    async def open_it(_: Surroundings) -> AsyncIterator[SandboxProvider]:
        await trio.lowlevel.checkpoint()
        yield engine

    return open_it


@pytest.fixture
def engines() -> dict[str, FakeEngine]:
    """One of each."""
    return {name: FakeEngine(name) for name in ("docker", "process", "remote")}


@pytest.mark.parametrize(
    ("allowed", "used", "opened"),
    [
        ((), set(), {"docker"}),
        (("re*",), set(), {"docker", "remote"}),
        ((), {"process"}, {"docker", "process"}),
        (("*",), {"docker"}, {"docker", "process", "remote"}),
    ],
)
async def test_only_what_can_be_needed_is_opened(
    engines: dict[str, FakeEngine], allowed: tuple[str, ...], used: set[str], opened: set[str]
) -> None:
    """The default, what starts may choose, and what conversations have: nobody hears of an engine that is none's."""
    openers = {name: opener(engine) for name, engine in engines.items()}
    async with open_providers(around("docker", *allowed), used, openers) as providers:
        assert set(providers.table) == opened
        assert providers.default == "docker"


@pytest.mark.parametrize(("docker_answers", "chosen"), [(True, "docker"), (False, "process")])
async def test_auto_is_docker_where_it_answers(
    engines: dict[str, FakeEngine], autojump_clock: MockClock, docker_answers: bool, chosen: str
) -> None:
    """What is decided at the start holds, whatever becomes of the engine; the other one is not even opened."""
    if not docker_answers:
        engines["docker"].go_down()
    openers = {name: opener(engine) for name, engine in engines.items()}
    async with open_providers(around("auto"), set(), openers) as providers:
        assert set(providers.table) == {chosen}
        engines["docker"].go_down() if docker_answers else engines["docker"].come_up()
        assert providers.default_for("auto") == chosen


async def test_auto_does_not_wait_for_an_engine_that_hangs(
    engines: dict[str, FakeEngine], autojump_clock: MockClock
) -> None:
    """It is as good as away."""
    engines["docker"].latency = 1000.0
    openers = {name: opener(engine) for name, engine in engines.items()}
    async with open_providers(around("auto"), set(), openers) as providers:
        assert providers.default == "process"


@pytest.mark.parametrize(
    ("remote", "told"),
    [(RemoteConfig(), "url"), (RemoteConfig(HostAddress("https://host.example")), "api_key_file")],
)
async def test_remote_needs_a_host_only_where_it_is_needed(
    engines: dict[str, FakeEngine], remote: RemoteConfig, told: str
) -> None:
    """As the default, or for conversations that have it, it is told what is missing; starts just cannot choose it."""
    openers = {**{name: opener(engine) for name, engine in engines.items()}, "remote": PROVIDERS["remote"]}
    for default, used in ("remote", set()), ("docker", {"remote"}):
        lacking = attrs.evolve(around(default), config=attrs.evolve(around(default).config, remote=remote))
        with pytest.raises(NoSuchProvider, match=told):
            async with open_providers(lacking, used, openers):
                pytest.fail("nothing is opened")
    async with open_providers(around("docker", "*"), set(), openers) as providers:
        assert set(providers.table) == {"docker", "process"}


async def test_remote_shows_its_key_to_nobody(tmp_path: Path) -> None:
    """It is read from a file that only we can read; one that others can read is refused."""
    key_file = tmp_path / "key"
    key_file.write_text("the-key-of-the-host\n")
    key_file.chmod(0o644)
    remote = RemoteConfig(HostAddress("https://host.example"), key_file)
    near = attrs.evolve(around("remote"), config=attrs.evolve(around("remote").config, remote=remote))
    with pytest.raises(UnsafeSecret, match="chmod 0600"):
        async with open_providers(near, set()):
            pytest.fail("nothing is opened")
    key_file.chmod(0o600)
    async with open_providers(near, set()) as providers:
        assert "the-key-of-the-host" not in repr(providers)
        assert "removes its files" in providers.table["remote"].caution
    key_file.write_text("\n")
    with pytest.raises(UnsafeSecret, match="holds no key"):
        async with open_providers(near, set()):
            pytest.fail("nothing is opened")


@pytest.mark.parametrize(
    ("provider", "used", "told"), [("dokcer", set(), "docker, process, remote"), ("docker", {"old"}, "'old'")]
)
async def test_a_provider_that_there_is_not_is_told_in_words(
    engines: dict[str, FakeEngine], provider: str, used: set[str], told: str
) -> None:
    """A word that was mistyped, and conversations of a version that had another provider."""
    openers = {name: opener(engine) for name, engine in engines.items()}
    with pytest.raises(NoSuchProvider, match=told):
        async with open_providers(around(provider), used, openers):
            pytest.fail("nothing is opened")
