"""A machine of its own that a real systemd has booted: namespaces of this host. No pytest in here."""

import os
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.engine_host import root_prefix

ROOT: Final = Path(__file__).parents[2]

_SYSTEMD: Final = Path("/lib/systemd/systemd")
_BOOT: Final = Path(__file__).parent / "boot.sh"
_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_UNITS: Final = "/etc/systemd/system:/run/units"
_BOOTED_WITHIN: Final = 60.0
_ENDED_WITHIN: Final = 60.0
_DONE_WITHIN: Final = 300.0


class NoSystemd(Exception):
    """No systemd can be booted here; the message says what is missing."""


class Machine:
    """The checkout is in `/run/checkout`, the engine's socket at its usual place; no service but the journal's runs."""

    def __init__(self, work: Path, engine: Path) -> None:
        """Nothing is booted yet. `work` is an empty directory, `engine` the Docker Engine's socket."""
        self._work = work
        self._engine = engine
        self._holder: subprocess.Popen[str] | None = None
        self._enter: list[str] = []

    def boot(self) -> None:
        """Boot it and wait until systemd says that it is up.

        Raises:
            NoSystemd: it cannot be.
        """
        if not _SYSTEMD.exists():
            raise NoSystemd(f"{_SYSTEMD} is missing: install the package systemd (apt-get install systemd)")
        with (self._work / "holder.log").open("w") as log:
            self._holder = subprocess.Popen(
                [*root_prefix(), "unshare", "--mount", "sh", _BOOT, self._work, self._engine, ROOT],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "PATH": _PATH},
                start_new_session=True,
            )
        assert self._holder.stdout is not None
        pid = self._holder.stdout.readline().strip()
        namespaces = ("--mount", "--pid", "--ipc", "--uts", "--root", "--wd")
        environment = ("env", "--chdir=/run/checkout", f"PATH={_PATH}", f"SYSTEMD_UNIT_PATH={_UNITS}")
        self._enter = [*root_prefix(), "nsenter", f"--target={pid}", *namespaces, *environment]
        deadline = time.monotonic() + _BOOTED_WITHIN
        while self.ask("systemctl", "is-system-running").stdout != "running\n":
            if not pid or time.monotonic() > deadline or not self._is_alive(pid):
                raise NoSystemd(f"systemd did not come up in namespaces of its own, which takes root:\n{self._tail()}")

    def end(self) -> None:
        """End everything in it, and wait until nothing is left of it."""
        if self._holder is not None:
            self._holder.communicate(timeout=_ENDED_WITHIN)  # which closes its standard input

    def ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in it as root, in the checkout's copy; how it ended is for the caller to judge."""
        return subprocess.run(
            [*self._enter, *command],
            check=False,
            capture_output=True,
            text=True,
            timeout=_DONE_WITHIN,
        )

    def run(self, *command: str) -> str:
        """Run a command in it that has to succeed; answers with what it printed."""
        done = self.ask(*command)
        assert done.returncode == 0, f"{command}: {done.returncode}:\n{done.stdout}{done.stderr}{self._tail()}"
        return done.stdout

    def _is_alive(self, pid: str) -> bool:
        return Path(f"/proc/{pid}").exists()

    def _tail(self) -> str:
        logs = [self._work / name for name in ("holder.log", "boot.log", "systemd.log")]
        return "\n".join("\n".join(log.read_text().splitlines()[-10:]) for log in logs if log.exists())
