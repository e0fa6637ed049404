"""How much room there is where we, and the engine, write."""

import os
from collections.abc import Iterable
from pathlib import Path

from supervisor.alerts.rules import DiskSpace


def look_at_disks(paths: Iterable[Path]) -> tuple[DiskSpace, ...]:
    """Ask each file system once, by the first path on it; one that cannot be seen from here is left out. Blocks."""
    seen: dict[int, DiskSpace] = {}
    for path in paths:
        try:
            device, space = path.stat().st_dev, os.statvfs(path)
        except OSError:  # an engine may have its own view of the host
            continue
        seen.setdefault(device, DiskSpace(path, space.f_bavail * space.f_frsize))
    return tuple(seen.values())
