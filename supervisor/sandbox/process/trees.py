"""Sets of processes that may grow as they are looked at: how all of one are signalled, halted and ended.

A finder says who belongs to the set now. It is asked again and again until nothing is left to do: what forks while it
is looked for is found the next time.
"""

import os
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final, TypeAlias

from supervisor.sandbox.process.proc import ENDED, STOPPED, Identity, Process, lives, processes, task_states

Finder: TypeAlias = Callable[[], set[int]]

_MOST: Final = 10.0
_PAUSE_FIRST: Final = 0.0005
_PAUSE_MOST: Final = 0.02


class StillThere(Exception):
    """Not everything has come to where it was to be; the message says what has not."""


def until(done: Callable[[], bool], what: str, most: float = _MOST) -> None:
    """Look until something is so, often at first.

    Raises:
        StillThere: it is not after `most` seconds.
    """
    deadline, pause = time.monotonic() + most, _PAUSE_FIRST
    while not done():
        if time.monotonic() > deadline:
            raise StillThere(f"{what} after {most:g} s")
        time.sleep(pause)
        pause = min(2 * pause, _PAUSE_MOST)


def descendants(root: int) -> set[int]:
    """Who descends from a process, which is not one of them; the ended ones are left out."""
    return _below({root}, {process.pid: process for process in processes()})


def survivors(main: Identity | None, marker: bytes) -> set[int]:
    """Who is left of a tree without its root: those that carry its marker in their environment, and their descendants.

    `main` is the process that began the tree.
    """
    table = {process.pid: process for process in processes()}
    roots = {pid for pid in table if _carries(pid, marker)}
    if main is not None and main.pid in table and lives(main):
        roots.add(main.pid)
    return {pid for pid in roots if _is_alive(table[pid])} | _below(roots, table)


def signal_all(find: Finder, number: signal.Signals) -> None:
    """Signal everybody that is found, and nobody else."""
    held: dict[int, int] = {}
    try:
        for pid in find():
            with suppress(ProcessLookupError):
                held[pid] = os.pidfd_open(pid)
        # Found again while we hold them: whoever has one of these pids now is the one that is held.
        for pid in find() & set(held):
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(held[pid], number)
    finally:
        for pidfd in held.values():
            os.close(pidfd)


def halt(find: Finder) -> None:
    """Stop everybody where they are, and return when nobody moves.

    Raises:
        StillThere: somebody could not be stopped.
    """

    def halted() -> bool:
        moving = moving_of(find())
        if moving:
            signal_all(lambda: moving_of(find()), signal.SIGSTOP)
        return not moving

    until(halted, "not all of it could be stopped")


def release(find: Finder) -> None:
    """Let everybody go on."""

    def released() -> bool:
        stopped = {pid for pid in find() if "T" in task_states(pid)}
        if stopped:
            signal_all(find, signal.SIGCONT)
        return not stopped

    until(released, "not all of it goes on")


def end(find: Finder) -> None:
    """End everybody, and return when nobody is left. Halted first, so that nobody outruns us.

    Raises:
        StillThere: somebody could not be ended.
    """

    def ended() -> bool:
        if not find():
            return True
        with suppress(StillThere):
            halt(find)
        signal_all(find, signal.SIGKILL)
        return False

    until(ended, "not all of it could be ended")


def moving_of(pids: Iterable[int]) -> set[int]:
    """Those of them that are not stopped, down to the last thread."""
    return {pid for pid in pids if task_states(pid) - STOPPED}


def _below(roots: set[int], table: Mapping[int, Process]) -> set[int]:
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: set[int] = set()
    waiting = [child for root in roots for child in children.get(root, ())]
    while waiting:
        pid = waiting.pop()
        if pid not in found:
            found.add(pid)
            waiting += children.get(pid, ())
    return {pid for pid in found if _is_alive(table[pid])}


def _is_alive(process: Process) -> bool:
    # A process lives on when its first thread ends before the others.
    return process.state not in ENDED or bool(task_states(process.pid) - ENDED)


def _carries(pid: int, marker: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return marker in file.read().split(b"\0")
    except OSError:  # gone, or somebody else's
        return False
