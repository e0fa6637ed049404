"""Process sandboxes under a real systemd, by the unit and its drop-in for them: what an operator relies on."""

from collections.abc import Callable, Iterator

import pytest

from tests.process_host import left_on_host
from tests.service.process_sandbox import ProcessSandbox, all_members, home, members, served
from tests.service.service import GROUP, Service


def restart(service: Service) -> None:
    """As for an upgrade."""
    service.systemctl("restart")


def kill(service: Service) -> None:
    """As the kernel does when memory is short."""
    killed = service.says("MainPID")
    service.machine.run("kill", "-9", killed)
    service.await_restart(killed)


def stop_and_start(service: Service) -> None:
    """With what is left in between, which is the sandboxes."""
    before = all_members(service.machine, GROUP)
    daemon = service.says("MainPID")
    service.systemctl("stop")
    assert [service.says(name) for name in ("ActiveState", "Result", "ExecMainStatus")] == ["inactive", "success", "0"]
    assert all_members(service.machine, GROUP) == before - {daemon}
    service.systemctl("start")


@pytest.fixture
def sandbox(processes: Service) -> Iterator[ProcessSandbox]:
    """That of the conversation `p1`, which runs; afterwards nothing is left of it."""
    assert processes.ctl("start", "p1")["status"] == "RUNNING"
    yield ProcessSandbox(processes, "p1")
    processes.remove("p1")


def test_a_conversation_lives_under_the_drop_in(processes: Service, sandbox: ProcessSandbox) -> None:
    """It starts, pauses, resumes, stops and restarts; what is paused is frozen by the kernel, and thawed again."""
    sandbox.write_notes("first")
    assert served(processes, "p1") == "first"
    assert not sandbox.is_frozen()
    assert processes.ctl("pause", "p1")["status"] == "PAUSED"
    assert sandbox.is_frozen()
    assert processes.ctl("resume", "p1")["status"] == "RUNNING"
    assert not sandbox.is_frozen()
    life = sandbox.life()
    assert processes.ctl("stop", "p1")["status"] == "STOPPED"
    assert sandbox.left_of(life) == []
    assert processes.ctl("restart", "p1")["status"] == "RUNNING"
    assert served(processes, "p1") == "first"


def test_what_runs_there_has_the_daemons_user_and_no_more(processes: Service, sandbox: ProcessSandbox) -> None:
    """No capability and no way to get one, no group such as the engine's, and no mercy of the OOM killer."""
    _, main = sandbox.pids()
    status, machine = processes.status_of(main), processes.machine
    assert set(status["Uid"].split()) == {machine.run("id", "-u", "conversationd").strip()} != {"0"}
    assert status["Groups"] == machine.run("id", "-g", "conversationd").strip()
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert machine.run("cat", f"/proc/{main}/oom_score_adj").strip() == "0"


def test_a_sandbox_has_a_group_below_the_units(processes: Service, sandbox: ProcessSandbox) -> None:
    """Its processes are in it, its keeper is in the unit's own, and the daemon says which limits nobody keeps."""
    keeper, main = sandbox.pids()
    assert members(processes.machine, sandbox.group) == {main}
    assert members(processes.machine, GROUP) == {keeper, processes.says("MainPID")}
    controllers = processes.machine.run("cat", f"{home(processes)}/cgroup.subtree_control").split()
    engine = processes.ctl("info")["engine"]
    assert ("memory, pids_limit, cpus limit nothing here" in str(engine)) == (controllers == [])


@pytest.mark.parametrize("disturb", [restart, kill, stop_and_start])
def test_sandboxes_outlive_the_daemon(
    processes: Service, sandbox: ProcessSandbox, disturb: Callable[[Service], None]
) -> None:
    """The same processes run on in the same incarnation, and have their files, where they may write more."""
    sandbox.write_notes("before")
    before = sandbox.life()
    disturb(processes)
    found = processes.ctl("get", "p1")
    assert (found["status"], found["observed"], found["incarnation"], found["restarts"]) == ("RUNNING", "live", 1, 0)
    assert sandbox.life() == before
    assert (served(processes, "p1"), sandbox.read_notes()) == ("before", {"before"})
    sandbox.write_notes("after")
    assert (served(processes, "p1"), sandbox.read_notes()) == ("after", {"after"})


def test_paused_sandboxes_outlive_the_daemon(processes: Service, sandbox: ProcessSandbox) -> None:
    """The same processes, still frozen; the next daemon thaws them."""
    processes.ctl("pause", "p1")
    before = sandbox.life()
    kill(processes)
    found = processes.ctl("get", "p1")
    assert (found["status"], found["incarnation"], sandbox.is_frozen()) == ("PAUSED", 1, True)
    assert processes.ctl("resume", "p1")["status"] == "RUNNING"
    assert (sandbox.life(), sandbox.is_frozen()) == (before, False)


def test_a_later_daemon_ends_what_an_earlier_one_started(processes: Service, sandbox: ProcessSandbox) -> None:
    """A keeper that is killed takes its sandbox along, though each daemon has a user namespace of its own."""
    processes.systemctl("restart")
    life, (keeper, _) = sandbox.life(), sandbox.pids()
    processes.machine.run("kill", "-9", keeper)
    processes.await_conversation("p1", status="RUNNING", incarnation=2)
    assert sandbox.left_of(life) == []


def test_what_ends_while_the_service_is_stopped_is_restarted(processes: Service, sandbox: ProcessSandbox) -> None:
    """Its end is noted without a daemon, and nothing is left in the unit's group, nor the group; the note is kept."""
    sandbox.write_notes("kept")
    life, (_, main) = sandbox.life(), sandbox.pids()
    processes.systemctl("stop")
    processes.machine.run("kill", main)
    processes.await_that("ControlGroup", lambda group: group == "")
    assert sandbox.left_of(life) == []
    processes.systemctl("start")
    processes.await_conversation("p1", status="RUNNING", incarnation=2)
    assert ProcessSandbox(processes, "p1", 2).read_notes() == {"kept"}


def test_nothing_is_left_of_what_was_deleted(processes: Service) -> None:
    """No process, no keeper and no group of it; once the service is stopped, not the unit's group either."""
    for conversation in ("p1", "p2"):
        processes.ctl("start", conversation)
    sandboxes = [ProcessSandbox(processes, conversation) for conversation in ("p1", "p2")]
    lives = [sandbox.life() for sandbox in sandboxes]
    processes.systemctl("restart")
    processes.ctl("pause", "p2")
    assert left_on_host(processes.instance) != []
    for conversation in ("p1", "p2"):
        processes.remove(conversation)
    assert [sandbox.left_of(life) for sandbox, life in zip(sandboxes, lives, strict=True)] == [[], []]
    assert left_on_host(processes.instance) == []
    assert all_members(processes.machine, GROUP) == {processes.says("MainPID")}
    processes.systemctl("stop")
    assert processes.machine.ask("test", "-e", GROUP).returncode == 1
    processes.systemctl("start")


def test_without_the_drop_in_sandboxes_end_and_nothing_is_lost(processes: Service, sandbox: ProcessSandbox) -> None:
    """The daemon says what is missing and what is in sight; with it the conversation is restarted in its workspace."""
    sandbox.write_notes("kept")
    life = sandbox.life()
    processes.remove_drop_in()
    assert sandbox.left_of(life) == []
    found = processes.ctl("get", "p1")
    assert (found["status"], found["observed"], found["incarnation"]) == ("RUNNING", "unknown", 1)
    assert "ProcSubset=all" in processes.journal_text()
    processes.install_drop_in()
    processes.await_conversation("p1", status="RUNNING", incarnation=2)
    assert served(processes, "p1") == "kept"
