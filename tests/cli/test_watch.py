"""`watch` where there is no terminal: for logs, and for programs."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.live import Live

from supervisor.cli.board import Board
from supervisor.cli.watching import Drawing
from supervisor.conversation.errors import EngineUnavailable, HistoryGone, ShuttingDown
from supervisor.conversation.ids import ConversationId
from tests.cli.conftest import Ctl, run_ctl
from tests.cli.daemons import Daemon, serving, world
from tests.cli.programs import piped
from tests.cli.views import conversation, event
from tests.control.scripted_service import ScriptedService, make_event
from tests.world import World


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """For contexts that overlap."""
    with ExitStack() as opened:
        yield opened


def test_watch_behind_a_pipe_prints_the_table_and_then_events(daemon: Daemon[World], ctl: Ctl) -> None:
    """A log that can be read later."""
    ctl("start", "c1")
    with piped("--address", str(daemon.unix), "watch") as program:
        program.until("c1  RUNNING")
        ctl("pause", "c1")
        program.until("RUNNING -> PAUSED (pause)")
        program.press_ctrl_c()
        assert program.finish() == 130


def test_watch_json_prints_conversations_as_they_change(daemon: Daemon[World], ctl: Ctl) -> None:
    """And the event of their end."""
    ctl("start", "c1")
    with piped("--address", str(daemon.unix), "watch", "--json") as program:
        program.until('"status":"RUNNING"')
        ctl("stop", "c1")
        program.until('"status":"STOPPED"')
        ctl("delete", "c1")
        program.until('"kind":"deleted"')
        program.press_ctrl_c()
        assert program.finish() == 130
    lines = [json.loads(line) for line in program.screen.splitlines()]
    assert {line.get("id", line.get("conversation")) for line in lines} == {"c1"}


def test_watch_can_be_told_which_statuses(daemon: Daemon[World], ctl: Ctl) -> None:
    """The daemon filters."""
    ctl("start", "c1")
    ctl("start", "c2")
    ctl("stop", "c2")
    with piped("--address", str(daemon.unix), "watch", "--status", "stopped") as program:
        program.until("c2  STOPPED")
        program.press_ctrl_c()
        program.finish()
    assert "c1" not in program.screen


def test_watch_goes_on_after_a_lost_connection(tmp_path: Path, stack: ExitStack) -> None:
    """It says so, and misses no event."""
    with serving(tmp_path, world(tmp_path)) as first:
        address = str(first.unix)
        run_ctl("--address", address, "start", "c1")
        program = stack.enter_context(piped("--address", address, "watch"))
        seen_by_program = stack.enter_context(piped("--address", address, "watch", "--json"))
        program.until("c1  RUNNING")
        seen_by_program.until('"RUNNING"')
    program.until("connecting again")
    with serving(tmp_path, world(tmp_path)) as second:
        run_ctl("--address", str(second.unix), "start", "c2")
        program.until("c2 ")
        seen_by_program.until('"c2"')
        for each in (program, seen_by_program):
            each.press_ctrl_c()
            assert each.finish() == 130


def test_watch_begins_anew_when_the_events_between_are_gone(script: Daemon[ScriptedService]) -> None:
    """The list is the truth; nobody has to do anything."""
    service = script.inside
    subscribe = service.subscribe

    def refuse_since(since: int | None, ids: frozenset[ConversationId] | None, *, snapshot: bool) -> object:
        service.calls.append(("since", since))
        if since is not None:
            raise HistoryGone("events are no longer kept", 1000)
        return subscribe(since, ids, snapshot=snapshot)

    service.subscribe = refuse_since  # type: ignore[method-assign, assignment]  # the scripted service has no such fault
    with piped("--address", str(script.unix), "watch", "--json") as program:
        program.until('"c3"')
        script.do(service.overflow)
        program.until('"c3"', again=True)
        program.press_ctrl_c()
        assert program.finish() == 130
    assert [call for call in service.calls if call[0] == "since"] == [("since", None), ("since", 10), ("since", None)]


def test_watch_waits_for_a_daemon_that_is_busy(script: Daemon[ScriptedService]) -> None:
    """Only what a new connection cannot heal ends it."""
    service = script.inside
    with piped("--address", str(script.unix), "watch") as program:
        program.until("c3 ")
        service.failure = ShuttingDown("the daemon is ending")
        script.do(lambda: service.publish(make_event(11)))
        for _ in range(3):
            program.until("the daemon is ending; connecting again", again=True)
        service.failure = EngineUnavailable("a surprise")
        assert program.finish() == 4
    assert "conversationctl: watch failed: a surprise" in program.screen


def test_watch_ends_when_the_first_connection_fails(tmp_path: Path) -> None:
    """6."""
    assert run_ctl("--address", f"unix:{tmp_path}/none", "watch").code == 6


def test_watch_ends_when_the_first_subscription_is_refused(script: Daemon[ScriptedService]) -> None:
    """With the daemon's reason."""
    script.inside.failure = EngineUnavailable("a surprise")
    assert run_ctl("--address", str(script.unix), "watch").code == 4


def test_a_pull_changes_nothing_but_how_far_it_is() -> None:
    """The conversation stays on the board; one that is not found goes."""
    board = Board("unix:/x")
    drawing = Drawing(board, Live())
    drawing.begin([])
    board.put(conversation("c1"))
    drawing.change(event("progress", current=1, total=2), None)
    drawing.change(event("daemon", about=None), None)
    assert [each.id for each in board.shown()] == ["c1"]
    drawing.change(event("deleted"), None)
    assert board.shown() == []
