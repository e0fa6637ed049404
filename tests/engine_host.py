"""A Docker Engine for tests and for the demo: one that answers, or Debian's, started for us and ended at the end.

Usable without pytest: `with running_engine() as base_url: ...`.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

DEFAULT_ENGINE: Final = "unix:///var/run/docker.sock"
PACKAGES: Final = ("docker.io", "iptables")
ENGINE_DIRECTORY: Final = "conversationd-engine-"
"""What the directories of an engine of our own begin with."""

_ANSWER_WITHIN: Final = 5
_START_WITHIN: Final = 60.0
_STOP_WITHIN: Final = 60.0
_PATH: Final = os.pathsep.join(
    (os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")
)
_UNFIT_FILESYSTEMS: Final = ("overlay", "tmpfs", "ramfs")
_POLICY: Final = Path("/usr/sbin/policy-rc.d")
_HOLD_NETWORK: Final = """
import fcntl, os, socket, struct, sys
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP))
print(os.getpid(), flush=True)
sys.stdin.read()
"""


class NoEngine(Exception):
    """No Docker Engine can be had; the message says what is missing."""


def find_engine() -> str | None:
    """The base URL of a Docker Engine that answers: `$DOCKER_HOST`'s or this host's own; None if there is none."""
    candidates = (os.environ.get("DOCKER_HOST"), DEFAULT_ENGINE)
    return next((url for url in candidates if url and answers(url)), None)


def answers(base_url: str) -> bool:
    """Whether a Docker Engine answers there."""
    if not listens(base_url):
        return False
    try:
        client = docker.APIClient(base_url=base_url, version="auto", timeout=_ANSWER_WITHIN)
    except (DockerException, RequestException, OSError, ValueError):
        return False
    client.close()
    return True


def listens(base_url: str) -> bool:
    """Whether a Unix socket accepts: docker-py would leave one that does not to the garbage collector."""
    if not base_url.startswith("unix://"):
        return True
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(base_url.removeprefix("unix://")) == 0


def install_engine() -> None:
    """Install Debian's Docker Engine unless there is one; nothing is started.

    Raises:
        NoEngine: it cannot be installed.
    """
    if shutil.which("dockerd", path=_PATH):
        return
    if not shutil.which("apt-get", path=_PATH):
        raise NoEngine("no Docker Engine answers, none is installed, and without apt-get none can be: install Docker")
    with _no_services_started():
        run_as_root(["apt-get", "update", "-q"])
        run_as_root(["apt-get", "install", "-q", "-y", "--no-install-recommends", *PACKAGES])


@contextmanager
def running_engine() -> Iterator[str]:
    """The base URL of an engine: one that answers and is left as it is, else our own, which ends with the context.

    Raises:
        NoEngine: there is none and none can be started.
    """
    found = find_engine()
    if found is not None:
        yield found
        return
    install_engine()
    with _private_engine([], []) as engine:
        yield engine.base_url


@contextmanager
def isolated_engine() -> Iterator["PrivateEngine"]:
    """An engine that a test may stop and start beside another one: in a network namespace of its own, without networks.

    Never give the host's namespace to an engine that has no bridge: it removes docker0, whoever uses it.
    """
    with _private_engine(["unshare", "--net"], ["--bridge=none", "--iptables=false", "--ip-masq=false"]) as engine:
        yield engine


@contextmanager
def networked_engine() -> Iterator["PrivateEngine"]:
    """An engine that a test may kill and start again beside another one, whole, with a bridge of its own.

    Its network namespace outlives it, so that what lives on while it is away keeps its network. What is left on it at
    the end is removed.
    """
    install_engine()
    with _own_network() as enter, _private_engine(enter, []) as engine:
        try:
            yield engine
        finally:
            engine.empty()


@contextmanager
def _own_network() -> Iterator[Sequence[str]]:
    """A network namespace that has nothing but its own loopback; the command prefix that runs something in it."""
    command = [*root_prefix(), "unshare", "--net", sys.executable, "-c", _HOLD_NETWORK]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        pid = holder.stdout.readline().strip()
        if not pid:
            raise NoEngine("no network namespace can be made: that takes root and CAP_SYS_ADMIN")
        yield ["nsenter", f"--net=/proc/{pid}/ns/net"]  # closing its standard input ends it


@contextmanager
def _private_engine(prefix: Sequence[str], options: Sequence[str]) -> Iterator["PrivateEngine"]:
    """An engine of our own, started; at the end it is stopped and everything that it kept is removed."""
    with tempfile.TemporaryDirectory(prefix=ENGINE_DIRECTORY, ignore_cleanup_errors=True) as run:
        data = Path(tempfile.mkdtemp(prefix=ENGINE_DIRECTORY, dir=_disk()))
        engine = PrivateEngine(Path(run), data, prefix, options)
        try:
            engine.start()
            yield engine
        finally:
            engine.stop()
            engine.end_shims()
            _clear(Path(run))
            _clear(data)
            run_as_root(["rmdir", str(data)])


class PrivateEngine:
    """A `dockerd` that keeps everything in directories of its own."""

    def __init__(self, run: Path, data: Path, prefix: Sequence[str], options: Sequence[str]) -> None:
        self._run = run
        self._socket = run / "docker.sock"
        self._log = run / "dockerd.log"
        self._pid_file = run / "docker.pid"
        self._containerd_pid_file = run / "exec" / "containerd" / "containerd.pid"
        self._process: subprocess.Popen[bytes] | None = None
        # Of hex digits: containerd refuses names with the underscores that temporary directories may have.
        self._namespace = namespace = f"conversationd-{uuid.uuid4().hex[:12]}"
        self._command = [
            *prefix,
            "dockerd",
            f"--data-root={data}",
            f"--exec-root={run / 'exec'}",
            f"--pidfile={self._pid_file}",
            f"--host=unix://{self._socket}",
            f"--group={os.getgid()}",
            f"--containerd-namespace={namespace}",
            f"--containerd-plugins-namespace={namespace}-plugins",
            *options,
        ]

    @property
    def base_url(self) -> str:
        """Where it answers."""
        return f"unix://{self._socket}"

    def start(self, *more: str) -> None:
        """Start it and wait until it answers; `more` are options for this time only.

        Raises:
            NoEngine: it ended, or did not answer in time; the message has the end of its log.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*root_prefix(), *self._command, *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PATH": _PATH},
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_WITHIN
        while not answers(self.base_url):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process = self._process if self._process.returncode is None else None
                raise NoEngine(f"dockerd did not start; the end of its log:\n{self._log_tail()}")
            time.sleep(0.1)

    def stop(self) -> None:
        """Stop it with all its containers, and wait until it has ended."""
        if self._process is None:
            return
        self._signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """End it as a crash would: its containers know nothing of it."""
        assert self._process is not None
        self._signal(signal.SIGKILL)
        self._process.wait(_STOP_WITHIN)
        self._process = None
        # Its containerd dies with it. Where nobody reaps that soon, the next engine would take it for one that runs.
        run_as_root(["rm", "-f", str(self._containerd_pid_file)])

    def empty(self) -> None:
        """Remove every container, starting the engine if it is down: it may have been left with containers that run."""
        if self._process is None:
            self.start()
        with closing(docker.APIClient(base_url=self.base_url, version="auto")) as client:
            for container in client.containers(all=True):
                client.remove_container(container["Id"], v=True, force=True)

    def end_shims(self) -> None:
        """End what an engine that was killed has left behind: its successor removes the containers, not their shims."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it has ended meanwhile
                if self._namespace.encode() in (process / "cmdline").read_bytes().split(b"\0"):
                    subprocess.run([*root_prefix(), "kill", "-9", process.name], check=False, env={"PATH": _PATH})

    def _signal(self, number: signal.Signals) -> None:
        if self._pid_file.exists():
            pid = self._pid_file.read_text().strip()
            subprocess.run([*root_prefix(), "kill", f"-{number.value}", pid], check=False, env={"PATH": _PATH})

    def _log_tail(self) -> str:
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])


def _disk() -> str:
    """A directory that overlay2 can work on: in a chroot the usual ones may themselves be an overlay."""
    for directory in (tempfile.gettempdir(), "/var/tmp", "/var/lib/docker"):
        if os.access(directory, os.W_OK) and _filesystem(directory) not in _UNFIT_FILESYSTEMS:
            return directory
    return tempfile.gettempdir()


def _filesystem(directory: str) -> str:
    path = Path(directory).resolve()
    holding = [(len(where), kind) for where, kind in _mounts() if path.is_relative_to(where)]
    return max(holding, default=(0, ""))[1]


def _clear(directory: Path) -> None:
    """Remove what is in a directory, after the mounts that an engine leaves there: namespaces, and itself."""
    for where in sorted((where for where, _ in _mounts() if Path(where).is_relative_to(directory)), reverse=True):
        run_as_root(["umount", "--lazy", where])
    run_as_root(["find", str(directory), "-mindepth", "1", "-delete"])


def _mounts() -> list[tuple[str, str]]:
    """Where something is mounted in our own view of the host, and of which kind it is."""
    lines = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [(where, kind) for _, where, kind, *_ in lines]


@contextmanager
def _no_services_started() -> Iterator[None]:
    """Debian starts what it installs, unless this file says no: an engine of ours ends with us, that one would not."""
    if _POLICY.exists():
        yield
        return
    run_as_root(["sh", "-c", f"printf '#!/bin/sh\\nexit 101\\n' >{_POLICY} && chmod 755 {_POLICY}"])
    try:
        yield
    finally:
        run_as_root(["rm", "-f", str(_POLICY)])


def run_as_root(command: Sequence[str]) -> None:
    """Run a command as root, by sudo if need be.

    Raises:
        NoEngine: it failed, or we may not.
    """
    environment = {**os.environ, "PATH": _PATH, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        [*root_prefix(), *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode != 0:
        raise NoEngine(f"`{' '.join(command)}` failed with {done.returncode}:\n{done.stdout[-2000:]}")


def root_prefix() -> list[str]:
    """What to put before a command to run it as root.

    Raises:
        NoEngine: we are not root, and there is no sudo.
    """
    if os.geteuid() == 0:
        return []
    if shutil.which("sudo", path=_PATH):
        return ["sudo", "--preserve-env=PATH,DEBIAN_FRONTEND"]
    raise NoEngine("no Docker Engine answers, and to install or start one takes root or sudo: start Docker, or be root")
