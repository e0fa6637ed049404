"""What the kernel tells of processes: who one is beyond its pid, and how that one is signalled and no other."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Final, NamedTuple

ENDED: Final = frozenset("ZX")
STOPPED: Final = frozenset("Tt") | ENDED

_BOOT_ID: Final = "/proc/sys/kernel/random/boot_id"
_HIDDEN: Final = (
    "this host hides it: under systemd install the drop-in for process sandboxes, which has ProcSubset=all for it"
)
_STATE, _PARENT, _START = 0, 1, 19  # of what follows the name in /proc/PID/stat, which proc(5) counts from 3


class Identity(NamedTuple):
    """A process that no other can be taken for: its pid, its start in clock ticks since the boot, and which boot."""

    pid: int
    start: int
    boot: str


class Process(NamedTuple):
    """A process as it is now. `state` is the kernel's letter."""

    pid: int
    parent: int
    state: str
    start: int


@cache
def boot_id() -> str:
    """The id of this boot of the host.

    Raises:
        OSError: we cannot see it.
    """
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError as error:
        raise FileNotFoundError(error.errno, _HIDDEN, _BOOT_ID) from error


def read_process(pid: int) -> Process | None:
    """Look at one process; None if there is none of this pid."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            content = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name stands in parentheses, and may have some of its own.
    fields = content[content.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[_PARENT]), fields[_STATE].decode(), int(fields[_START]))


def identify(pid: int) -> Identity | None:
    """Who has this pid now; None if nobody has."""
    process = read_process(pid)
    return None if process is None else Identity(pid, process.start, boot_id())


def lives(identity: Identity) -> bool:
    """Whether this very process runs; one that has ended and waits for its parent does not."""
    process = read_process(identity.pid)
    return (
        process is not None
        and process.start == identity.start
        and process.state not in ENDED
        and boot_id() == identity.boot
    )


def processes() -> Iterator[Process]:
    """All of the host that this user may see."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = read_process(int(name))
            if process is not None:
                yield process


def task_states(pid: int) -> set[str]:
    """The states of a process's threads; none if it is gone."""
    states = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with suppress(FileNotFoundError, ProcessLookupError), open(f"/proc/{pid}/task/{task}/stat", "rb") as file:
                content = file.read()
                states.add(chr(content[content.rindex(b")") + 2]))
    return states


@contextmanager
def opened(identity: Identity) -> Iterator[int | None]:
    """A pidfd of this very process for as long as the context lasts; None if it has ended."""
    pidfd = open_pidfd(identity)
    try:
        yield pidfd
    finally:
        if pidfd is not None:
            os.close(pidfd)


def open_pidfd(identity: Identity) -> int | None:
    """A pidfd of this very process; None if it has ended. Whoever gets it closes it."""
    try:
        pidfd = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    # Looked at while the pidfd holds it: from here on the pid can belong to nobody else unseen.
    if lives(identity):
        return pidfd
    os.close(pidfd)
    return None


def send(identity: Identity, number: signal.Signals) -> None:
    """Signal this very process, or nobody."""
    with opened(identity) as pidfd:
        if pidfd is not None:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, number)
