"""A control group that has little memory, of either version of the kernel's interface, and what was met in it."""

import shlex
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import attrs

from tests.engine_host import NoEngine, root_prefix, run_as_root

_REMOVED_WITHIN: Final = 10.0
_LOOK_AGAIN_AFTER: Final = 0.1


@attrs.frozen
class _Version:
    """The kernel's words: the file of the limit, and where it counts how often the limit was met and who was ended."""

    limit: str
    met: tuple[str, str]
    ended: tuple[str, str]


_VERSION_1: Final = _Version("memory.limit_in_bytes", ("memory.failcnt", ""), ("memory.oom_control", "oom_kill"))
_VERSION_2: Final = _Version("memory.max", ("memory.events", "max"), ("memory.events", "oom_kill"))


@attrs.frozen
class MemoryGroup:
    """One that is there for as long as the context of `memory_group` lasts."""

    directory: Path
    _version: _Version

    @property
    def prefix(self) -> Sequence[str]:
        """The command that runs another one in it, as whoever we are."""
        enter = shlex.join([*root_prefix(), "tee", str(self.directory / "cgroup.procs")])
        return "sh", "-c", f'echo $$ | {enter} >/dev/null && exec "$@"', "sh"

    @property
    def times_met(self) -> int:
        """How often somebody in it asked for more than there was, so that the kernel had to find some."""
        return self._count(*self._version.met)

    @property
    def ended(self) -> int:
        """How many processes the kernel has ended in it because it found none."""
        return self._count(*self._version.ended)

    def _count(self, file: str, name: str) -> int:
        lines = (self.directory / file).read_text().splitlines()
        return next((int(line.removeprefix(name)) for line in lines if line.rpartition(" ")[0] == name), 0)


@contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup]:
    """Make one for so many bytes; nobody may be left in it at the end.

    Raises:
        NoEngine: there is no memory controller, or we may not.
    """
    top, version = _memory_controller()
    group = MemoryGroup(top / f"conversationd-torture-{uuid.uuid4().hex[:12]}", version)
    run_as_root(["mkdir", str(group.directory)])
    try:
        run_as_root(["sh", "-c", f"echo {limit} >{group.directory / version.limit}"])
        yield group
    finally:
        _remove(group.directory)


def _memory_controller() -> tuple[Path, _Version]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup" and "memory" in options.split(","):
            return Path(where), _VERSION_1
        if kind == "cgroup2" and "memory" in (Path(where) / "cgroup.subtree_control").read_text().split():
            return Path(where), _VERSION_2
    raise NoEngine(
        "the kernel's memory controller is not to be had here: what a sandbox takes could not be bounded either"
    )


def _remove(directory: Path) -> None:
    """The kernel takes a moment after the last one in it has ended."""
    deadline = time.monotonic() + _REMOVED_WITHIN
    while (directory / "cgroup.procs").read_text() and time.monotonic() < deadline:
        time.sleep(_LOOK_AGAIN_AFTER)
    run_as_root(["rmdir", str(directory)])
