"""`conversationctl` as a process of its own, behind pipes or on a terminal."""

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import attrs

from tests.cli.daemons import PATIENCE

_ROOT: Final = Path(__file__).parents[2]
_PROGRAM: Final = (sys.executable, "-m", "supervisor.cli.conversationctl")


@attrs.define
class Program:
    """A process whose output is read as it comes. `screen` is everything so far."""

    process: subprocess.Popen[bytes]
    _fd: int
    screen: str = ""

    def until(self, text: str, *, again: bool = False) -> None:
        """Read until the text has come, or has come again; it has to within the deadline."""
        deadline = time.monotonic() + PATIENCE
        begin = len(self.screen) if again else 0
        while text not in self.screen[begin:]:
            assert select.select([self._fd], [], [], deadline - time.monotonic())[0], f"no {text!r} in {self.screen!r}"
            chunk = self._read()
            assert chunk, f"it ended without {text!r}: {self.screen!r}"
            self.screen += chunk

    def finish(self) -> int:
        """Read to the end and wait for the exit code."""
        while chunk := self._read():
            self.screen += chunk
        return self.process.wait(PATIENCE)

    def press_ctrl_c(self) -> None:
        """Interrupt it, as a terminal does."""
        self.process.send_signal(signal.SIGINT)

    def _read(self) -> str:
        try:
            return os.read(self._fd, 65536).decode(errors="replace")
        except OSError:  # a terminal's other side has gone
            return ""


@contextmanager
def piped(*words: str) -> Iterator[Program]:
    """Run it with standard output and error in one pipe."""
    ours, theirs = os.pipe()
    with _running(ours, theirs, words) as program:
        yield program


@contextmanager
def on_terminal(*words: str, width: int = 80, height: int = 24) -> Iterator[Program]:
    """Run it on a terminal of this size."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    with _running(ours, theirs, words) as program:
        yield program


@contextmanager
def _running(ours: int, theirs: int, words: tuple[str, ...]) -> Iterator[Program]:
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    process = subprocess.Popen(
        [*_PROGRAM, *words], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=environment, cwd=_ROOT
    )
    os.close(theirs)
    try:
        yield Program(process, ours)
    finally:
        process.kill()
        process.wait(PATIENCE)
        os.close(ours)


def without_reader(*words: str, of: str = "stdout") -> tuple[int, bytes]:
    """Run it with standard output or error that nobody reads; what it says on the other one."""
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "wb") as nobody:
        if of == "stdout":
            return _run_to_end(words, stdout=nobody, stderr=subprocess.PIPE)
        return _run_to_end(words, stdout=subprocess.PIPE, stderr=nobody)


def with_full_disk(*words: str) -> tuple[int, bytes]:
    """Run it with a standard output that takes nothing; what it says on standard error."""
    with Path("/dev/full").open("wb") as full:
        return _run_to_end(words, stdout=full, stderr=subprocess.PIPE)


def _run_to_end(words: tuple[str, ...], *, stdout: int | IO[bytes], stderr: int | IO[bytes]) -> tuple[int, bytes]:
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    command = [*_PROGRAM, *words]
    ran = subprocess.run(
        command, stdout=stdout, stderr=stderr, env=environment, cwd=_ROOT, timeout=PATIENCE, check=False
    )
    return ran.returncode, (ran.stdout or b"") + (ran.stderr or b"")
