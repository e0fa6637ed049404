"""What only a terminal shows: the live progress of a boot, and the board of `watch`."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import attrs
import pytest

from supervisor.conversation.restart import RestartPolicy
from supervisor.sandbox.port import PullProgress
from tests.cli.conftest import Ctl, run_ctl
from tests.cli.daemons import Daemon, serving, world
from tests.cli.programs import on_terminal
from tests.world import SETTINGS, World

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
OPEN_SCREEN, CLOSE_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """For contexts that overlap."""
    with ExitStack() as opened:
        yield opened


def test_start_draws_the_pull_and_the_phases(daemon: Daemon[World]) -> None:
    """A bar that grows, then a mark for each phase; the cursor comes back."""
    engine = daemon.inside.engine
    engine.pull_script = [(0.0, PullProgress(30_000_000, 100_000_000)), (0.0, PullProgress(60_000_000, 100_000_000))]
    engine.close_gate("launch")
    with on_terminal("--address", str(daemon.unix), "start", "c1") as program:
        program.until("create")
        daemon.do(lambda: engine.open_gate("launch"))
        assert program.finish() == 0
    assert "\u2501" * 9 in program.screen
    assert "60.0 MB of 100.0 MB" in program.screen
    for phase in ("image", "create", "boot", "agent"):
        assert f"\u2713\x1b[0m {phase}" in program.screen
    assert "is \x1b[32mRUNNING\x1b[0m at http://127.0.0.1:" in program.screen
    assert program.screen.count(HIDE_CURSOR) == program.screen.count(SHOW_CURSOR) == 1


def test_start_turns_its_spinner_until_the_daemon_goes_away(tmp_path: Path, stack: ExitStack) -> None:
    """Then it says that it does not know what became of it."""
    with serving(tmp_path, world(tmp_path)) as daemon:
        daemon.inside.agent.close_gate("wait_ready")
        program = stack.enter_context(on_terminal("--address", str(daemon.unix), "start", "c1", width=120))
        for _ in range(3):
            program.until(" boot", again=True)
    assert program.finish() == 6
    assert "what was asked may have been done: conversationctl get c1" in program.screen
    assert program.screen.count(HIDE_CURSOR) == program.screen.count(SHOW_CURSOR) == 1


def test_start_that_fails_leaves_its_phase_marked(daemon: Daemon[World]) -> None:
    """And says why below; a restart that is scheduled is said above."""
    daemon.inside.engine.exits_at_boot.append((3, False))
    with on_terminal("--address", str(daemon.unix), "start", "c1") as program:
        assert program.finish() == 4
    assert "\u2717" in program.screen
    assert "failed: " in program.screen
    assert program.screen.count(HIDE_CURSOR) == program.screen.count(SHOW_CURSOR) == 1


def test_a_boot_that_is_tried_again_is_said_above_the_picture(tmp_path: Path) -> None:
    """Where it stays."""
    settings = attrs.evolve(SETTINGS, restart=RestartPolicy(max_restarts=1, backoff_initial=0.01))
    with serving(tmp_path, world(tmp_path, settings)) as daemon:
        daemon.inside.engine.exits_at_boot.append((3, False))
        with on_terminal("--address", str(daemon.unix), "start", "c1", width=120) as program:
            assert program.finish() == 0
    assert "restart_scheduled: " in program.screen
    assert "after exited: the sandbox exited with code 3" in program.screen


def test_a_resume_that_boots_nothing_draws_nothing(daemon: Daemon[World], ctl: Ctl) -> None:
    """Only its sentence."""
    ctl("start", "c1")
    ctl("pause", "c1")
    with on_terminal("--address", str(daemon.unix), "--no-color", "resume", "c1") as program:
        assert program.finish() == 0
    assert program.screen.startswith("\x1b[1mc1\x1b[0m is RUNNING at http://127.0.0.1:")
    assert HIDE_CURSOR not in program.screen


def test_logs_on_a_terminal_cannot_drive_it(daemon: Daemon[World], ctl: Ctl) -> None:
    """Colours stay, everything else is shown."""
    ctl("start", "c1")
    (sandbox,) = daemon.inside.engine.sandboxes.values()
    sandbox.lines.append("\x1b[31mred\x1b[0m \x1b]0;title\x07")
    with on_terminal("--address", str(daemon.unix), "logs", "c1") as program:
        assert program.finish() == 0
    assert program.screen == "\x1b[31mred\x1b[0m \\x1b]0;title\\x07\x1b[0m\r\n"


def test_watch_shows_changes_live_and_gives_the_terminal_back(daemon: Daemon[World], ctl: Ctl) -> None:
    """On a screen of its own, until Ctrl-C."""
    ctl("start", "c1")
    with on_terminal("--address", str(daemon.unix), "watch", width=120) as program:
        program.until("RUNNING")
        ctl("pause", "c1")
        program.until("PAUSED")
        ctl("stop", "c1")
        ctl("delete", "c1")
        program.until("no conversations")
        program.press_ctrl_c()
        assert program.finish() == 130
    assert program.screen.index(OPEN_SCREEN) < program.screen.index("RUNNING")
    assert program.screen.rindex(CLOSE_SCREEN) > program.screen.rindex("no conversations")
    assert program.screen.rindex(SHOW_CURSOR) > program.screen.rindex(HIDE_CURSOR)


def test_watch_says_when_the_connection_is_lost(tmp_path: Path, stack: ExitStack) -> None:
    """And goes on when there is a daemon again."""
    with serving(tmp_path, world(tmp_path)) as first:
        address = str(first.unix)
        run_ctl("--address", address, "start", "c1")
        program = stack.enter_context(on_terminal("--address", address, "watch", width=120))
        program.until("RUNNING")
    program.until("connecting again")
    with serving(tmp_path, world(tmp_path)) as second:
        run_ctl("--address", str(second.unix), "start", "c2")
        program.until("c2")
        program.press_ctrl_c()
        assert program.finish() == 130


def test_watch_needs_a_first_connection(tmp_path: Path) -> None:
    """The error is seen where errors are, not on a screen that goes away."""
    with on_terminal("--address", f"unix:{tmp_path}/none", "watch") as program:
        assert program.finish() == 6
    assert OPEN_SCREEN not in program.screen
