"""The command: a program that gets each notice as JSON on its standard input, and ends with 0 when it has taken it."""

import os
import signal
import subprocess
from contextlib import suppress
from typing import Final

import attrs
import trio

from supervisor.alerts.sinks import NotDelivered
from supervisor.journal.ledger import Delivery

WITHIN: Final = 30.0
"""Seconds after which it is killed, with all that it has started in its session."""

_ENVIRON: Final = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


@attrs.frozen(eq=False)
class AlertCommand:
    """Satisfies `Sink`. No shell, nothing of our environment, and its output is not kept."""

    argv: tuple[str, ...]
    within: float = WITHIN

    async def tell(self, delivery: Delivery) -> None:
        """Run it once; it has to end with 0 in time."""
        code: int | None = None
        try:
            with trio.move_on_after(self.within):
                code = await self._run(delivery.body.encode() + b"\n")
        except OSError as error:
            raise NotDelivered(f"the command cannot be run: {error.strerror}") from error
        if code is None:
            raise NotDelivered(f"the command did not end within {self.within:g} s, and was killed")
        if code:
            raise NotDelivered(f"the command ended with {code}")

    async def _run(self, notice: bytes) -> int:
        done = await trio.run_process(
            self.argv,
            stdin=notice,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
            deliver_cancel=_kill_session,
            env=_ENVIRON,
            cwd="/",
            start_new_session=True,
        )
        return done.returncode


async def _kill_session(process: trio.Process) -> None:
    await trio.lowlevel.checkpoint()
    with suppress(ProcessLookupError):  # it ended at this very moment
        os.killpg(process.pid, signal.SIGKILL)
