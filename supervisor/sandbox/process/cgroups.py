"""Control groups of the kernel, version 1 and 2: one of our own for each sandbox, where this user may make them.

Nothing here knows more of a group than its directories: they are written down with the sandbox, and found again.
"""

import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

from supervisor.sandbox.process.trees import StillThere, signal_all, until

_PERIOD: Final = 100_000
"""Microseconds in which a CPU quota is spent."""


class Limits(NamedTuple):
    """What a sandbox may use at most: bytes, cores, and processes with their threads."""

    memory: int
    cpus: float
    pids: int


class Cgroup1:
    """A group in the hierarchies of version 1: `directories` by controller, `freezer` always among them."""

    def __init__(self, directories: Mapping[str, str]) -> None:
        self.directories = dict(directories)
        self._freezer = self.directories["freezer"]

    def make(self, limits: Limits) -> None:
        """Make it with its limits; it may be there already, empty."""
        for directory in self.directories.values():
            os.makedirs(directory, exist_ok=True)
        for controller, file, value in (
            ("memory", "memory.limit_in_bytes", limits.memory),
            ("memory", "memory.memsw.limit_in_bytes", limits.memory),
            ("pids", "pids.max", limits.pids),
            ("cpu", "cpu.cfs_period_us", _PERIOD),
            ("cpu", "cpu.cfs_quota_us", _quota(limits)),
        ):
            if controller in self.directories:
                _write_setting(self.directories[controller], file, str(value))

    def enter(self) -> None:
        """Take the calling process into it."""
        for directory in self.directories.values():
            _write(directory, "cgroup.procs", "0")

    def members(self) -> set[int]:
        """Who is in it, or below it."""
        return {pid for directory in self.directories.values() for pid in _members(directory)}

    def freeze(self) -> None:
        """Freeze everybody in it; returns when nobody moves.

        Raises:
            StillThere: somebody still does.
        """
        _write(self._freezer, "freezer.state", "FROZEN")
        until(lambda: _read(self._freezer, "freezer.state") == "FROZEN", "not all of it is frozen")

    def thaw(self) -> None:
        """Let everybody go on."""
        with suppress(FileNotFoundError):
            _write(self._freezer, "freezer.state", "THAWED")

    def is_frozen(self) -> bool:
        """Whether it is frozen, or about to be."""
        return _read(self._freezer, "freezer.state") in ("FROZEN", "FREEZING")

    def kill(self) -> None:
        """End everybody in it; returns when it is empty.

        Raises:
            StillThere: somebody is left.
        """

        def emptied() -> bool:
            signal_all(self.members, signal.SIGKILL)
            self.thaw()  # what is frozen hears of it only now
            return not self.members()

        until(emptied, "not all of it has ended")

    def oom_kills(self) -> int:
        """How many processes the kernel has ended in it for want of memory."""
        return _counter(self.directories.get("memory"), "memory.oom_control")

    def remove(self) -> None:
        """Remove it; nobody may be left in it."""
        _remove(self.directories.values())


class Cgroup2:
    """A group in the one hierarchy of version 2."""

    def __init__(self, directory: str) -> None:
        self.directory = directory

    def make(self, limits: Limits) -> None:
        """Make it with its limits; it may be there already, empty."""
        os.makedirs(self.directory, exist_ok=True)
        for file, value in (
            ("memory.max", str(limits.memory)),
            ("memory.swap.max", "0"),
            ("pids.max", str(limits.pids)),
            ("cpu.max", f"{_quota(limits)} {_PERIOD}"),
        ):
            _write_setting(self.directory, file, value)

    def enter(self) -> None:
        """Take the calling process into it."""
        _write(self.directory, "cgroup.procs", "0")

    def members(self) -> set[int]:
        """Who is in it, or below it."""
        return set(_members(self.directory))

    def freeze(self) -> None:
        """Freeze everybody in it; returns when nobody moves.

        Raises:
            StillThere: somebody still does.
        """
        _write(self.directory, "cgroup.freeze", "1")
        until(lambda: "frozen 1" in _read(self.directory, "cgroup.events"), "not all of it is frozen")

    def thaw(self) -> None:
        """Let everybody go on."""
        with suppress(FileNotFoundError):
            _write(self.directory, "cgroup.freeze", "0")

    def is_frozen(self) -> bool:
        """Whether it is frozen, or about to be."""
        return _read(self.directory, "cgroup.freeze") == "1"

    def kill(self) -> None:
        """End everybody in it, frozen or not; returns when it is empty.

        Raises:
            StillThere: somebody is left.
        """

        def emptied() -> bool:
            # The kernel has "cgroup.kill" since 5.14. Frozen processes of this version are ended as they are.
            try:
                _write(self.directory, "cgroup.kill", "1")
            except FileNotFoundError:
                signal_all(self.members, signal.SIGKILL)
            return not self.members()

        until(emptied, "not all of it has ended")

    def oom_kills(self) -> int:
        """How many processes the kernel has ended in it for want of memory."""
        return _counter(self.directory, "memory.events")

    def remove(self) -> None:
        """Remove it; nobody may be left in it."""
        _remove([self.directory])


def _quota(limits: Limits) -> int:
    return max(int(limits.cpus * _PERIOD), 1000)  # the kernel's least


def _write(directory: str, file: str, value: str) -> None:
    # Never made: a file that is not there is a setting that this kernel does not have.
    descriptor = os.open(f"{directory}/{file}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _write_setting(directory: str, file: str, value: str) -> None:
    with suppress(FileNotFoundError):
        _write(directory, file, value)


def _read(directory: str, file: str) -> str:
    """What a file of it says; "" if it is gone."""
    try:
        with open(f"{directory}/{file}", encoding="ascii") as opened:
            return opened.read().strip()
    except OSError:
        return ""


def _counter(directory: str | None, file: str) -> int:
    for line in _read(directory, file).splitlines() if directory else ():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return 0


def _members(directory: str) -> Iterator[int]:
    for path, _, _ in os.walk(directory):
        # 0 is who is in another pid namespace than we are.
        yield from (int(pid) for pid in _read(path, "cgroup.procs").split() if pid != "0")


def _remove(directories: Iterable[str]) -> None:
    def removed(directory: str) -> bool:
        try:
            for path, _, _ in os.walk(directory, topdown=False):
                with suppress(FileNotFoundError):
                    os.rmdir(path)
        except OSError:  # the kernel takes a moment after the last one has ended
            return False
        return True

    for directory in directories:
        with suppress(StillThere):
            until(partial(removed, directory), f"{directory} is not empty", 1.0)
