"""The sandboxes of one daemon: their directories, their keepers and their groups. Everything here blocks."""

import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import attrs

from supervisor.conversation.errors import Conflict, EngineUnavailable, SandboxFailed
from supervisor.conversation.ids import ConversationId, parse_conversation_id
from supervisor.sandbox.names import sandbox_name
from supervisor.sandbox.port import Endpoint, OwnedSandbox, SandboxPlan, SandboxState, SandboxView
from supervisor.sandbox.process.birth import Job
from supervisor.sandbox.process.commands import Commands, program_of, user_of
from supervisor.sandbox.process.groups import Group, group_of
from supervisor.sandbox.process.homes import Home
from supervisor.sandbox.process.keeper import FAILED, STARTED, TAKEN
from supervisor.sandbox.process.proc import Identity, boot_id, lives, open_pidfd, opened, send
from supervisor.sandbox.process.records import (
    KILLED,
    LOCK,
    TROUBLE,
    Ended,
    Owned,
    Running,
    read_ended,
    read_owned,
    read_running,
    write_ended,
    write_owned,
)
from supervisor.sandbox.process.trees import StillThere, until
from supervisor.sandbox.process.workspaces import Workspaces

PYTHON: Final = (sys.executable, "-I", "-S")
"""What runs keepers: they need nothing but the standard library, and start sooner without looking for more."""

_LOOPBACK: Final = "127.0.0.1"
_KEEPER_STARTS_WITHIN: Final = 30.0
_KEEPER_ENDS_WITHIN: Final = 5.0
_MILLISECONDS: Final = 1000


@attrs.frozen
class Sandbox:
    """One of ours, as it is written down. `running` is None for one that was made and never begun."""

    path: Path
    owned: Owned
    running: Running | None

    @property
    def keeper(self) -> Identity | None:
        """Its keeper, dead or alive."""
        return self.running.keeper if self.running is not None else None

    @property
    def conversation(self) -> ConversationId:
        """The conversation that it belongs to."""
        return parse_conversation_id(self.owned.conversation)

    @property
    def is_kept(self) -> bool:
        """Whether its keeper lives."""
        return self.keeper is not None and lives(self.keeper)

    @property
    def group(self) -> Group:
        """What holds its processes together."""
        main = self.running.main if self.running is not None else None
        return group_of(self.owned.group, str(self.path), self.keeper, main)


@attrs.frozen
class Sandboxes:
    """All sandboxes of one owner, each a directory below `root`."""

    owner: str
    root: Path
    workspaces: Workspaces
    commands: Commands
    home: Home
    python: Sequence[str] = PYTHON
    _making: threading.Lock = attrs.field(factory=threading.Lock)

    def launch(self, plan: SandboxPlan) -> SandboxView:
        """Make and start, or adopt; see the port."""
        self.commands.check(plan.spec)
        workspace = self.workspaces.make(plan.conversation, user_of(plan.spec))
        name = sandbox_name(self.owner, plan.conversation, plan.incarnation)
        started: list[SandboxView] = []

        def start() -> bool:
            view = self._start_once(plan, name, workspace)
            started.extend([view] if view is not None else [])
            return view is not None

        # Whoever is taken for is a keeper that comes or goes: one that our predecessor started as it died, say.
        until(start, f"{name} is being started or ended by somebody else", _KEEPER_STARTS_WITHIN)
        return started[0]

    def inspect(self, name: str) -> SandboxView | None:
        """Look at one of ours."""
        sandbox = self.find(name)
        return self._view(sandbox) if sandbox is not None else None

    def pause(self, name: str) -> None:
        """Freeze it."""
        with self._running(name) as group:
            try:
                group.freeze()
            except StillThere:
                group.thaw()
                raise

    def unpause(self, name: str) -> None:
        """Thaw it."""
        with self._running(name) as group:
            group.thaw()

    def begin_stop(self, name: str) -> int | None:
        """Tell it to end; answers with a pidfd that is readable when it has, None if there is nothing to wait for."""
        sandbox = self.find(name)
        if sandbox is None or sandbox.running is None:
            return None
        send(sandbox.running.main, signal.SIGTERM)
        if sandbox.is_kept and sandbox.group.is_frozen():
            sandbox.group.thaw()
        return open_pidfd(sandbox.running.keeper)

    def kill(self, name: str) -> None:
        """End all of it."""
        sandbox = self.find(name)
        if sandbox is None or sandbox.running is None:
            return
        with opened(sandbox.running.keeper) as keeper:
            if keeper is not None:
                send(sandbox.running.main, signal.SIGKILL)
                with suppress(OSError, StillThere):  # its keeper ends it just now, or hangs and is ended itself
                    sandbox.group.kill()
                _await_keeper(keeper)
        self.settle(name)

    def settle(self, name: str) -> None:
        """Bring a sandbox whose keeper has ended to its end, whatever that keeper still could do."""
        sandbox = self.find(name)
        if sandbox is None or sandbox.running is None:
            return
        with _locked(sandbox.path) as locked:
            sandbox = self.find(name) if locked else None
            if sandbox is None or sandbox.running is None or sandbox.is_kept:
                return
            with suppress(FileNotFoundError):
                sandbox.group.kill()
            sandbox.group.remove()
            if read_ended(str(sandbox.path)) is None:
                write_ended(str(sandbox.path), _unseen_end(sandbox.running))

    def remove(self, name: str) -> None:
        """Leave nothing of it; its workspace stays."""
        until(lambda: self._remove_ended(name), f"{name} still runs", _KEEPER_STARTS_WITHIN)
        with self._making:
            for aside in (self._new(name), self._gone(name)):
                _remove_directory(aside)

    def remove_workspace(self, conversation: ConversationId) -> None:
        """Remove a conversation's workspace.

        Raises:
            Conflict: something runs in it.
        """
        for sandbox in self.all():
            if sandbox.conversation == conversation and _state(sandbox) in (SandboxState.RUNNING, SandboxState.PAUSED):
                raise Conflict(f"the workspace of {conversation} is in use by {sandbox.path.name}")
        self.workspaces.remove(conversation)

    def list_owned(self) -> Sequence[OwnedSandbox]:
        """All of ours."""
        return [OwnedSandbox(one.path.name, one.conversation, one.owned.incarnation, _state(one)) for one in self.all()]

    def all(self) -> Sequence[Sandbox]:
        """All of ours as they are written down."""
        try:
            names = sorted(path.name for path in self.root.iterdir())
        except FileNotFoundError:
            return ()
        return [sandbox for name in names if (sandbox := self.find(name)) is not None]

    def find(self, name: str) -> Sandbox | None:
        """One of ours as it is written down; None if there is none, or it is somebody else's."""
        path = self.root / name
        owned = read_owned(str(path))
        if owned is None or owned.owner != self.owner:
            return None
        with suppress(ValueError):
            if name == sandbox_name(self.owner, parse_conversation_id(owned.conversation), owned.incarnation):
                return Sandbox(path, owned, read_running(str(path)))
        return None

    def _start_once(self, plan: SandboxPlan, name: str, workspace: Path) -> SandboxView | None:
        """Start it, or find it started; None says that somebody else is at it."""
        with self._making:
            sandbox = self.find(name) or self._make(plan, name)
        if sandbox.is_kept and read_ended(str(sandbox.path)) is None:
            if sandbox.group.is_frozen():
                sandbox.group.thaw()
            return self._view(sandbox)
        self.settle(name)
        job = self.commands.job(plan, name, workspace, sandbox.owned.group)
        word, exit_code, message = self._run_keeper(sandbox.path, job)
        if word == TAKEN:
            return None
        if word == FAILED:
            self.remove(name)
            raise SandboxFailed(message, exit_code=exit_code)
        if word != STARTED:
            raise EngineUnavailable(f"the keeper of {name} could not start: {message or _trouble(sandbox.path)}")
        return self.inspect(name)

    def _make(self, plan: SandboxPlan, name: str) -> Sandbox:
        """Make its directory, whole or not at all."""
        path, aside = self.root / name, self._new(name)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        _remove_directory(aside)
        aside.mkdir(mode=0o700)
        os.close(os.open(aside / LOCK, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        program = program_of(self.commands.argv(plan.spec))
        owned = Owned(self.owner, plan.conversation, plan.incarnation, program, self.home.group(name))
        write_owned(str(aside), owned)
        try:
            aside.rename(path)
        except OSError as error:
            shutil.rmtree(aside)
            raise Conflict(f"{path} exists and is not ours: remove or rename it") from error
        return Sandbox(path, owned, None)

    def _new(self, name: str) -> Path:
        """Where a directory is before it is whole."""
        return self.root / f".{name}.new"

    def _gone(self, name: str) -> Path:
        """Where a directory is before it is no more."""
        return self.root / f".{name}.gone"

    def _run_keeper(self, path: Path, job: Job) -> tuple[str, int, str]:
        """Start a keeper; answers with what it tells of itself."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        trouble = os.open(path / TROUBLE, flags, 0o600)
        try:
            done = subprocess.run(  # noqa: S603 - our own program
                [*self.python, str(Path(__file__).parent), str(path)],
                input=job.dump(),
                stdout=subprocess.PIPE,
                stderr=trouble,
                env={},
                cwd="/",
                start_new_session=True,
                timeout=_KEEPER_STARTS_WITHIN,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise EngineUnavailable(f"the keeper of {path.name} does not start") from error
        finally:
            os.close(trouble)
        if not done.stdout:
            return "", 0, ""
        word, exit_code, message = json.loads(done.stdout)
        return word, exit_code, message

    def _remove_ended(self, name: str) -> bool:
        """Remove it if it has ended; False says that a keeper is coming or going."""
        self.kill(name)
        sandbox = self.find(name)
        if sandbox is None:
            return True
        with _locked(sandbox.path) as locked:
            if not locked:
                return False
            with suppress(FileNotFoundError):
                sandbox.group.kill()
            sandbox.group.remove()
            _remove_directory(self._gone(name))
            sandbox.path.rename(self._gone(name))
        return True

    @contextmanager
    def _running(self, name: str) -> Iterator[Group]:
        """The group of one that runs, before and after.

        Raises:
            SandboxFailed: it does not.
        """
        sandbox = self.find(name)
        if sandbox is None or not sandbox.is_kept:
            raise SandboxFailed(f"{name} does not run")
        with suppress(FileNotFoundError):  # the group went away with the sandbox
            yield sandbox.group
        if not sandbox.is_kept:
            raise SandboxFailed(f"{name} has ended")

    def _view(self, sandbox: Sandbox) -> SandboxView:
        state, running = _state(sandbox), sandbox.running
        ended = _ended(sandbox) if state is SandboxState.EXITED else None
        endpoint = Endpoint(_LOOPBACK, running.port) if running is not None and running.port and ended is None else None
        return SandboxView(
            id=f"{running.main.pid}-{running.main.start}" if running is not None else sandbox.path.name,
            name=sandbox.path.name,
            image=sandbox.owned.program,
            state=state,
            published=endpoint,
            direct=endpoint,
            exit_code=ended.exit_code if ended is not None else None,
            oom_killed=ended is not None and ended.oom_killed,
            message=ended.message if ended is not None else "",
        )


def _state(sandbox: Sandbox) -> SandboxState:
    if sandbox.running is None:
        return SandboxState.CREATED
    if sandbox.is_kept:
        return SandboxState.PAUSED if sandbox.group.is_frozen() else SandboxState.RUNNING
    of_this_boot = sandbox.running.keeper.boot == boot_id()
    if of_this_boot and read_ended(str(sandbox.path)) is None and sandbox.group.members():
        return SandboxState.RUNNING  # its keeper was killed: what is left of it is ended as soon as that is noticed
    return SandboxState.EXITED


def _ended(sandbox: Sandbox) -> Ended:
    assert sandbox.running is not None  # noqa: S101 - what has ended was begun
    return read_ended(str(sandbox.path)) or _unseen_end(sandbox.running)


def _unseen_end(running: Running) -> Ended:
    rebooted = running.keeper.boot != boot_id()
    why = "the host was restarted" if rebooted else "its keeper was killed, and the rest of it with it"
    return Ended(KILLED, oom_killed=False, message=why)


def _await_keeper(keeper: int) -> None:
    """Wait for a keeper to end, whose sandbox has ended; one that hangs is ended itself."""
    poll = select.poll()
    poll.register(keeper, select.POLLIN)
    if not poll.poll(_KEEPER_ENDS_WITHIN * _MILLISECONDS):
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(keeper, signal.SIGKILL)
        poll.poll(_KEEPER_ENDS_WITHIN * _MILLISECONDS)


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a sandbox's directory, so that no keeper can begin; False if somebody else has it."""
    try:
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield False
        return
    try:
        yield _lock_now(lock)
    finally:
        os.close(lock)


def _lock_now(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_directory(path: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(path)


def _trouble(path: Path) -> str:
    """The last line of what a keeper complained of."""
    return (path / TROUBLE).read_text(errors="replace").strip().rpartition("\n")[2]
