"""A process sandbox of the service, seen behind the daemon's back."""

import json
from typing import Final
from urllib.request import urlopen

from supervisor.conversation.ids import parse_conversation_id
from supervisor.sandbox.names import owner_name, sandbox_name
from tests.service.machine import Machine
from tests.service.service import GROUP, Service

NOTE: Final = "note"

_WITHIN: Final = 10.0
_START: Final = 19  # of what follows the name in /proc/PID/stat
_PLACES: Final = (".", "/tmp", "/var/tmp", "/dev/shm")


class ProcessSandbox:
    """The processes and the control group of a conversation's incarnation, and where its agent writes."""

    def __init__(self, service: Service, conversation: str, incarnation: int = 1) -> None:
        name = sandbox_name(service.instance, parse_conversation_id(conversation), incarnation)
        self._machine = service.machine
        self._directory = f"/var/lib/conversationd/sandboxes/{name}"
        self.group = f"{home(service)}/{name}"

    def pids(self) -> tuple[str, str]:
        """Its keeper and its main process, as they are written down."""
        running = json.loads(self._machine.run("cat", f"{self._directory}/running.json"))
        return str(running["keeper"][0]), str(running["main"][0])

    def life(self) -> dict[str, str]:
        """All of its processes that live, with their start in clock ticks since the boot."""
        keeper, main = self.pids()
        in_group = members(self._machine, self.group)
        assert main in in_group
        starts = {pid: self._started(pid) for pid in (keeper, *in_group)}
        return {pid: start for pid, start in starts.items() if start}

    def left_of(self, life: dict[str, str]) -> list[str]:
        """Those of its processes that live still."""
        return [pid for pid, start in life.items() if self._started(pid) == start]

    def is_frozen(self) -> bool:
        """Whether the kernel says that nobody moves in it."""
        return "frozen 1" in self._machine.run("cat", f"{self.group}/cgroup.events").splitlines()

    def write_notes(self, text: str) -> None:
        """Write one, as its agent could, into every place that is its own: its workspace is where it is run."""
        self._inside(f"for place in {' '.join(_PLACES)}; do echo {text} >$place/{NOTE}; done")

    def read_notes(self) -> set[str]:
        """What they say, as its agent sees them."""
        return set(self._inside(f"for place in {' '.join(_PLACES)}; do cat $place/{NOTE}; done").split())

    def _inside(self, script: str) -> str:
        _, main = self.pids()
        user = self._machine.run("id", "-u", "conversationd").strip()
        group = self._machine.run("id", "-g", "conversationd").strip()
        enter = ("nsenter", f"--target={main}", "--mount", "--wd", f"--setuid={user}", f"--setgid={group}")
        return self._machine.run(*enter, "sh", "-ec", script)

    def _started(self, pid: str) -> str:
        stat = self._machine.ask("cat", f"/proc/{pid}/stat").stdout
        return stat.rpartition(")")[2].split()[_START] if stat else ""


def members(machine: Machine, group: str) -> set[str]:
    """Who is in a control group itself."""
    return set(machine.run("cat", f"{group}/cgroup.procs").split())


def all_members(machine: Machine, group: str) -> set[str]:
    """Who is in a control group or below it."""
    return set(machine.run("find", group, "-name", "cgroup.procs", "-exec", "cat", "{}", "+").split())


def home(service: Service) -> str:
    """The control group below the unit's that has those of all sandboxes."""
    return f"{GROUP}/{owner_name(service.instance)}"


def served(service: Service, conversation: str) -> str:
    """The note in its workspace, as its server gives it to whoever asks at its URL."""
    sandbox = service.ctl("get", conversation)["sandbox"]
    assert isinstance(sandbox, dict)
    with urlopen(f"{sandbox['url']}/{NOTE}", timeout=_WITHIN) as answer:
        content: bytes = answer.read()
    return content.decode().strip()
