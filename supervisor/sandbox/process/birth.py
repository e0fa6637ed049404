"""How a sandbox's command comes to be: a child waits until it is written down, makes itself ready, and is replaced."""

import ctypes
import json
import os
import resource
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import BinaryIO, Final, NamedTuple, NoReturn

from supervisor.sandbox.process.cgroups import Limits
from supervisor.sandbox.process.groups import Group, GroupJson

NOT_FOUND: Final = 127
NOT_EXECUTABLE: Final = 126
PORT: Final = "{port}"
"""Where a command, or a variable of its environment, gets the port that was reserved for it."""

_NO_NEW_PRIVS: Final = 38
_CHILD_SUBREAPER: Final = 36
_GO: Final = b"!"
_UMASK: Final = 0o022
_LIBC: Final = ctypes.CDLL(None, use_errno=True)


class Job(NamedTuple):
    """What a keeper is to run, as it comes through a pipe: nobody else can read its secrets there.

    `user` is uid and gid, None to stay who we are. `wants_port` has a port reserved.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: str
    user: Sequence[int] | None
    wants_port: bool
    group: GroupJson
    limits: Limits

    def dump(self) -> bytes:
        """As it is sent."""
        return json.dumps(self._asdict()).encode()

    def at_port(self, port: int) -> "Job":
        """The same with the port where it is asked for."""
        argv = [word.replace(PORT, str(port)) for word in self.argv]
        return self._replace(argv=argv, env={key: word.replace(PORT, str(port)) for key, word in self.env.items()})


class Stillborn(NamedTuple):
    """Why a command could not be run: the code that a shell gives for it, and words."""

    exit_code: int
    message: str


class Child(NamedTuple):
    """A child that waits for our word. `told` is where it says that it could not run the command."""

    pid: int
    go: int
    told: int

    def release(self) -> Stillborn | None:
        """Let it run the command; answers when that runs, or cannot be run."""
        os.write(self.go, _GO)
        os.close(self.go)
        with open(self.told, "rb") as told:
            words = told.read()
        return Stillborn(*json.loads(words)) if words else None


def load_job(stream: BinaryIO) -> Job | None:
    """The job as it was sent; None if who sent it died over it."""
    try:
        job = Job(**json.load(stream))
    except ValueError:
        return None
    return job._replace(limits=Limits(*job.limits))


def become_reaper() -> None:
    """From now on orphans among our descendants are our children."""
    _control(_CHILD_SUBREAPER)


def conceive(job: Job, group: Group, output: int) -> Child:
    """Make the child. Until it is released it is nothing, and when we die it is gone."""
    waits, go = os.pipe()
    told, tells = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(go)
        os.close(told)
        _be_born(job, group, output, waits, tells)
    os.close(waits)
    os.close(tells)
    return Child(pid, go, told)


def _be_born(job: Job, group: Group, output: int, waits: int, tells: int) -> NoReturn:
    signal.set_wakeup_fd(-1)
    if os.read(waits, 1) != _GO:
        os._exit(NOT_EXECUTABLE)
    try:
        _prepare(job, group, output)
        _enter_directory(job.cwd)
        _replace_by(job)
    except _CannotRunError as error:
        os.write(tells, json.dumps(error.stillborn).encode())
    except OSError as error:
        os.write(tells, json.dumps(Stillborn(NOT_EXECUTABLE, f"cannot be confined: {error}")).encode())
    finally:
        os._exit(NOT_EXECUTABLE)


def _prepare(job: Job, group: Group, output: int) -> None:
    os.setsid()
    group.enter()
    _be_no_better_than_others()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(_UMASK)
    if job.user is not None:
        uid, gid = job.user
        os.setgroups([gid])
        os.setgid(gid)
        os.setuid(uid)
    _control(_NO_NEW_PRIVS)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    for descriptor, ours in ((os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0), (output, 1), (output, 2)):
        os.dup2(descriptor, ours)


def _be_no_better_than_others() -> None:
    """The daemon may be spared by the kernel's OOM killer: what it starts is not."""
    with suppress(OSError), open("/proc/self/oom_score_adj", "r+", encoding="ascii") as score:
        if int(score.read()) < 0:
            score.seek(0)
            score.write("0")


class _CannotRunError(Exception):
    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(message)
        self.stillborn = Stillborn(exit_code, message)


def _enter_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise _CannotRunError(NOT_FOUND, f"its working directory {path}: {error.strerror}") from error


def _replace_by(job: Job) -> NoReturn:
    program = job.argv[0]
    try:
        os.execvpe(program, list(job.argv), job.env)  # noqa: S606 - there is to be no shell
    except FileNotFoundError as error:
        words = f"its command {program} was not found, or what its first line names"
        raise _CannotRunError(NOT_FOUND, words) from error
    except OSError as error:
        raise _CannotRunError(NOT_EXECUTABLE, f"its command {program} is not executable: {error.strerror}") from error


def _control(option: int) -> None:
    """Switch on what prctl(2) knows by this number, for ourselves."""
    if _LIBC.prctl(option, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
