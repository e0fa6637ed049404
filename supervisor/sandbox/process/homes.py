"""Where on this host the control groups of sandboxes can be made, and what they can limit there."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import attrs

from supervisor.sandbox.process.groups import GroupJson

_UNIFIED: Final = "unified"
_LIMITS: Final = {"memory": "memory", "pids": "pids_limit", "cpu": "cpus"}
"""The controllers that limit something, and what the spec calls that."""

_CONTROLLERS: Final = ("freezer", *_LIMITS)


@attrs.frozen
class Home:
    """Directories, by controller or under `unified`, that the groups of one daemon's sandboxes are made in.

    Without any there are no groups, and no limits. `unlimited` are the spec's limits that are not kept.
    """

    directories: Mapping[str, str] = attrs.field(factory=dict)
    unlimited: tuple[str, ...] = tuple(_LIMITS.values())

    def group(self, name: str) -> GroupJson:
        """The group of a sandbox of this name."""
        return {controller: f"{directory}/{name}" for controller, directory in self.directories.items()}

    def close(self) -> None:
        """Remove the directories that are empty."""
        for directory in self.directories.values():
            with suppress(OSError):
                Path(directory).rmdir()


@attrs.frozen
class Mounted:
    """A hierarchy of control groups: where it is mounted, and the group there that we are in ourselves."""

    controllers: tuple[str, ...]
    root: Path
    own: Path


def find_home(name: str) -> Home:
    """Find the best home that this user can have: one with limits, else one that freezes, else none.

    `name` is the daemon's own: the directories have it.
    """
    homes = [home for home in (unified_home(name), legacy_home(name)) if home is not None]
    best = min(homes, key=lambda home: len(home.unlimited), default=Home())
    for home in homes:
        if home is not best:
            home.close()
    return best


def unified_home(name: str) -> Home | None:
    """A home in the hierarchy of version 2; None if there can be none."""
    for mounted in _mounted():
        if mounted.controllers == (_UNIFIED,):
            # Next to our own group, and only at last in it: a group that has processes can hand no limits on.
            places = _places(mounted.root, mounted.own.parent, mounted.own)
            made = next((home for place in places if (home := _make_unified(place, name)) is not None), None)
            if made is not None and (made / "cgroup.freeze").exists():
                enabled = (made / "cgroup.subtree_control").read_text().split()
                return Home({_UNIFIED: str(made)}, _unlimited(enabled))
    return None


def legacy_home(name: str) -> Home | None:
    """A home in the hierarchies of version 1; None if there can be none."""
    found: dict[str, str] = {}
    for mounted in _mounted():
        for controller in set(mounted.controllers) & set(_CONTROLLERS):
            places = _places(mounted.root, mounted.own)
            made = next((directory for place in places if (directory := _make(place, name)) is not None), None)
            if made is not None:
                found[controller] = str(made)
    home = Home(found, _unlimited(found))
    if "freezer" in found:
        return home
    home.close()
    return None


def _places(*places: Path) -> Sequence[Path]:
    """Those groups in which this user may put processes."""
    return [place for place in dict.fromkeys(places) if os.access(place / "cgroup.procs", os.W_OK)]


def _make(place: Path, name: str) -> Path | None:
    home = place / name
    try:
        home.mkdir(exist_ok=True)
    except OSError:
        return None
    return home


def _make_unified(place: Path, name: str) -> Path | None:
    home = _make(place, name)
    for controller in _LIMITS:
        for directory in (place, home) if home is not None else ():
            with suppress(OSError):
                (directory / "cgroup.subtree_control").write_text(f"+{controller}")
    return home


def _unlimited(controllers: Sequence[str] | Mapping[str, str]) -> tuple[str, ...]:
    return tuple(limit for controller, limit in _LIMITS.items() if controller not in controllers)


def _mounted() -> Sequence[Mounted]:
    own = _own_groups()
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, filesystem = line.partition(" - ")
        kind, _, options = filesystem.split(" ", 2)
        if kind not in ("cgroup", "cgroup2"):
            continue
        inner, root = fields.split()[3:5]
        controllers = (_UNIFIED,) if kind == "cgroup2" else tuple(options.split(","))
        path = next((own[each] for each in controllers if each in own), inner)
        # What is mounted may be a part of the hierarchy, as in a container.
        below = os.path.relpath(path, inner) if path.startswith(inner) else "."
        found.append(Mounted(controllers, Path(root), (Path(root) / below)))
    return found


def _own_groups() -> Mapping[str, str]:
    """The group that we are in, by controller."""
    own: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        own.update(dict.fromkeys(controllers.split(",") if controllers else (_UNIFIED,), path))
    return own
