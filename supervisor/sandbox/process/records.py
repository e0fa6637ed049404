"""What is written down of a sandbox in its directory, so that whoever comes later knows it again.

`sandbox.json` comes first and says whose it is; `running.json` comes when its processes are there, before the command
is run; `exit.json` when the command has ended. No secret is in any of them.
"""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, NamedTuple, TypeAlias

from supervisor.sandbox.process.groups import GroupJson
from supervisor.sandbox.process.proc import Identity

SANDBOX: Final = "sandbox.json"
RUNNING: Final = "running.json"
EXIT: Final = "exit.json"
LOCK: Final = "lock"
OUTPUT: Final = "output"
OUTPUT_BEFORE: Final = "output.1"
TROUBLE: Final = "keeper.err"

KILLED: Final = 137

_Json: TypeAlias = Mapping[str, object]


class Owned(NamedTuple):
    """Whose a sandbox is. `program` is what people call what runs in it."""

    owner: str
    conversation: str
    incarnation: int
    program: str
    group: GroupJson


class Running(NamedTuple):
    """The processes of a sandbox, and the port that is reserved for it."""

    keeper: Identity
    main: Identity
    port: int | None


class Ended(NamedTuple):
    """How a sandbox has ended; `message` says why if its command was not even run, or nobody saw it end."""

    exit_code: int
    oom_killed: bool
    message: str


def write_owned(directory: str, owned: Owned) -> None:
    """Say whose the sandbox is."""
    _write(directory, SANDBOX, owned._asdict())


def write_running(directory: str, running: Running) -> None:
    """Say what runs."""
    _write(directory, RUNNING, {"keeper": running.keeper, "main": running.main, "port": running.port})


def write_ended(directory: str, ended: Ended) -> None:
    """Say how it has ended."""
    _write(directory, EXIT, ended._asdict())


def read_owned(directory: str) -> Owned | None:
    """Whose it is; None if that is not written there, or is not of ours."""
    try:
        return Owned(**_read(directory, SANDBOX))  # type: ignore[arg-type]  # what we wrote; anything else is foreign
    except (OSError, ValueError, TypeError):
        return None


def read_running(directory: str) -> Running | None:
    """What runs, or last ran; None if nothing did."""
    try:
        fields = _read(directory, RUNNING)
        return Running(Identity(*fields["keeper"]), Identity(*fields["main"]), fields["port"])  # type: ignore[misc, arg-type]
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def read_ended(directory: str) -> Ended | None:
    """How it has ended; None if that was not written down."""
    try:
        return Ended(**_read(directory, EXIT))  # type: ignore[arg-type]  # what we wrote
    except (FileNotFoundError, ValueError, TypeError):
        return None


def forget_run(directory: str) -> None:
    """Forget the last run: what is left says that the sandbox was made and does not run."""
    for name in (RUNNING, EXIT):
        with suppress(FileNotFoundError):
            os.unlink(f"{directory}/{name}")


def _read(directory: str, name: str) -> _Json:
    with open(f"{directory}/{name}", encoding="utf-8") as file:
        content = json.load(file)
    if not isinstance(content, dict):
        raise TypeError(f"{name} is no object")
    return content


def _write(directory: str, name: str, content: object) -> None:
    """Write it whole or not at all."""
    aside = f"{directory}/.{name}"
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(descriptor)
    os.rename(aside, f"{directory}/{name}")
