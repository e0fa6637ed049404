"""The unit under a real systemd: what an operator relies on, with real conversations in real containers."""

import time

import docker
import pytest

from supervisor.conversation.json import JsonObject
from tests.service.service import CONFIG, Service

EX_CONFIG = "78"

SEND = """
import socket, sys
open("/sys/fs/cgroup/system.slice/conversationd.service/cgroup.procs", "w").write("0")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
    probe.sendto(b"x", (sys.argv[1], 9))
"""


class Sandbox:
    """A conversation's container, seen behind the daemon's back."""

    def __init__(self, raw: docker.APIClient, conversation: JsonObject) -> None:
        sandbox = conversation["sandbox"]
        assert isinstance(sandbox, dict)
        self._raw = raw
        self._id = str(sandbox["id"])

    def life(self) -> tuple[object, ...]:
        """What changes when it is disturbed: its process, when it was started, how it is."""
        state = self._raw.inspect_container(self._id)["State"]
        return state["Pid"], state["StartedAt"], state["Status"]


@pytest.fixture(scope="module")
def conversation(service: Service, tiny_image: str) -> str:
    """A conversation that runs through all of these tests."""
    assert service.start("c1", tiny_image)["status"] == "RUNNING"
    return "c1"


@pytest.fixture
def sandbox(service: Service, conversation: str, raw: docker.APIClient) -> Sandbox:
    """Its sandbox."""
    return Sandbox(raw, service.ctl("get", conversation))


def test_start_returns_when_all_is_reconciled(service: Service, conversation: str) -> None:
    """READY=1 comes after the recorded conversations were adopted; the one who started it can ask at once."""
    began = time.time()
    service.systemctl("restart")
    assert service.says("ActiveState") == "active"
    found = service.ctl("get", conversation)
    assert (found["status"], found["observed"], found["incarnation"]) == ("RUNNING", "live", 1)
    (adopted,) = [line for line in service.journal(began) if "conversations.adopted" in str(line["MESSAGE"])]
    assert int(str(adopted["__MONOTONIC_TIMESTAMP"])) < int(service.says("ActiveEnterTimestampMonotonic"))


def test_a_conversation_lives_under_the_hardening(service: Service, conversation: str, tiny_image: str) -> None:
    """Start, pause, resume, stop, restart, archive and delete all work; the status line counts what runs."""
    service.await_that("StatusText", lambda text: text == "conversations: 1 running, 0 starting, 0 paused, 0 error")
    assert service.start("c2", tiny_image)["status"] == "RUNNING"
    service.await_that("StatusText", lambda text: text.startswith("conversations: 2 running"))
    for command, status in (("pause", "PAUSED"), ("resume", "RUNNING"), ("stop", "STOPPED"), ("restart", "RUNNING")):
        assert service.ctl(command, "c2")["status"] == status
    assert service.ctl("stop", "c2", "--force")["status"] == "STOPPED"
    assert service.ctl("archive", "c2")["status"] == "ARCHIVED"
    service.ctl("delete", "c2")


def test_daemon_is_a_user_without_rights(service: Service) -> None:
    """The kernel sees no capability, no way to get one, a filter of system calls, and no core to dump."""
    status = service.process_status()
    uid = service.machine.run("id", "-u", "conversationd").strip()
    assert set(status["Uid"].split()) == {uid}
    assert uid != "0"
    assert {int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    limits = service.machine.run("cat", f"/proc/{service.says('MainPID')}/limits")
    assert "Max core file size        0                    0" in limits


@pytest.mark.parametrize(("address", "code"), [("127.0.0.1", 0), ("172.17.0.1", 0), ("203.0.113.1", 1)])
def test_daemon_reaches_this_host_only(service: Service, address: str, code: int) -> None:
    """What runs as part of the service sends to loopback and to containers, and to nobody elsewhere."""
    done = service.machine.ask("/usr/bin/python3", "-c", SEND, address)
    assert done.returncode == code, done.stderr
    assert ("PermissionError" in done.stderr) == (code == 1)


@pytest.mark.parametrize(("group", "code"), [("conversationd", 0), ("nogroup", 6)])
def test_its_group_may_use_conversationctl(service: Service, group: str, code: int) -> None:
    """Who is in the group reaches the daemon, others do not."""
    who = ("setpriv", "--reuid=nobody", "--regid=nogroup", f"--groups={group}")
    done = service.machine.ask(*who, "/opt/conversationd/bin/conversationctl", "list")
    assert done.returncode == code, done.stderr


def test_a_killed_daemon_is_back_and_disturbs_no_sandbox(service: Service, conversation: str, sandbox: Sandbox) -> None:
    """After kill -9 systemd starts it again; the conversation runs on in the same incarnation."""
    before, killed = sandbox.life(), service.says("MainPID")
    service.machine.run("kill", "-9", killed)
    service.await_restart(killed)
    found = service.ctl("get", conversation)
    assert (found["status"], found["incarnation"], found["restarts"]) == ("RUNNING", 1, 0)
    assert sandbox.life() == before


def test_a_stuck_daemon_is_ended_by_the_watchdog(service: Service, conversation: str, sandbox: Sandbox) -> None:
    """One that makes no progress is ended, says where it was, and is started again. The unit's 30 s are 3 s here."""
    service.configure("WatchdogSec=3s")
    service.systemctl("restart")
    before, stuck, began = sandbox.life(), service.says("MainPID"), time.time()
    service.machine.run("kill", "-STOP", stuck)
    service.await_restart(stuck)
    service.configure()
    assert service.ctl("get", conversation)["incarnation"] == 1
    assert sandbox.life() == before
    told = {str(line["MESSAGE"]): line["PRIORITY"] for line in service.journal(began) if line.get("_PID") == stuck}
    assert told["Fatal Python error: Aborted"] == "3"


def test_reload_takes_a_changed_config_and_refuses_a_wrong_one(service: Service, conversation: str) -> None:
    """What can change does so while conversations run; a wrong file fails the reload, in words, and changes nothing."""
    daemon, good = service.says("MainPID"), service.machine.run("cat", CONFIG)
    began = time.time()
    service.write(CONFIG, good.replace("max_running = 256", "max_running = 7"))
    service.systemctl("reload")
    service.await_that("ReloadResult", lambda result: result == "success" and service.capacity() == 7)
    service.write(CONFIG, "nonsense = 1\n")
    assert service.machine.ask("systemctl", "reload", "conversationd").returncode == 1
    service.write(CONFIG, good)
    assert service.capacity() == 7
    assert (service.says("MainPID"), service.says("ActiveState")) == (daemon, "active")
    errors = service.errors(began)
    assert [error.partition(";")[0] for error in errors] == [f"{CONFIG}: nonsense: unknown key"], errors
    service.systemctl("reload")
    service.await_that("ReloadResult", lambda result: result == "success" and service.capacity() == 256)


def test_a_wrong_config_is_told_and_not_tried_again(service: Service, sandbox: Sandbox) -> None:
    """A start over a wrong config ends with 78, which no restart follows; a right one starts over the same sandbox."""
    before, good = sandbox.life(), service.machine.run("cat", CONFIG)
    service.systemctl("stop")
    service.write(CONFIG, '[timeouts]\nstart = "soon"\n')
    began = time.time()
    assert service.machine.ask("systemctl", "start", "conversationd").returncode == 1
    assert [service.says(name) for name in ("ExecMainStatus", "ActiveState", "NRestarts")] == [EX_CONFIG, "failed", "0"]
    (error,) = service.errors(began)
    assert error.startswith(f"{CONFIG}: timeouts.start: 'soon'")
    service.write(CONFIG, good)
    service.systemctl("start")
    assert sandbox.life() == before


def test_stop_and_start_leave_the_sandboxes_alone(service: Service, conversation: str, sandbox: Sandbox) -> None:
    """By default conversations outlive the service, whose end is a good one; they are there again when it is."""
    before = sandbox.life()
    service.systemctl("stop")
    assert [service.says(name) for name in ("ActiveState", "Result", "ExecMainStatus")] == ["inactive", "success", "0"]
    assert sandbox.life() == before
    service.systemctl("start")
    found = service.ctl("get", conversation)
    assert (found["status"], found["incarnation"], found["observed"]) == ("RUNNING", 1, "live")
    assert sandbox.life() == before


def test_the_journal_files_lines_by_their_level(service: Service) -> None:
    """A log line has the priority of its level in the journal, and is JSON without it."""
    ready = next(line for line in service.journal() if "daemon.ready" in str(line["MESSAGE"]))
    assert (ready["PRIORITY"], str(ready["MESSAGE"])[0]) == ("6", "{")
