"""What torture calls a loss: each check, held to something that is lost and to something that is excused."""

import json
import re
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import attrs
import pytest
import trio
import trio.testing

from supervisor.control.client import Conversation, Event
from supervisor.control.client_views import EventData, FailureView, SandboxView
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import FailureCode, Observed
from supervisor.sandbox.names import workspace_name
from tests.torture.daemon_log import incidents
from tests.torture.ledger import Ledger, Steadiness
from tests.torture.scene import wrong_with
from tests.torture.witness import Reading
from tests.torture.workspaces import Workspaces

_NOW: Final = datetime(2026, 1, 1, tzinfo=UTC)
_DEATH: Final = Event(1, _NOW, "c1", "restart_scheduled", EventData({"message": "it exited"}))
_CONTAINER: Final = "0123456789abcdef"
_RUNNING: Final = Conversation(
    id="c1",
    agent="none",
    status=Status.RUNNING,
    observed=Observed.LIVE,
    incarnation=1,
    restarts=0,
    created_at=_NOW,
    updated_at=_NOW,
    last_active_at=_NOW,
    sandbox=SandboxView("docker", "box", "image", _CONTAINER),
    labels={"life": "mine"},
)
_SIGNED: Final = f"mine {_CONTAINER[:12]}"


def failed(code: FailureCode) -> Conversation:
    """The conversation in ERROR."""
    return attrs.evolve(_RUNNING, status=Status.ERROR, error=FailureView(code, "no", _NOW))


def losses(ledger: Ledger, *events: Event) -> list[str]:
    """What is lost by a journal of these."""
    reading = Reading(ledger)
    for event in events:
        reading.read(event)
    return reading.losses


def test_death_is_a_loss_unless_the_trial_kills_this_sandbox() -> None:
    """Whoever is no victim lives."""
    assert losses(Ledger(), _DEATH) == ["event 1: c1 died of no fault: it exited"]
    assert losses(Ledger(Steadiness(victims=frozenset({"c2"}))), _DEATH) != []
    assert losses(Ledger(Steadiness(victims=frozenset({"c1"}))), _DEATH) == []
    assert losses(Ledger(Steadiness(die=True)), _DEATH) == []


def test_forced_stop_in_vain_excuses_one_death() -> None:
    """It kills before it is written down."""
    ledger = Ledger()
    ledger.vain_kills["c1"] += 1
    assert losses(ledger, _DEATH) == []
    assert losses(ledger, _DEATH, attrs.evolve(_DEATH, seq=2)) == ["event 2: c1 died of no fault: it exited"]


def test_error_is_a_loss_but_with_the_codes_that_a_trial_names() -> None:
    """A start that is too late is not a sandbox that died."""
    begun = {"from": None, "to": "STARTING"}
    born = [
        Event(seq, _NOW, "c1", kind, EventData(data)) for seq, kind, data in ((1, "created", {}), (2, "status", begun))
    ]
    end = EventData({"from": "STARTING", "to": "ERROR", "reason": "start_timeout", "message": "late"})
    late = Event(3, _NOW, "c1", "status", end)
    assert losses(Ledger(), *born, late) == ["event 3: c1 failed of no fault: late"]
    assert losses(Ledger(Steadiness(failures=frozenset({FailureCode.EXITED}))), *born, late) != []
    assert losses(Ledger(Steadiness(failures=frozenset({FailureCode.START_TIMEOUT}))), *born, late) == []


@pytest.mark.parametrize("state", ["running", "paused"])
def test_container_that_lives_on_under_an_error_is_a_loss(state: str) -> None:
    """But the one that is kept after a resume that came too late."""
    assert wrong_with(failed(FailureCode.START_TIMEOUT), {"box": state}) is not None
    assert wrong_with(failed(FailureCode.RESUME_TIMEOUT), {"box": state}) is None
    assert wrong_with(failed(FailureCode.START_TIMEOUT), {"box": "exited"}) is None
    assert wrong_with(failed(FailureCode.START_TIMEOUT), {}) is None


def test_log_is_searched_for_what_nobody_else_saw(tmp_path: Path) -> None:
    """Exceptions, incidents and other programs' last words are losses; what the trial took away excuses its own."""
    log = tmp_path / "daemon.log"
    crash = {"event": "actor.crashed", "level": "error", "incident": "i1", "exception": "Traceback\nOSError: disk full"}
    alert = {"event": "alert.raised", "level": "critical", "incident": "i1"}
    fine = {"event": "sandbox.died", "level": "warning"}
    cut = {"event": "headers", "level": "warning", "logger": "urllib3.connection", "exception": "Traceback"}
    log.write_text("\n".join([*map(json.dumps, (crash, alert, fine, cut)), "nice: cannot", "Segmentation fault"]))
    fault = "the daemon's log has 'Segmentation fault'"
    assert list(incidents(log, None)) == ["the daemon's log has actor.crashed i1: OSError: disk full", fault]
    assert list(incidents(log, re.compile("disk full"))) == [fault]
    assert len(list(incidents(log, re.compile("descriptors")))) == 2


@pytest.mark.parametrize(
    ("lines", "lost"),
    [
        (["mine 000000000000", _SIGNED], 0),
        ([_SIGNED], 1),
        ([], 2),
        (["mine 000000000000"], 1),
        (["mine 000000000000", f"another {_CONTAINER[:12]}", _SIGNED], 1),
    ],
    ids=["whole", "first line lost", "all lost", "last boot missing", "another's"],
)
async def test_workspace_has_what_was_written_and_nothing_else(tmp_path: Path, lines: list[str], lost: int) -> None:
    """A line that was read once has to stay, each sandbox that runs has signed, and nobody else has."""
    workspaces = Workspaces(str(tmp_path), "owner")
    file = tmp_path / "volumes" / workspace_name("owner", ConversationId("c1")) / "_data" / "boots"
    file.parent.mkdir(parents=True)
    file.write_text("mine 000000000000\n")
    await workspaces.compare([])
    file.write_text("".join(f"{line}\n" for line in lines))
    found = await workspaces.compare([_RUNNING])
    assert len(found) + len(workspaces.losses) == lost


async def test_workspaces_are_read_in_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reading that takes long is no loss of what a later one would have found."""
    answers = iter([b"v/_data/boots:mine 1\n", b"v/_data/boots:mine 1\nv/_data/boots:mine 2\n"])
    began = trio.Event()

    async def grep(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        answer, is_first = next(answers), not began.is_set()
        began.set()
        await trio.lowlevel.checkpoint()
        if is_first:
            await trio.testing.wait_all_tasks_blocked()
        return subprocess.CompletedProcess((), 0, answer)

    monkeypatch.setattr(trio, "run_process", grep)
    workspaces = Workspaces(str(tmp_path), "owner")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(workspaces.compare, [])
        await began.wait()
        await workspaces.compare([])
    assert (workspaces.losses, workspaces.boots) == ([], 2)
