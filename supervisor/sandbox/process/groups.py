"""What keeps the processes of one sandbox together: a control group, or nothing but their descent.

`Group` is what both have in common, and `group_of` finds a sandbox's group again by what was written down of it.
"""

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Protocol, TypeAlias

from supervisor.sandbox.process.cgroups import Cgroup1, Cgroup2, Limits
from supervisor.sandbox.process.proc import Identity, lives
from supervisor.sandbox.process.trees import Finder, descendants, end, halt, release, survivors

GroupJson: TypeAlias = Mapping[str, str]
"""A group as it is written down: a directory for each controller, or one under `unified`; none for `Loose`."""

MARKER: Final = "CONVERSATIOND_SANDBOX"
"""The environment variable with the sandbox's name: by it those are found that nothing else holds together."""

_UNIFIED: Final = "unified"
_HALTED: Final = "paused"


class Group(Protocol):
    """The processes of one sandbox. What cannot be brought about raises `trees.StillThere`."""

    def make(self, limits: Limits) -> None:
        """Make ready for processes, with these limits where there are any."""

    def enter(self) -> None:
        """Take the calling process in."""

    def freeze(self) -> None:
        """Freeze everybody; returns when nobody moves."""

    def thaw(self) -> None:
        """Let everybody go on."""

    def is_frozen(self) -> bool:
        """Whether it is frozen, or was to be."""

    def members(self) -> set[int]:
        """Who is in it now."""

    def kill(self) -> None:
        """End everybody, frozen or not; returns when nobody is left."""

    def oom_kills(self) -> int:
        """How many were ended for want of memory, as far as that can be known."""

    def remove(self) -> None:
        """Leave nothing of it behind; nobody may be left in it."""


class Loose:
    """Processes without a control group: those that descend from a keeper, or carry the sandbox's marker.

    There are no limits. That it is frozen is a file in the sandbox's directory, written before anybody is stopped.
    """

    def __init__(self, directory: str, find: Finder) -> None:
        self._halted = f"{directory}/{_HALTED}"
        self.members = find

    def make(self, limits: Limits) -> None:  # noqa: ARG002 - nobody could keep them
        """Nothing to make, and no limits."""
        self.remove()

    def enter(self) -> None:
        """Nothing to enter."""

    def freeze(self) -> None:
        """Stop everybody by SIGSTOP."""
        os.close(os.open(self._halted, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        halt(self.members)

    def thaw(self) -> None:
        """Let everybody go on by SIGCONT."""
        release(self.members)
        self.remove()

    def is_frozen(self) -> bool:
        """Whether the file is there."""
        return os.path.exists(self._halted)

    def kill(self) -> None:
        """Stop everybody, then end them."""
        end(self.members)

    def oom_kills(self) -> int:
        """Nobody tells."""
        return 0

    def remove(self) -> None:
        """Remove the file."""
        with suppress(FileNotFoundError):
            os.unlink(self._halted)


def group_of(written: GroupJson, directory: str, keeper: Identity | None, main: Identity | None) -> Group:
    """The group of a sandbox by what was written down of it. Without a living keeper its processes are searched for."""
    if _UNIFIED in written:
        return Cgroup2(written[_UNIFIED])
    if written:
        return Cgroup1(written)
    marker = f"{MARKER}={os.path.basename(directory)}".encode()

    def find() -> set[int]:
        found = descendants(keeper.pid) if keeper is not None else set()
        # Asked afterwards: if it lives now, nobody else had its pid before.
        return found if keeper is not None and lives(keeper) else survivors(main, marker)

    return Loose(directory, find)
