"""What tests look at on this host behind the process provider's back. No pytest in here."""

import os
from collections.abc import Iterator
from pathlib import Path

from supervisor.sandbox.names import owner_name


def left_on_host(owner: str) -> list[str]:
    """The processes and control groups on this host that are an owner's sandboxes', in words."""
    name = owner_name(owner)
    # Not by a glob, which fails if a group of somebody else's goes away meanwhile.
    groups = [path for path, _, _ in os.walk("/sys/fs/cgroup") if Path(path).parent.name == name]
    return groups + [f"process {pid}: {words}" for pid, words in owned_processes(name)]


def owned_processes(name: str) -> Iterator[tuple[int, str]]:
    """The processes whose command line or environment has a sandbox's name, or what it begins with."""
    for pid in all_pids():
        said = [*_read(pid, "cmdline"), *_read(pid, "environ")]
        if pid != os.getpid() and any(name in word for word in said):
            yield pid, " ".join(_read(pid, "cmdline"))


def all_pids() -> list[int]:
    """Of every process of this host that can be seen."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def command_lines() -> list[str]:
    """Of every process of this host that can be seen."""
    return [" ".join(_read(pid, "cmdline")) for pid in all_pids()]


def _read(pid: int, file: str) -> list[str]:
    try:
        return Path(f"/proc/{pid}/{file}").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
