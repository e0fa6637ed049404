"""The body of the engine's create call for a plan: everything that confines a sandbox, in one pure place."""

import os.path
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from supervisor.conversation.errors import Forbidden
from supervisor.conversation.json import JsonObject, JsonValue
from supervisor.conversation.spec import Mount, SandboxSpec
from supervisor.sandbox.docker.names import Names
from supervisor.sandbox.port import SandboxPlan

ENGINE_SOCKETS: Final = ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock")
"""Where engines listen. Whoever reaches one of these from inside a sandbox owns the host."""

READ_ONLY_PATHS: Final = tuple(
    f"/proc/{name}"
    for name in (
        # The engine's own list, which naming any path replaces.
        *("bus", "fs", "irq", "sys", "sysrq-trigger"),
        # The host's: root inside owns them, and could set their modes for every sandbox and the host, without any
        # capability. The engine passes over those that its kernel does not have.
        *("allocinfo", "asound", "bootconfig", "buddyinfo", "cgroups", "cmdline", "config.gz", "consoles", "cpuinfo"),
        *("crypto", "devices", "diskstats", "dma", "driver", "dynamic_debug", "execdomains", "fb", "filesystems"),
        *("interrupts", "iomem", "ioports", "kallsyms", "key-users", "kmsg", "kpagecgroup", "kpagecount", "kpageflags"),
        *("loadavg", "lock_stat", "lockdep", "lockdep_chains", "lockdep_stats", "locks", "mdstat", "meminfo", "misc"),
        *("modules", "mtrr", "pagetypeinfo", "partitions", "pressure", "profile", "schedstat", "slabinfo", "softirqs"),
        *("stat", "swaps", "sysvipc", "timer_stats", "tty", "uptime", "version", "version_signature", "vmallocinfo"),
        *("vmcore", "vmstat", "zoneinfo"),
    )
)
"""What a sandbox sees of the kernel's files, but may not change."""

_NANO: Final = 1_000_000_000
_LEAST_CPUS: Final = 0.01
_NO_NETWORK: Final = "none"


def create_body(plan: SandboxPlan, names: Names, cores: int, sockets: Sequence[str] = ENGINE_SOCKETS) -> JsonObject:
    """What the engine is asked to create. `cores` is how many the engine's host has, `sockets` what no mount may show.

    Raises:
        Forbidden: the spec asks for the host's network, another container's, or a mount that shows an engine's socket.
    """
    spec = plan.spec
    _check_network(spec.network)
    _check_mounts(spec.mounts, sockets)
    port = spec.port if spec.network != _NO_NETWORK else None
    body: dict[str, JsonValue] = {
        "Image": spec.image,
        "Env": [f"{name}={value}" for name, value in plan.env.items()],
        "Labels": dict(names.container_labels(plan.conversation, plan.incarnation)),
        "Tty": False,
        "OpenStdin": False,
        "ExposedPorts": {} if port is None else {f"{port}/tcp": {}},
        "HostConfig": _host_config(plan, names, cores, port),
    }
    if spec.command is not None:
        body["Cmd"] = list(spec.command)
    if spec.entrypoint is not None:
        body["Entrypoint"] = list(spec.entrypoint)
    if spec.user is not None:
        body["User"] = spec.user
    if spec.working_dir is not None:
        body["WorkingDir"] = spec.working_dir
    return body


def _host_config(plan: SandboxPlan, names: Names, cores: int, port: int | None) -> JsonObject:
    spec = plan.spec
    loopback: JsonObject = {"HostIp": "127.0.0.1", "HostPort": ""}
    return {
        **_limits(spec, cores),
        "Init": spec.init,
        **({"Runtime": spec.runtime} if spec.runtime else {}),
        "Privileged": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyPaths": list(READ_ONLY_PATHS),
        "Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "RestartPolicy": {"Name": "no"},
        "NetworkMode": spec.network,
        "PortBindings": {} if port is None else {f"{port}/tcp": [loopback]},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}},
        "Mounts": [
            {
                "Type": "volume",
                "Source": names.workspace(plan.conversation),
                "Target": spec.workspace,
                # The engine makes it with these if it was removed meanwhile; without them it would be a stranger's.
                "VolumeOptions": {"Labels": names.workspace_labels(plan.conversation)},
            },
            *({"Type": "bind", "Source": m.source, "Target": m.target, "ReadOnly": m.read_only} for m in spec.mounts),
        ],
    }


def _limits(spec: SandboxSpec, cores: int) -> JsonObject:
    """Engines refuse more cores than their host has, so a spec that was written for a bigger host gets all of them."""
    cpus = max(_LEAST_CPUS, min(spec.cpus, cores))
    return {
        "Memory": spec.memory,
        "MemorySwap": spec.memory,
        "NanoCpus": round(cpus * _NANO),
        "PidsLimit": spec.pids_limit,
    }


def _check_network(network: str) -> None:
    if network == "host" or network.startswith("container:"):
        raise Forbidden(f"a sandbox never shares the network of {network!r}: name a bridge or 'none'", "spec.network")


def _check_mounts(mounts: Sequence[Mount], sockets: Sequence[str]) -> None:
    for number, mount in enumerate(mounts):
        for source in (os.path.normpath(mount.source), os.path.realpath(mount.source)):
            if any(_shows(source, socket) for socket in sockets):
                raise Forbidden(
                    f"mounting {mount.source!r} would give the sandbox a container engine's socket, and with it the "
                    f"host: mount something else",
                    f"spec.mounts[{number}]",
                )


def _shows(source: str, socket: str) -> bool:
    return any(PurePosixPath(path).is_relative_to(source) for path in (socket, os.path.realpath(socket)))
