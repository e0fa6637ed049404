"""conversationd as the README installs it on a machine, and what systemd and `conversationctl` say of it."""

import json
import re
import time
from collections.abc import Callable
from typing import Final

from supervisor.conversation.json import JsonObject
from tests.service.machine import ROOT, Machine

CONFIG: Final = "/etc/conversationd/conversationd.toml"

GROUP: Final = "/sys/fs/cgroup/system.slice/conversationd.service"
"""The unit's control group."""

_UNIT: Final = "conversationd.service"
_CONVERSATIONCTL: Final = "/opt/conversationd/bin/conversationctl"
_DROP_IN: Final = f"/etc/systemd/system/{_UNIT}.d/test.conf"
_PATIENCE: Final = 60.0


def install_commands() -> list[str]:
    """The commands of the README's section on it."""
    section = re.search(
        r"^## As a service\n.*?^```sh\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert section is not None
    return section[1].splitlines()


def drop_in_commands() -> list[str]:
    """The commands in the head of the drop-in for process sandboxes."""
    head, _, _ = (ROOT / "systemd/conversationd-process.conf").read_text().partition("[Service]")
    commands: list[str] = re.findall(r"^#   (\S.*)$", head, re.MULTILINE)
    assert commands
    return commands


class Service:
    """The service on its machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.instance = ""

    def install(self) -> None:
        """Install and start it as the README says; from then on `instance` is the owner that its sandboxes carry."""
        for command in install_commands():
            self.machine.run("sh", "-c", command)
        self.instance = str(self.ctl("info")["instance"])

    def install_drop_in(self) -> None:
        """Make it a service of process sandboxes, as the head of the drop-in says."""
        for command in drop_in_commands():
            self.machine.run("sh", "-c", command)

    def remove_drop_in(self) -> None:
        """Undo that."""
        self.machine.run("rm", drop_in_commands()[0].split()[-1])
        self.machine.run("systemctl", "daemon-reload")
        self.systemctl("restart")

    def systemctl(self, verb: str) -> None:
        """What an operator does with it: `start`, `stop`, `restart`, `reload`."""
        self.machine.run("systemctl", verb, _UNIT)

    def says(self, name: str) -> str:
        """A property that systemd knows of it."""
        return self.machine.run("systemctl", "show", "--value", f"--property={name}", _UNIT).strip()

    def await_that(self, name: str, is_so: Callable[[str], bool]) -> str:
        """Ask for a property until it is so; asking is a process each time, which is pause enough."""
        deadline = time.monotonic() + _PATIENCE
        while not is_so(value := self.says(name)):
            assert time.monotonic() < deadline, f"{name} is still {value!r}:\n{self.journal_text()}"
        return value

    def await_restart(self, killed: str) -> None:
        """Wait until another process than the one that was killed is ready."""
        self.await_that("MainPID", lambda pid: pid not in ("0", killed))
        self.await_that("ActiveState", lambda state: state == "active")

    def configure(self, *settings: str) -> None:
        """Put settings of `[Service]` beside the unit, until they are replaced; none are the unit's own."""
        lines = "\n".join(("[Service]", *settings))
        self.write(_DROP_IN, f"{lines}\n")
        self.machine.run("systemctl", "daemon-reload")

    def write(self, path: str, text: str) -> None:
        """Write a file of the machine."""
        self.machine.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"', "sh", path, text)

    def ctl(self, *arguments: str) -> JsonObject:
        """What `conversationctl` answers."""
        answer: JsonObject = json.loads(self.machine.run(_CONVERSATIONCTL, *arguments, "--json"))
        return answer

    def await_conversation(self, conversation: str, **fields: object) -> None:
        """Ask for a conversation until these of its fields are so."""
        deadline = time.monotonic() + _PATIENCE
        while {name: (found := self.ctl("get", conversation))[name] for name in fields} != fields:
            assert time.monotonic() < deadline, f"{found}:\n{self.journal_text()}"

    def remove(self, conversation: str) -> None:
        """Leave nothing of a conversation, whatever it is doing."""
        self.ctl("stop", conversation, "--force")
        self.ctl("archive", conversation)
        self.ctl("delete", conversation)

    def start(self, conversation: str, image: str) -> JsonObject:
        """Start a conversation of the driver `none`, with a program that listens on a port."""
        what = ("--agent=none", f"--image={image}", "--memory=64MiB", "--port=8000", "--command=httpd -f -p 8000")
        return self.ctl("start", conversation, *what)

    def process_status(self) -> dict[str, str]:
        """What the kernel says of the daemon."""
        return self.status_of(self.says("MainPID"))

    def status_of(self, pid: str) -> dict[str, str]:
        """What the kernel says of a process of the machine: the lines of `/proc/PID/status`."""
        lines = self.machine.run("cat", f"/proc/{pid}/status").splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def journal(self, since: float = 0.0) -> list[JsonObject]:
        """Its lines in the journal, since a time of the epoch."""
        text = self.machine.run("journalctl", "--unit", _UNIT, "--output=json", f"--since=@{since:.6f}")
        return [json.loads(line) for line in text.splitlines()]

    def errors(self, since: float) -> list[str]:
        """What it said as errors, since a time of the epoch."""
        own = [line for line in self.journal(since) if line["_COMM"] != "systemd" and line["PRIORITY"] == "3"]
        return [str(line["MESSAGE"]) for line in own]

    def capacity(self) -> int:
        """How many conversations may run, as it says itself."""
        capacity = self.ctl("info")["capacity"]
        assert isinstance(capacity, dict)
        return int(str(capacity["max_running"]))

    def journal_text(self) -> str:
        """The end of the same for people."""
        return self.machine.run("journalctl", "--unit", _UNIT, "--lines=30")
