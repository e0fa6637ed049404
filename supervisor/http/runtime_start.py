"""What a client of a hosted runtime asks for at its start, in our terms: a spec within `[sandbox.allow]`."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from supervisor.control.messages import InvalidParams
from supervisor.control.methods import SpecParser
from supervisor.conversation.errors import Forbidden
from supervisor.conversation.json import JsonValue
from supervisor.conversation.spec import SandboxSpec, SpecOverrides
from supervisor.http.models_runtime import PullPolicy, RuntimeStart

_PULL: Final[Mapping[PullPolicy, str]] = {
    PullPolicy.ALWAYS: "always",
    PullPolicy.IF_NOT_PRESENT: "missing",
    PullPolicy.NEVER: "never",
}
_PARAMETERS: Final[Mapping[str, str]] = {
    "spec.image": "image",
    "spec.pull": "image_pull_policy",
    "spec.entrypoint": "command",
    "spec.port": "command",
    "spec.working_dir": "working_dir",
    "spec.env": "environment",
    "spec.user": "run_as_user",
    "spec.runtime": "runtime_class",
    "spec.memory": "resource_factor",
    "spec.cpus": "resource_factor",
}
_PORT: Final = re.compile(r"[0-9]{1,5}")
_MOST_PORT: Final = 65535


def wanted_spec(body: RuntimeStart, defaults: SandboxSpec, parse_spec: SpecParser) -> SpecOverrides:
    """The spec that a start asks for; `defaults` are the config's.

    A command is all that runs, as Kubernetes has it: neither the image's entrypoint nor the config's command counts
    beside it. The port is the one that it names, or else the config's.

    Raises:
        InvalidParams: a value is wrong; `path` is the client's own name of it.
        Forbidden: it asks for a group that a sandbox cannot have; the same.
    """
    command = _words(body.command)
    spec: dict[str, JsonValue] = {"image": body.image, "user": _user(body), "working_dir": body.working_dir}
    spec |= {"env": dict(body.environment or {}), "runtime": body.runtime_class}
    if body.image_pull_policy is not None:
        spec["pull"] = _PULL[body.image_pull_policy]
    if command:
        spec |= {"entrypoint": list(command), "command": [], "port": port_of(command)}
    if body.resource_factor not in (None, 1):
        spec |= {"memory": defaults.memory * body.resource_factor, "cpus": defaults.cpus * body.resource_factor}
    try:
        return parse_spec(spec)
    except InvalidParams as error:
        raise InvalidParams(as_parameter(error.path), error.message) from None


def in_clients_words(error: Forbidden) -> Forbidden:
    """A refusal whose path is the client's own name of what it asked for."""
    path = as_parameter(error.path or "")
    return Forbidden(f"{path}: {error.message}", path) if path != (error.path or "") else error


def as_parameter(path: str) -> str:
    """The client's name of what a path into a spec says."""
    for ours, theirs in _PARAMETERS.items():
        if path == ours or path.startswith((f"{ours}.", f"{ours}[")):
            return theirs + path.removeprefix(ours)
    return path


def port_of(command: Sequence[str]) -> int | None:
    """The port that a server of this command listens on: that of `--port`, or the number that a module begins with.

    The latter is how OpenHands' older server is started, by `openhands/runtime/utils/command.py`.
    """
    for word, following in zip(command, (*command[1:], ""), strict=False):
        if word == "--port" and _is_port(following):
            return int(following)
        if word.startswith("--port=") and _is_port(word.removeprefix("--port=")):
            return int(word.removeprefix("--port="))
    for word, _, number in zip(command, command[1:], command[2:], strict=False):
        if word == "-m" and _is_port(number):
            return int(number)
    return None


def is_met_by(asked: SpecOverrides, spec: SandboxSpec) -> bool:
    """Whether a sandbox that was made from a spec is all that is asked for now; when its image is fetched aside."""
    given = {field.name: getattr(asked, field.name) for field in attrs.fields(SpecOverrides)}
    variables = (given.pop("env") or {}).items()
    given.pop("pull")
    same = ((getattr(spec, key) or None) == (value or None) for key, value in given.items() if value is not None)
    return variables <= dict(spec.env).items() and all(same)


def _words(command: str | list[str] | None) -> list[str]:
    if not isinstance(command, str):
        return command or []
    try:
        return shlex.split(command)
    except ValueError as error:
        raise InvalidParams("command", f"cannot be split into words as a shell would: {error}") from None


def _user(body: RuntimeStart) -> str | None:
    groups = {name: number for name in ("run_as_group", "fs_group") if (number := getattr(body, name)) is not None}
    if body.run_as_user is None:
        for name in groups:
            raise Forbidden(f"{name} needs run_as_user: which user the image has is not known here", name)
        return None
    if len(set(groups.values())) > 1:
        raise Forbidden("fs_group has to be the same as run_as_group: a sandbox has one group", "fs_group")
    return ":".join(map(str, [body.run_as_user, *set(groups.values())]))


def _is_port(word: str) -> bool:
    return _PORT.fullmatch(word) is not None and 0 < int(word) <= _MOST_PORT
