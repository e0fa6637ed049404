"""The keeper of one sandbox: a small process that outlives the daemon, because only a parent learns how a command ends.

It starts the command, keeps the port reserved, copies the output, reaps, and when the command ends it writes down how,
ends what is left of the tree as a pid namespace would, and goes. It is asked nothing: whoever wants the sandbox paused
or ended does that to its processes. For as long as it lives it holds the lock of the sandbox's directory.
"""

import fcntl
import json
import os
import select
import signal
import socket
import sys
from contextlib import suppress
from typing import Final

from supervisor.sandbox.process.birth import Child, Job, Stillborn, become_reaper, conceive, load_job
from supervisor.sandbox.process.groups import Group, group_of
from supervisor.sandbox.process.output import BoundedLog
from supervisor.sandbox.process.proc import identify
from supervisor.sandbox.process.records import (
    KILLED,
    LOCK,
    Ended,
    Running,
    forget_run,
    write_ended,
    write_running,
)
from supervisor.sandbox.process.trees import StillThere, descendants, end

STARTED: Final = "started"
TAKEN: Final = "taken"
FAILED: Final = "failed"
TROUBLED: Final = "troubled"
"""What it tells who started it, in one line of JSON: the word, and for the last two an exit code and a message."""

_CHUNK: Final = 64 * 1024
_SIGNALS: Final = (signal.SIGCHLD, signal.SIGTERM)
_IGNORED: Final = (signal.SIGHUP, signal.SIGINT)
_LOOK_AGAIN: Final = 20  # milliseconds


def main(directory: str) -> int:
    """Keep the sandbox of this directory until it ends."""
    if os.fork():
        os._exit(0)  # nobody waits for us but the host's init
    job = load_job(sys.stdin.buffer)
    if job is None:
        return 1
    lock = os.open(f"{directory}/{LOCK}", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _tell(TAKEN)
        return 0
    try:
        Keeper(directory, job).keep()
    except OSError as error:
        _tell(TROUBLED, 0, str(error))
        return 1
    return 0


class Keeper:
    """One run of one sandbox."""

    def __init__(self, directory: str, job: Job) -> None:
        become_reaper()
        forget_run(directory)
        self._directory = directory
        self._reserved = _reserve_port() if job.wants_port else None
        self._port: int | None = self._reserved.getsockname()[1] if self._reserved is not None else None
        self._job = job if self._port is None else job.at_port(self._port)
        self._log = BoundedLog(directory)
        self._wakes = _listen_to_signals()
        self._group: Group = group_of(job.group, directory, identify(os.getpid()), None)
        self._group.make(job.limits)

    def keep(self) -> None:
        """Start the command, and stay with it to its end and that of its tree."""
        output, writes = os.pipe()
        child = conceive(self._job, self._group, writes)
        os.close(writes)
        stillborn = self._release(child)
        if stillborn is not None:
            self._bury(stillborn)
            return
        _tell(STARTED)
        status = self._attend(child.pid, output)
        self._note_end(os.waitstatus_to_exitcode(status))
        self._end_the_rest()
        self._drain(output)
        self._group.remove()

    def _release(self, child: Child) -> Stillborn | None:
        """Let the child run the command, once it is written down."""
        ourselves, main_process = identify(os.getpid()), identify(child.pid)
        if ourselves is None or main_process is None:
            return Stillborn(KILLED, "it was killed before its command ran")
        write_running(self._directory, Running(ourselves, main_process, self._port))
        return child.release()

    def _bury(self, stillborn: Stillborn) -> None:
        self._log.write(f"{stillborn.message}\n".encode())
        write_ended(self._directory, Ended(stillborn.exit_code, oom_killed=False, message=stillborn.message))
        self._end_the_rest()
        self._group.remove()
        _tell(FAILED, stillborn.exit_code, stillborn.message)

    def _attend(self, main_pid: int, output: int) -> int:
        """Copy output, pass signals on and reap until the command has ended; answers with its wait status."""
        poll = select.poll()
        poll.register(self._wakes, select.POLLIN)
        poll.register(output, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if output in ready and not self._copy(output):
                poll.unregister(output)
            if self._wakes in ready:
                if signal.SIGTERM in os.read(self._wakes, _CHUNK):
                    os.kill(main_pid, signal.SIGTERM)  # not reaped, so its pid is its own
                ended = dict(_reap())
                if main_pid in ended:
                    return ended[main_pid]

    def _copy(self, output: int) -> bool:
        chunk = os.read(output, _CHUNK)
        self._log.write(chunk)
        return bool(chunk)

    def _note_end(self, code: int) -> None:
        exit_code = code if code >= 0 else 128 - code
        killed_for_memory = exit_code == KILLED and self._group.oom_kills() > 0
        with suppress(OSError):  # on a full disk its end is known to have come, if not how
            write_ended(self._directory, Ended(exit_code, killed_for_memory, ""))

    def _end_the_rest(self) -> None:
        """End everybody in the group, and those that have left it: all orphans come to us sooner or later."""
        poll = select.poll()
        poll.register(self._wakes, select.POLLIN)
        while True:
            with suppress(StillThere):
                self._group.kill()
            if _is_childless():
                return
            with suppress(StillThere):
                end(lambda: descendants(os.getpid()))
            if poll.poll(_LOOK_AGAIN):
                os.read(self._wakes, _CHUNK)

    def _drain(self, output: int) -> None:
        os.set_blocking(output, False)
        with suppress(BlockingIOError):
            while self._copy(output):
                pass


def _reserve_port() -> socket.socket:
    """A loopback port that the kernel gives to nobody who asks for any: bound, never listening, and to be kept open.

    A server that sets SO_REUSEADDR, as they all do, may bind it beside us and listen.
    """
    reserved = socket.socket()
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.bind(("127.0.0.1", 0))
    return reserved


def _listen_to_signals() -> int:
    """A descriptor that has the number of each signal that comes."""
    wakes, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    for number in _SIGNALS:
        signal.signal(number, lambda *_: None)
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    return wakes


def _reap() -> list[tuple[int, int]]:
    reaped = []
    with suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            reaped.append(found)
    return reaped


def _is_childless() -> bool:
    _reap()
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _tell(word: str, exit_code: int = 0, message: str = "") -> None:
    """Tell who started us, if they still listen; and let go of them."""
    with suppress(OSError):
        os.write(1, json.dumps([word, exit_code, message]).encode())
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
