"""The daemon under attack: a real process, with or without an engine, and what an attack has done to it.

No pytest in here.
"""

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import ConversationRecord, SandboxRef
from supervisor.journal.changes import Create
from supervisor.journal.store import Store
from tests.daemon_log import incidents
from tests.daemon_process import DaemonProcess
from tests.hostile.peer import Place, client, within
from tests.journal.samples import record

GOOD_ORIGIN: Final = "http://localhost:3000"
ENGINE_SOCKET: Final = "engine.sock"
"""Where the daemon looks for an engine, in its directory. A test may put something there."""

WILLING: Final = """[sandbox]
image = "image"
[sandbox.allow]
pull = ["*"]
mounts = ["*"]
networks = ["*"]
runtimes = ["*"]
memory = "1024GiB"
cpus = 1024.0
pids_limit = 4194304
[capacity]
max_running = 0
max_starting = 0
[restart]
mode = "never"
[timeouts]
start = "15s"
agent = "1s"
"""
"""The config of a daemon that starts whatever is asked for, if it is a sandbox at all."""
MOST_KEPT: Final = 30
"""Conversations that may be left behind before they are ended: they are memory that the daemon rightly keeps."""

SEEDS: Final[tuple[Status, ...]] = tuple(Status)
"""There is one conversation in every status, by the status's name in lower case."""

MORE_MEMORY: Final = 48 * 1024
"""KiB that the daemon may have grown by, since it was warm, after everything that is done to it."""
MORE_THREADS: Final = 8
"""Worker threads that may still be kept for the next call."""
MORE_DESCRIPTORS: Final = 0
_SETTLE_WITHIN: Final = 15.0
"""Seconds until nothing is left of a connection; a frame that nobody reads is tried for 10 s."""


@attrs.frozen
class Vitals:
    """How much of the host a process takes. Memory is KiB, resident: what it has, and the most that it ever had."""

    memory: int
    peak: int
    descriptors: int
    threads: int


@attrs.frozen
class Target:
    """A daemon that runs, as it was when it was warm."""

    process: DaemonProcess
    pid: int
    warm: Vitals

    @property
    def unix(self) -> Path:
        """Where it listens without a token."""
        return self.process.socket

    @property
    def tcp(self) -> tuple[str, int]:
        """Where it listens with one."""
        return "127.0.0.1", self.process.tcp_port

    @property
    def token(self) -> str:
        """What TCP clients have to show."""
        return (self.process.state_dir / "token").read_text().strip()

    @property
    def bearer(self) -> str:
        """The header that shows it."""
        return f"Authorization: Bearer {self.token}"


def vitals_of(pid: int) -> Vitals:
    """Measure a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - a listing of names is all that is wanted
    return Vitals(int(status["VmRSS"].split()[0]), int(status["VmHWM"].split()[0]), descriptors, int(status["Threads"]))


def _connections(pid: int) -> set[str]:
    """The sockets that a process has open."""
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(str(descriptor.readlink()))
    return {link for link in links if link.startswith("socket:")}


def assert_unharmed(target: Target) -> None:
    """The daemon lives, answers fresh clients on both sockets, has not grown, and has met no bug."""
    assert_answers(target.unix)
    assert_answers(target.tcp, target.bearer)
    assert_settled(target)
    assert incidents(target.process.log) == []


def assert_answers(place: Place, *headers: str) -> None:
    """A fresh client is answered."""
    with client(place, *headers) as peer:
        assert peer.ask("daemon.info")["result"]["name"] == "conversationd"


def assert_settled(target: Target) -> None:
    """Memory, descriptors and threads are back within their bounds as soon as its connections are gone."""
    now = vitals_of(target.pid)
    for _ in within(_SETTLE_WITHIN):
        now = vitals_of(target.pid)
        if _is_settled(now, target.warm):
            return
    raise AssertionError(f"it was {target.warm} when it was warm, and is {now}")


def _is_settled(now: Vitals, warm: Vitals) -> bool:
    return (
        now.memory <= warm.memory + MORE_MEMORY
        and now.descriptors <= warm.descriptors + MORE_DESCRIPTORS
        and now.threads <= warm.threads + MORE_THREADS
    )


@contextmanager
def running_target(control: str = "") -> Iterator[Target]:
    """A daemon without an engine, seeded with conversations and warm; `control` is more TOML of `[control]`.

    Its commands have deadlines of a fraction of a second, so that whatever is asked is answered soon.
    """
    with tempfile.TemporaryDirectory(prefix="conversationd-") as directory:
        timeouts = "\n".join(f'{key} = "300ms"' for key in ("start", "pause", "resume", "stop", "archive"))
        config = (
            f'allowed_origins = ["{GOOD_ORIGIN}"]\n{control}\n[timeouts]\n{timeouts}\n[agent]\ndriver = "none"\n'
            f'[docker]\nhost = "unix://{directory}/{ENGINE_SOCKET}"\n'
        )
        with _attackable(DaemonProcess(Path(directory), config)) as target:
            yield target


@contextmanager
def running_willing_target() -> Iterator[Target]:
    """A daemon whose engine is in its own memory and refuses nothing: what is valid succeeds."""
    with tempfile.TemporaryDirectory(prefix="conversationd-") as directory:
        config = f'{WILLING}[agent]\ndriver = "none"\n'
        with _attackable(DaemonProcess(Path(directory), config, module="tests.hostile.willing_engine")) as target:
            yield target


@contextmanager
def _attackable(process: DaemonProcess) -> Iterator[Target]:
    _seed(process, [_conversation(status) for status in SEEDS])
    process.start()
    try:
        yield _warmed(process)
    finally:
        process.stop()


def end_what_piled_up(target: Target) -> None:
    """Stop and delete all conversations, once there are many."""
    with client(target.unix) as peer:
        there = peer.ask("conversation.list", {"limit": 1000})["result"]["items"]
        for one in there if len(there) > MOST_KEPT else ():
            peer.ask("conversation.stop", {"id": one["id"], "force": True})
            peer.ask("conversation.delete", {"id": one["id"]})


def _seed(process: DaemonProcess, records: Sequence[ConversationRecord]) -> None:
    process.state_dir.mkdir(mode=0o700)
    with closing(Store(process.state_dir / "journal.db")) as store:
        store.write([Create(one, (), None) for one in records])
    for file in process.state_dir.iterdir():
        file.chmod(0o600)


def _conversation(status: Status) -> ConversationRecord:
    plain = attrs.evolve(record(ConversationId(status.lower()), status), agent="none")
    if status in (Status.STARTING, Status.RUNNING, Status.PAUSED):
        return attrs.evolve(plain, incarnation=1, sandbox=SandboxRef("docker", f"{plain.id}-1", "image", "1", None))
    return plain


def _warmed(process: DaemonProcess) -> Target:
    """Let it do once what takes memory that is kept: a frame as large as one may be, and a look at every record."""
    listening = _connections(process.pid)
    token = (process.state_dir / "token").read_text().strip()
    with client(process.socket) as peer, client(("127.0.0.1", process.tcp_port), f"Authorization: Bearer {token}"):
        peer.ask("conversation.start", {"request": {"a": "x" * 1_000_000}})
        peer.ask("conversation.list")
        for status in SEEDS:
            peer.ask("conversation.resume", {"id": status.lower()})
    idle = vitals_of(process.pid)
    for _ in within(_SETTLE_WITHIN):
        idle = vitals_of(process.pid)
        if not _connections(process.pid) - listening:
            break
    return Target(process, process.pid, idle)
