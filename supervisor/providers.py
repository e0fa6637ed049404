"""The sandbox providers: how each is made from the config, which of them a daemon opens, and which is the default.

A new provider is one new file in `supervisor.sandbox` and one line in `PROVIDERS`.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from fnmatch import fnmatchcase
from typing import Final, TypeAlias

import attrs
import structlog
import trio

from supervisor.config import Config
from supervisor.conversation.errors import EngineUnavailable
from supervisor.sandbox.docker import DockerProvider, Lanes
from supervisor.sandbox.port import SandboxProvider
from supervisor.sandbox.process.commands import Commands
from supervisor.sandbox.process.provider import ProcessProvider
from supervisor.sandbox.remote import Host, RemoteProvider, load_key

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

AUTO: Final = "auto"
_AUTO_PREFERS: Final = "docker"
_AUTO_ELSE: Final = "process"
_ANSWERS_WITHIN: Final = 5.0


@attrs.frozen
class Surroundings:
    """What a provider is made in: `owner` is the state directory's id, which all that is ours carries."""

    config: Config
    owner: str
    environ: Mapping[str, str]


ProviderOpener: TypeAlias = Callable[[Surroundings], AbstractAsyncContextManager[SandboxProvider]]


@asynccontextmanager
async def _docker(around: Surroundings) -> AsyncIterator[SandboxProvider]:
    docker = around.config.docker
    host = docker.host or around.environ.get("DOCKER_HOST")
    async with DockerProvider(host, around.owner, Lanes(**attrs.asdict(docker.lanes))) as provider:
        yield provider


@asynccontextmanager
async def _process(around: Surroundings) -> AsyncIterator[SandboxProvider]:
    config = around.config
    commands = Commands(config.process.command, config.sandbox.spec.network)
    workspaces = config.process.workspaces
    async with ProcessProvider(config.daemon.state_dir, around.owner, commands, workspaces=workspaces) as provider:
        yield provider


@asynccontextmanager
async def _remote(around: Surroundings) -> AsyncIterator[SandboxProvider]:
    remote = around.config.remote
    if remote.url is None or remote.api_key_file is None:
        raise NotSetUp(
            'the sandbox provider "remote" has no host: set [remote] url, and api_key_file to a file with its key'
        )
    host = Host(remote.url, load_key(remote.api_key_file))
    try:
        yield RemoteProvider(host, around.owner, remote.memory)
    finally:
        await host.aclose()


PROVIDERS: Final[Mapping[str, ProviderOpener]] = {
    "docker": _docker,
    "process": _process,
    "remote": _remote,
}


class NoSuchProvider(Exception):
    """The config, or a conversation, names a provider that there is not; the message says what to do."""


class NotSetUp(NoSuchProvider):
    """The provider needs something from the config that is not there."""


@attrs.frozen
class Providers:
    """The open ones by name, and the name of the one that a start gets which asks for none."""

    table: Mapping[str, SandboxProvider]
    default: str

    def default_for(self, configured: str) -> str | None:
        """The provider that `[sandbox] provider` of a reloaded config stands for; None if that one is not open."""
        return self.default if configured == AUTO else configured if configured in self.table else None


@asynccontextmanager
async def open_providers(
    around: Surroundings, used: AbstractSet[str], openers: Mapping[str, ProviderOpener] = PROVIDERS
) -> AsyncIterator[Providers]:
    """Open the default provider, those that a start may choose, and those that conversations have: `used`.

    With `provider = "auto"` the default is decided here and now, for as long as the daemon runs: Docker if its engine
    answers, else sandboxes without walls. An engine that is away for a moment later on must not change that.

    Raises:
        NoSuchProvider: one that is needed is none of the openers', or is not set up; one that starts may choose is left
            out then.
    """
    async with AsyncExitStack() as stack:
        table: dict[str, SandboxProvider] = {}
        default = around.config.sandbox.spec.provider
        if default == AUTO:
            default = _AUTO_PREFERS if await _answers(around, openers[_AUTO_PREFERS]) else _AUTO_ELSE
        patterns = around.config.sandbox.allow.providers
        chosen = {name for name in openers if any(fnmatchcase(name, pattern) for pattern in patterns)}
        for name in sorted({default} | used | chosen):
            if name not in openers:
                raise NoSuchProvider(_missing(name, used, openers))
            try:
                table[name] = await stack.enter_async_context(openers[name](around))
            except NotSetUp:
                if name == default or name in used:
                    raise
                _log.info("provider.not_set_up", provider=name)
        yield Providers(table, default)


async def _answers(around: Surroundings, opener: ProviderOpener) -> bool:
    async with opener(around) as provider:
        with trio.move_on_after(_ANSWERS_WITHIN):
            await trio.lowlevel.checkpoint()
            try:
                await provider.engine()
            except EngineUnavailable as error:
                _log.info("provider.not_chosen", provider=provider.name, error=str(error))
            else:
                return True
    return False


def _missing(name: str, used: AbstractSet[str], openers: Mapping[str, ProviderOpener]) -> str:
    there_are = f"there is no sandbox provider {name!r}; there are {', '.join(sorted(openers))}"
    if name in used:
        return f"{there_are}: conversations of this state directory have it, so run the version that they were made by"
    return f'{there_are}: set [sandbox] provider to one of them, or to "{AUTO}"'
