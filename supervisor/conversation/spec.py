"""What a sandbox is made from, and what a caller may change of it."""

from collections.abc import Mapping
from enum import StrEnum
from fnmatch import fnmatchcase
from typing import TypeVar

import attrs

from supervisor.conversation.errors import Forbidden


class PullPolicy(StrEnum):
    """When the image is fetched from its registry."""

    MISSING = "missing"
    ALWAYS = "always"
    NEVER = "never"


@attrs.frozen
class LocalImage:
    """An image that is on the engine's host: when it was made, in the engine's words, and its size in bytes."""

    created: str
    size: int


@attrs.frozen
class Mount:
    """A path of the host that the sandbox sees."""

    source: str
    target: str
    read_only: bool = True


@attrs.frozen
class SandboxSpec:
    """Everything that makes a sandbox, resolved: the config's `[sandbox]` with a caller's overrides.

    Sizes are bytes, `cpus` is cores (fractions allowed); `command`, `entrypoint` and `working_dir` None are the image's
    own. With an `entrypoint` the image's own command counts no more. `runtime` is the engine's name of an OCI runtime,
    "" its own default.
    """

    provider: str
    image: str
    pull: PullPolicy
    command: tuple[str, ...] | None
    env: Mapping[str, str]
    port: int | None
    user: str | None
    workspace: str
    memory: int
    cpus: float
    pids_limit: int
    network: str
    init: bool
    mounts: tuple[Mount, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    working_dir: str | None = None
    runtime: str = ""


@attrs.frozen
class SpecOverrides:
    """A caller's `spec`: the keys that it gave, None for those that it did not."""

    provider: str | None = None
    image: str | None = None
    pull: PullPolicy | None = None
    command: tuple[str, ...] | None = None
    env: Mapping[str, str] | None = None
    port: int | None = None
    user: str | None = None
    workspace: str | None = None
    memory: int | None = None
    cpus: float | None = None
    pids_limit: int | None = None
    network: str | None = None
    init: bool | None = None
    mounts: tuple[Mount, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    working_dir: str | None = None
    runtime: str | None = None


@attrs.frozen
class Allowance:
    """The config's `[sandbox.allow]`: how far a caller's `spec` may go. Patterns are shell globs."""

    images: tuple[str, ...] = ("*",)
    pull: tuple[str, ...] = ()
    mounts: tuple[str, ...] = ()
    env: tuple[str, ...] = ("*",)
    networks: tuple[str, ...] = ()
    providers: tuple[str, ...] = ()
    runtimes: tuple[str, ...] = ()
    memory: int = 16 * 1024**3
    cpus: float = 16.0
    pids_limit: int = 4096


def resolve_spec(defaults: SandboxSpec, overrides: SpecOverrides, allow: Allowance) -> SandboxSpec:
    """Lay a caller's overrides over the config's defaults. `env` is merged, everything else replaced.

    An image that the caller chose is pulled only where `allow.pull` names it: by default any local image may be
    used and none fetched.

    Raises:
        Forbidden: an override goes beyond the allowance; `path` names it.
    """
    _check_choices(defaults, overrides, allow)
    _check_limits(overrides, allow)
    _check_mounts(overrides.mounts or (), allow)
    given = {field.name: getattr(overrides, field.name) for field in attrs.fields(SpecOverrides)}
    changes = {name: value for name, value in given.items() if value is not None}
    if overrides.env is not None:
        changes["env"] = {**defaults.env, **overrides.env}
    spec = attrs.evolve(defaults, **changes)
    spec = without_empty(spec)
    if overrides.image is not None and overrides.image != defaults.image and not _matches(spec.image, allow.pull):
        return attrs.evolve(spec, pull=PullPolicy.NEVER)
    return spec


def without_empty(spec: SandboxSpec) -> SandboxSpec:
    """The spec where 0, "" and [] are None: so "none of these" is said, where leaving the key out means the default."""
    return attrs.evolve(
        spec,
        port=spec.port or None,
        user=spec.user or None,
        command=spec.command or None,
        entrypoint=spec.entrypoint or None,
        working_dir=spec.working_dir or None,
    )


def _check_choices(defaults: SandboxSpec, overrides: SpecOverrides, allow: Allowance) -> None:
    _check_choice("image", overrides.image, defaults.image, allow.images)
    _check_choice("network", overrides.network, defaults.network, allow.networks)
    _check_choice("provider", overrides.provider, defaults.provider, allow.providers)
    _check_runtime(overrides.runtime, defaults.runtime, allow.runtimes)
    for name in overrides.env or {}:
        if not _matches(name, allow.env):
            raise Forbidden(
                f"spec.env.{name} is not allowed: [sandbox.allow] env is {list(allow.env)}", f"spec.env.{name}"
            )
    image = overrides.image or defaults.image
    if (
        overrides.pull is PullPolicy.ALWAYS
        and defaults.pull is not PullPolicy.ALWAYS
        and not _matches(image, allow.pull)
    ):
        raise Forbidden(
            f"spec.pull: {image!r} may not be pulled on request: [sandbox.allow] pull is {list(allow.pull)}",
            "spec.pull",
        )


def _check_choice(name: str, wanted: str | None, default: str, patterns: tuple[str, ...]) -> None:
    if wanted is not None and wanted != default and not _matches(wanted, patterns):
        raise Forbidden(
            f"spec.{name} {wanted!r} is not allowed: [sandbox.allow] permits {list(patterns)}", f"spec.{name}"
        )


def _check_runtime(wanted: str | None, default: str, patterns: tuple[str, ...]) -> None:
    if wanted is not None and wanted != default and not _matches(wanted, patterns):
        raise Forbidden(
            f"spec.runtime {wanted!r} is not allowed: [sandbox.allow] runtimes is {list(patterns)}. To allow it, name "
            "it there and in `runtimes` of the engine's daemon.json, for the program that it is or another one",
            "spec.runtime",
        )


def _check_limits(overrides: SpecOverrides, allow: Allowance) -> None:
    _check_limit("memory", overrides.memory, allow.memory)
    _check_limit("cpus", overrides.cpus, allow.cpus)
    _check_limit("pids_limit", overrides.pids_limit, allow.pids_limit)


_Number = TypeVar("_Number", int, float)


def _check_limit(name: str, wanted: _Number | None, most: _Number) -> None:
    if wanted is not None and wanted > most:
        raise Forbidden(f"spec.{name} {wanted} is more than [sandbox.allow] {name}, which is {most}", f"spec.{name}")


def _check_mounts(mounts: tuple[Mount, ...], allow: Allowance) -> None:
    for number, mount in enumerate(mounts):
        path = f"spec.mounts[{number}]"
        if ".." in mount.source.split("/") or not _matches(mount.source, allow.mounts):
            raise Forbidden(
                f"{path}: mounting {mount.source!r} is not allowed: [sandbox.allow] mounts is {list(allow.mounts)}",
                path,
            )


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
