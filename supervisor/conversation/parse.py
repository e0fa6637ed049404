"""The keys and notations of a sandbox spec: those of the config's `[sandbox]` and of a caller's `spec` alike."""

import re
from collections.abc import Mapping
from typing import Final

import attrs
from cattrs import BaseValidationError, Converter

from supervisor.conversation.json import JsonObject
from supervisor.conversation.spec import Mount, SpecOverrides
from supervisor.conversation.strict import (
    NotAllowed,
    Reader,
    absolute_path,
    integer,
    kind_of,
    name,
    number,
    problems_of,
    register_table,
    shown,
    size,
    strict_converter,
    text,
)

# Below their lower ends the engine refuses these, or takes them for "without limit".
memory_limit: Final = size("6MiB")
cpu_limit: Final = number(0.01, 1024)
pids_limit: Final = integer(1, 4_194_304)


_RUNTIME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@attrs.define(eq=False, slots=False)
class InvalidSpec(Exception):
    """A caller's `spec` is malformed. `path` is the parameter, like `spec.mounts[0]`, `message` what it allows."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


def parse_overrides(value: JsonObject) -> SpecOverrides:
    """Read the `spec` of `conversation.start`. Whether it is allowed is `resolve_spec`'s question.

    `port` 0, `user` and `working_dir` "", `command` and `entrypoint` [] stand for none of them, `runtime` "" for the
    engine's own; null is the same as leaving the key out.

    Raises:
        InvalidSpec: a key is unknown, of the wrong type or out of range; names the first one.
    """
    try:
        return _CONVERTER.structure(value, SpecOverrides)
    except (BaseValidationError, ValueError) as error:
        problem = next(problems_of(error, "spec"))
        raise InvalidSpec(problem.path, problem.message) from error


def parse_mount(value: object) -> Mount:
    """Read a mount, `SOURCE:TARGET` with `:ro` (the default) or `:rw`, both absolute.

    Raises:
        NotAllowed: it is none; says how one is written.
    """
    words = text(value).split(":")
    try:
        source, target, mode = words if len(words) > 2 else (*words, "ro")  # noqa: PLR2004 - the mode is left out
        return Mount(absolute_path(source), absolute_path(target), {"ro": True, "rw": False}[mode])
    except (ValueError, KeyError) as error:
        raise NotAllowed(
            f'{shown(value)} is no mount; write it like "/srv/data:/data" or "/srv/data:/data:rw"'
        ) from error


def environment(value: object) -> Mapping[str, str]:
    """Read environment variables. Its errors name variables and never show their values."""
    if not isinstance(value, Mapping):
        raise NotAllowed(f"must be a table of variables, not {kind_of(value)}")
    variables: Mapping[str, str] = _structure_variables(value, None)
    for variable in variables:
        if not variable or "=" in variable:
            raise NotAllowed(f'{shown(variable)} is no name of a variable: it is empty or has a "="')
    return variables


def working_directory(value: object) -> str:
    """Read an absolute path, the root too, or nothing."""
    return text(value) if value in ("", "/") else absolute_path(value)


def runtime_name(value: object) -> str:
    """Read the name of an OCI runtime, or nothing."""
    word = text(value)
    if word and not _RUNTIME.fullmatch(word):
        raise NotAllowed(f'must be a name like "runsc" or "io.containerd.runc.v2", not {shown(word)}')
    return word


def spec_converter() -> Converter:
    """Make a strict converter that knows mounts."""
    converter = strict_converter()
    converter.register_structure_hook(Mount, lambda value, _: parse_mount(value))
    return converter


SPEC_READERS: Final[Mapping[str, Reader[object]]] = {
    "provider": name,
    "image": name,
    "env": environment,
    "port": integer(0, 65535),
    "workspace": absolute_path,
    "working_dir": working_directory,
    "runtime": runtime_name,
    "memory": memory_limit,
    "cpus": cpu_limit,
    "pids_limit": pids_limit,
    "network": name,
}

_CONVERTER: Final = spec_converter()
_structure_variables: Final = _CONVERTER.get_structure_hook(Mapping[str, str])
register_table(_CONVERTER, SpecOverrides, **SPEC_READERS)
