"""The systemd files, judged by systemd itself."""

import configparser
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).parent.parent / "systemd"
UNIT = SYSTEMD / "conversationd.service"
PROCESS_DROP_IN = SYSTEMD / "conversationd-process.conf"
PROGRAMS = ("/opt/conversationd/bin/conversationd", "/bin/kill")
TARGETS = ("sysinit", "basic", "network", "shutdown", "multi-user")


def _run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which(str(command[0]))
    if program is None:
        pytest.fail(f"{command[0]} is missing: install the package systemd (apt-get install systemd)")
    return subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The root of a host on which the unit is installed; what it refers to are stand-ins."""
    units = tmp_path / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for target in TARGETS:
        (units / f"{target}.target").write_text("[Unit]\nDescription=stand-in\n")
    (units / "docker.service").write_text("[Service]\nExecStart=/bin/kill\n")
    for program in PROGRAMS:
        path = tmp_path / program.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    installed = tmp_path / "etc/systemd/system"
    installed.mkdir(parents=True)
    shutil.copy(UNIT, installed)
    return tmp_path


def _verify(host: Path) -> subprocess.CompletedProcess[str]:
    return _run(
        "systemd-analyze", "verify", "--man=no", "--recursive-errors=yes", f"--root={host}", "conversationd.service"
    )


def test_unit_is_verified_without_a_word(host: Path) -> None:
    """`systemd-analyze verify` knows every key and value of the unit, and finds every program."""
    result = _verify(host)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


def test_the_drop_in_for_processes_is_verified_without_a_word(host: Path) -> None:
    """`systemd-analyze verify` knows every key and value of it, and a mistake in it would be complained about."""
    drop_ins = host / "etc/systemd/system/conversationd.service.d"
    drop_ins.mkdir()
    installed = drop_ins / "process.conf"
    shutil.copy(PROCESS_DROP_IN, installed)
    result = _verify(host)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")
    installed.write_text(PROCESS_DROP_IN.read_text().replace("KillMode=", "KillMood="))
    assert "Unknown key" in _verify(host).stderr


def test_the_drop_in_lets_sandboxes_outlive_the_daemon() -> None:
    """Only the daemon is ended, and it may freeze what it left."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # keys keep their case
    parser.read(PROCESS_DROP_IN)
    service = parser["Service"]
    assert (service["KillMode"], service["Delegate"], service["ProtectControlGroups"]) == ("process", "yes", "no")
    assert (service["ProcSubset"], service["OOMPolicy"]) == ("all", "continue")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("WatchdogSec=", "WatchdogSeconds=", "Unknown key"),
        ("@system-service", "@nonsense", "Unknown system call group"),
        ("/opt/conversationd/bin/conversationd", "/opt/nowhere", "is not executable"),
    ],
)
def test_verification_would_find_a_mistake(host: Path, old: str, new: str, complaint: str) -> None:
    """The test above can fail: a wrong key, value or path is complained about."""
    installed = host / "etc/systemd/system" / UNIT.name
    installed.write_text(UNIT.read_text().replace(old, new))
    result = _verify(host)
    assert complaint in result.stderr
    assert result.returncode != 0


def test_unit_is_exposed_no_more_than_the_engine_needs() -> None:
    """`systemd-analyze security` gives 3.0 or less; what is left is the network, the engine's group and no more."""
    result = _run("systemd-analyze", "security", "--offline=true", "--no-pager", UNIT)
    score = re.search(r"Overall exposure level for \S+: ([0-9.]+)", result.stdout)
    assert score is not None, result.stderr
    assert float(score[1]) <= 1.5


def test_every_open_door_of_the_unit_is_known() -> None:
    """Only these are open: local and internet sockets, the group of the engine, and the host's own root directory."""
    result = _run("systemd-analyze", "security", "--offline=true", "--no-pager", "--json=short", UNIT)
    doors = {door["name"] for door in json.loads(result.stdout) if door["set"] is False}
    assert doors == {
        "RootDirectory=/RootImage=",
        "SupplementaryGroups=",
        "RestrictAddressFamilies=~AF_UNIX",
        "RestrictAddressFamilies=~AF_(INET|INET6)",
        "PrivateNetwork=",
        "DeviceAllow=",  # the real-time clock, for reading, which comes with ProtectClock
        "IPAddressDeny=",
    }


def test_unit_agrees_with_the_daemon() -> None:
    """What the daemon's contract says of systemd stands in the unit."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # keys keep their case
    parser.read(UNIT)
    service = parser["Service"]
    assert (service["Type"], service["NotifyAccess"], service["Restart"]) == ("notify", "main", "on-failure")
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["RestartPreventExitStatus"] == "78"
    assert {service["StateDirectory"], service["RuntimeDirectory"]} == {"conversationd"}
    assert "docker.service" not in parser["Unit"].get("Requires", "")


def test_sysusers_file_makes_the_units_user(tmp_path: Path) -> None:
    """`systemd-sysusers` makes the user, and makes it no member of the engine's group: that is the unit's to give."""
    rules = tmp_path / "etc/sysusers.d"
    rules.mkdir(parents=True)
    shutil.copy(SYSTEMD / "conversationd.sysusers.conf", rules / "conversationd.conf")
    result = _run("systemd-sysusers", f"--root={tmp_path}")
    assert result.returncode == 0, result.stderr
    users = (tmp_path / "etc/passwd").read_text()
    groups = (tmp_path / "etc/group").read_text()
    assert re.search(r"^conversationd:.*:/var/lib/conversationd:/usr/sbin/nologin$", users, re.MULTILINE)
    assert re.search(r"^docker:[^:]*:[0-9]+:$", groups, re.MULTILINE)
