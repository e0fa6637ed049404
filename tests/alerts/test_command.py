"""The command, as a real process."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from supervisor.alerts.command import AlertCommand
from supervisor.alerts.sinks import NotDelivered
from supervisor.conversation.alerts import AlertState
from supervisor.journal.ledger import Delivery

DELIVERY = Delivery(1, "f00", AlertState.RAISED, datetime.now(UTC), '{"type": "alert.raised"}')
PATIENCE = 30.0
PROGRAM = """
import json, os, sys
print("noise")
with open(sys.argv[1], "w") as found:
    json.dump([sys.stdin.read(), sys.argv[2], dict(os.environ), os.getcwd()], found)
"""


async def test_command_gets_the_notice_and_nothing_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """On standard input, with its arguments as they are, no environment of ours, and its output not kept."""
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    found = tmp_path / "found"
    await AlertCommand((sys.executable, "-c", PROGRAM, str(found), "$HOME; *")).tell(DELIVERY)
    notice, argument, environ, directory = json.loads(found.read_text())
    assert (notice, argument, directory) == (f"{DELIVERY.body}\n", "$HOME; *", "/")
    assert set(environ) <= {"PATH", "LANG", "LC_CTYPE"}
    assert capfd.readouterr() == ("", "")


async def test_command_that_fails_is_tried_again() -> None:
    """Also one that does not read its input."""
    with pytest.raises(NotDelivered, match=r"^the command ended with 3$"):
        await AlertCommand(("/bin/sh", "-c", "exit 3")).tell(DELIVERY)


async def test_command_that_is_not_there_is_tried_again(tmp_path: Path) -> None:
    """Or may not be run."""
    (tmp_path / "text").write_text("x")
    for name in ("absent", "text"):
        with pytest.raises(NotDelivered, match=r"^the command cannot be run: "):
            await AlertCommand((str(tmp_path / name),)).tell(DELIVERY)


async def test_command_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    """After its time limit; nothing of it is left."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    command = AlertCommand(("/bin/sh", "-c", f"trap '' TERM; exec 3>{fifo}; sleep 1000 & sleep 1000"), within=0.5)
    with trio.fail_after(PATIENCE):
        with pytest.raises(NotDelivered, match=r"^the command did not end within 0\.5 s, and was killed$"):
            await command.tell(DELIVERY)
        # The end of the pipe: everything that held it open has gone.
        await trio.lowlevel.wait_readable(reader)
    assert os.read(reader, 1) == b""
    os.close(reader)
