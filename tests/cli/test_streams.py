"""`events`, and logs that are followed, against real and scripted daemons."""

import json
import threading
from pathlib import Path

import pytest

from supervisor.conversation.errors import HistoryGone, NotFound
from supervisor.conversation.ids import ConversationId
from tests.cli.conftest import Ctl, run_ctl
from tests.cli.daemons import PATIENCE, Daemon
from tests.cli.programs import piped, with_full_disk, without_reader
from tests.control.scripted_service import ScriptedService, make_event
from tests.world import World


def test_events_prints_what_is_recorded_and_ends(ctl: Ctl) -> None:
    """Of all, of some, or after one."""
    for name in ("c1", "c2"):
        ctl("start", name)
    every = ctl("events", "--json").lines
    assert {event["conversation"] for event in every} == {"c1", "c2", None}
    assert [event["seq"] for event in every] == list(range(1, len(every) + 1))
    assert ctl("events", "--json", "--since", "5").lines == every[5:]
    of_two = ctl("events", "--json", "c2", "c1").lines
    assert of_two == [event for event in every if event["conversation"]]
    assert ctl("events", "--since", str(len(every))).out == ""
    assert len(ctl("events").out.splitlines()) == len(every)


def test_events_begin_with_the_oldest_that_is_kept(scripted_ctl: Ctl, script: Daemon[ScriptedService]) -> None:
    """Unless one was named that is gone."""
    service = script.inside
    service.replay = tuple(make_event(seq) for seq in range(40, 43))
    gone = HistoryGone("events up to 39 are no longer kept", 40)
    asked: list[int | None] = []
    subscribe = service.subscribe

    def refuse(since: int | None, ids: frozenset[ConversationId] | None, *, snapshot: bool) -> object:
        asked.append(since)
        if since is not None and since < 39:
            raise gone
        return subscribe(since, ids, snapshot=snapshot)

    service.subscribe = refuse  # type: ignore[method-assign, assignment]  # the scripted service has no such fault
    assert [event["seq"] for event in scripted_ctl("events", "--json").lines] == [40, 41, 42]
    assert asked == [0, 39]
    named = scripted_ctl("events", "--since", "5")
    assert named.code == 3
    assert named.err.endswith("  next: the oldest event that is kept is 40: use --since 39\n")


def test_events_follow_from_since_until_interrupted(daemon: Daemon[World], ctl: Ctl) -> None:
    """What was missed first, then live; Ctrl-C is 130 and says nothing, for nothing goes on."""
    ctl("start", "c1")
    with piped("--address", str(daemon.unix), "events", "-f", "--since", "2", "--json", "c1") as program:
        program.until('"seq":3')
        ctl("stop", "c1")
        program.until('"to":"STOPPED"')
        program.press_ctrl_c()
        assert program.finish() == 130
    lines = [json.loads(line) for line in program.screen.splitlines()]
    assert [event["seq"] for event in lines] == sorted({event["seq"] for event in lines})
    assert {event["conversation"] for event in lines} == {"c1"}


def test_events_follow_from_now_on(script: Daemon[ScriptedService]) -> None:
    """Now is where the daemon was when it was asked first: 42."""
    script.inside.replay = (make_event(42), make_event(43))
    with piped("--address", str(script.unix), "events", "-f") as program:
        program.until("    43  ")
        program.press_ctrl_c()
        assert program.finish() == 130
    assert "    42  " not in program.screen


def test_events_need_a_first_connection(tmp_path: Path) -> None:
    """Though a lost one is made again."""
    assert run_ctl("--address", f"unix:{tmp_path}/none", "events", "-f").code == 6


def test_followed_logs_end_with_the_error_that_ended_them(script: Daemon[ScriptedService]) -> None:
    """The lines that came before it are printed."""
    service = script.inside
    service.log_failure = NotFound("there is no conversation c1")
    with piped("--address", str(script.unix), "logs", "-f", "c1") as program:
        program.until("two\n")
        script.do(lambda: [follower.close() for follower in service.followers])
        assert program.finish() == 3
    assert program.screen.splitlines() == [
        "one",
        "two",
        "conversationctl: logs c1 was refused: there is no conversation c1",
        "  next: conversationctl list",
    ]


def test_a_daemon_that_goes_away_ends_followed_logs(script: Daemon[ScriptedService]) -> None:
    """6: the connection was lost."""
    with piped("--address", str(script.unix), "logs", "-f", "c1") as program:
        program.until("two\n")
        script.end()
        assert program.finish() == 6
    assert "logs c1 did not get through: the connection to the daemon ended: daemon going away" in program.screen


def test_ctrl_c_says_that_the_command_goes_on(daemon: Daemon[World], ctl: Ctl) -> None:
    """And it does."""
    daemon.inside.engine.close_gate("launch")
    with piped("--address", str(daemon.unix), "start", "c1") as program:
        program.until("create")
        program.press_ctrl_c()
        assert program.finish() == 130
    assert program.screen.endswith(
        "conversationctl: interrupted; start c1 goes on in the daemon: conversationctl get c1\n"
    )
    daemon.do(lambda: daemon.inside.engine.open_gate("launch"))
    assert ctl("get", "c1").code == 0


def test_sigterm_ends_it_like_ctrl_c(script: Daemon[ScriptedService]) -> None:
    """With its own code."""
    with piped("--address", str(script.unix), "logs", "-f", "c1") as program:
        program.until("two\n")
        program.process.terminate()
        assert program.finish() == 143


@pytest.mark.parametrize("words", [("logs", "c1"), ("logs", "c1", "--json"), ("list",), ("events",)])
def test_a_reader_that_goes_away_is_no_error(ctl: Ctl, daemon: Daemon[World], words: tuple[str, ...]) -> None:
    """Nothing is said; the code is that of SIGPIPE."""
    ctl("start", "c1")
    (sandbox,) = daemon.inside.engine.sandboxes.values()
    sandbox.lines.append("line")
    assert without_reader("--address", str(daemon.unix), *words) == (141, b"")


def test_a_reader_of_the_progress_that_goes_away_is_no_error(ctl: Ctl, daemon: Daemon[World]) -> None:
    """The command goes on in the daemon."""
    assert without_reader("--address", str(daemon.unix), "start", "c1", of="stderr") == (141, b"")
    assert ctl("get", "c1").code == 0


def test_a_full_disk_is_an_error(daemon: Daemon[World]) -> None:
    """Whoever reads the file later has to know."""
    assert with_full_disk("--address", str(daemon.unix), "info") == (
        4,
        b"conversationctl: the output of info cannot be written: No space left on device\n",
    )


def test_ctrl_c_says_nothing_beside_json(daemon: Daemon[World]) -> None:
    """The exit code says it."""
    asked = threading.Event()
    daemon.inside.engine.close_gate("launch")
    daemon.inside.engine.before = lambda call: asked.set() if call == "launch" else None
    with piped("--address", str(daemon.unix), "start", "c1", "--json") as program:
        assert asked.wait(PATIENCE)
        program.press_ctrl_c()
        assert program.finish() == 130
    assert program.screen == ""
    daemon.do(lambda: daemon.inside.engine.open_gate("launch"))
