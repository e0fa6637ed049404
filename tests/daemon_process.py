"""A real `conversationd` in a process of its own, for tests, benchmarks and the demo. No pytest in here."""

import hmac
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

AS_THE_UNIT: Final = ("nice", "-n", "-7")
"""The systemd unit's CPUWeight=500, as near as one process can have it: each step of niceness is a factor of 1.25.

Without the right to it `nice` says so, and runs the command as it is.
"""

_READY_WITHIN: Final = 60.0
_END_WITHIN: Final = 60.0


class DaemonError(Exception):
    """The daemon did not come up, or did not end as it should; the message has the end of its log."""


class DaemonProcess:
    """One state directory and the daemons that run over it, one after the other."""

    def __init__(
        self,
        directory: Path,
        config: str,
        environ: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        module: str = "supervisor.cli.conversationd",
    ) -> None:
        """Nothing is started yet. `config` is TOML without `[daemon]` and `[control]`, which are made here.

        It may begin with further keys of `[control]`. `prefix` is a command that runs the daemon in its own place,
        `module` the daemon itself, for one that has something else around it.
        """
        self.directory = directory
        self.socket = directory / "run" / "control.sock"
        self.state_dir = directory / "state"
        self.log = directory / "daemon.log"
        self.config = directory / "conversationd.toml"
        self.config.write_text(
            f'[daemon]\nstate_dir = "{self.state_dir}"\n'
            f'[control]\nlisten = ["unix:{self.socket}", "tcp:127.0.0.1:0"]\n{config}'
        )
        self._prefix = prefix
        self._module = module
        self._environ = {**os.environ, **(environ or {})}
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process that runs now."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_begun(self) -> bool:
        """Whether there is a process, ready or not."""
        return self._process is not None

    @property
    def instance(self) -> str:
        """The owner that its sandboxes carry; "" if it never ran."""
        journal = self.state_dir / "journal.db"
        if not journal.exists():
            return ""
        with closing(sqlite3.connect(journal)) as connection:
            row = connection.execute("SELECT value FROM meta WHERE name = 'instance'").fetchone()
        return str(row[0])

    @property
    def session_keys(self) -> set[str]:
        """The key of every conversation that it holds, and all that its sandboxes were given."""
        with closing(sqlite3.connect(self.state_dir / "journal.db")) as connection:
            rows = connection.execute(
                "SELECT record ->> 'session_key', coalesce(record ->> 'incarnation', 0) FROM conversations"
            ).fetchall()
        derived = {
            hmac.digest(key.encode(), str(number).encode(), "sha256").hex()
            for key, last in rows
            for number in (*range(1, last + 1), "disk")
        }
        return derived | {key for key, _ in rows}

    @property
    def tcp_port(self) -> int:
        """The port of its TCP listener, from its log; that of HTTP comes after it."""
        ready = [json.loads(line) for line in self.log.read_text().splitlines() if '"daemon.ready"' in line]
        return int(ready[-1]["listen"][1].rpartition(":")[2])

    def start(self) -> float:
        """Start it and wait for READY=1; answers with the seconds that this took."""
        began = time.monotonic()
        address = str(self.directory / "notify.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, self.log.open("ab") as log:
            notify.bind(address)
            notify.settimeout(0.2)
            self._process = subprocess.Popen(
                [*self._prefix, sys.executable, "-m", self._module, "--config", str(self.config)],
                stdout=log,
                stderr=log,
                env={**self._environ, "NOTIFY_SOCKET": address},
            )
            try:
                self._await_ready(notify)
            finally:
                Path(address).unlink()
        return time.monotonic() - began

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> int:
        """End it as a power cut would; answers with -SIGKILL, or with the exit code of one that had ended by itself."""
        assert self._process is not None
        self._process.kill()
        code = self._process.wait(_END_WITHIN)
        self._process = None
        return code

    def stop(self) -> int:
        """End it by SIGTERM; answers with its exit code."""
        if self._process is None:
            return 0
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(_END_WITHIN)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            raise DaemonError(f"it did not end in {_END_WITHIN:g} s:\n{self.tail()}") from error
        self._process = None
        return code

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-30:])

    def _await_ready(self, notify: socket.socket) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _READY_WITHIN
        while time.monotonic() < deadline:
            try:
                if notify.recv(4096) == b"READY=1":
                    return
            except TimeoutError:
                if self._process.poll() is not None:
                    raise DaemonError(f"it ended with {self._process.returncode}:\n{self.tail()}") from None
        raise DaemonError(f"it was not ready in {_READY_WITHIN:g} s:\n{self.tail()}")


@contextmanager
def running_daemon(config: str, environ: Mapping[str, str] | None = None) -> Iterator[DaemonProcess]:
    """A daemon over a state directory of its own, both gone at the end; its sandboxes are the caller's to end."""
    with tempfile.TemporaryDirectory(prefix="conversationd-") as directory:
        daemon = DaemonProcess(Path(directory), config, environ)
        daemon.start()
        try:
            yield daemon
        finally:
            daemon.stop()
