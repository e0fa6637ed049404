"""From a plan to what a keeper runs; what cannot be honoured without a container is refused in words."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from supervisor.conversation.errors import SandboxFailed
from supervisor.conversation.spec import SandboxSpec
from supervisor.sandbox.port import SandboxPlan
from supervisor.sandbox.process.birth import PORT, Job
from supervisor.sandbox.process.cgroups import Limits
from supervisor.sandbox.process.groups import MARKER, GroupJson

DEFAULT_COMMAND: Final = ("python3", "-m", "openhands.agent_server", "--host", "127.0.0.1", "--port", PORT)
WORKSPACE: Final = "{workspace}"
"""Where a command, or a variable of its environment, gets the path of its workspace."""

_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_USER: Final = re.compile(r"([0-9]{1,10})(?::([0-9]{1,10}))?")


@attrs.frozen
class Commands:
    """What is run where a spec has no command of its own, and the network that none may differ from."""

    default: tuple[str, ...] = DEFAULT_COMMAND
    network: str = "bridge"

    def check(self, spec: SandboxSpec) -> None:
        """Refuse what only a container could be given.

        Raises:
            SandboxFailed: the spec asks for such a thing.
        """
        refused = {
            "mounts": bool(spec.mounts),
            "runtime": spec.runtime != "",
            "network": spec.network != self.network,
        }
        for key, asked in refused.items():
            if asked:
                raise SandboxFailed(
                    f"a process sandbox has no {key} of its own: leave {key} out, or choose another provider"
                )
        user_of(spec)
        argv = self.argv(spec)
        if spec.port is None and PORT in " ".join((*argv, *spec.env.values())):
            raise SandboxFailed(f"the command has {PORT}, and the spec has no port: set port, whatever its number")

    def argv(self, spec: SandboxSpec) -> Sequence[str]:
        """The words of the command."""
        return (*(spec.entrypoint or ()), *(spec.command or ())) or self.default

    def job(self, plan: SandboxPlan, name: str, workspace: Path, group: GroupJson) -> Job:
        """What the keeper of a sandbox of this name is to run. Nothing of the daemon's own environment is in it."""
        spec = plan.spec
        usual = {"PATH": _PATH, "LANG": "C.UTF-8", "HOME": str(workspace)}
        env = {**usual, **_filled(plan.env, workspace), MARKER: name}
        argv = [word.replace(WORKSPACE, str(workspace)) for word in self.argv(spec)]
        cwd = spec.working_dir or str(workspace)
        limits = Limits(spec.memory, spec.cpus, spec.pids_limit)
        return Job(argv, env, cwd, user_of(spec), spec.port is not None, group, limits)


def user_of(spec: SandboxSpec) -> tuple[int, int] | None:
    """The uid and gid that a spec asks for, None if it asks for nothing. Of "UID" alone the group has the same number.

    Raises:
        SandboxFailed: it is a name, or only root could do that.
    """
    if spec.user is None:
        return None
    numbers = _USER.fullmatch(spec.user)
    if numbers is None:
        raise SandboxFailed(f"a process sandbox has no users of its own: give user {spec.user!r} by numbers, UID:GID")
    if os.geteuid() != 0:
        raise SandboxFailed("only a daemon that runs as root can give a process sandbox a user: leave user out")
    return int(numbers[1]), int(numbers[2] or numbers[1])


def program_of(argv: Sequence[str]) -> str:
    """What people call that which a command runs: its program, or the module that Python runs."""
    program = Path(argv[0]).name
    if program.startswith("python") and len(argv) > 2 and argv[1] == "-m":  # noqa: PLR2004 - python -m MODULE
        return argv[2]
    return program


def _filled(env: Mapping[str, str], workspace: Path) -> dict[str, str]:
    return {key: value.replace(WORKSPACE, str(workspace)) for key, value in env.items()}
