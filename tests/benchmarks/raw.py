"""The other side of each comparison: the same thing by docker-py alone, without a daemon."""

import itertools
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import docker

from supervisor.conversation.ids import ConversationId
from supervisor.conversation.spec import SandboxSpec
from supervisor.sandbox.docker.hardening import create_body
from supervisor.sandbox.docker.names import Names
from supervisor.sandbox.port import SandboxPlan

OWNER: Final = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
_PORT: Final = 8000
_ACCEPTS_WITHIN: Final = 30.0
_numbers = itertools.count(1)


class RawEngine:
    """docker-py's low-level client, with as many connections as threads will use it."""

    def __init__(self, base_url: str, image_spec: SandboxSpec, threads: int) -> None:
        self.client = docker.APIClient(base_url=base_url, version="auto", max_pool_size=threads)
        self._spec = image_spec
        self._names = Names(OWNER)
        self._cores = int(self.client.info()["NCPU"])

    def create_until_ready(self) -> str:
        """Create and start a container as the daemon makes it, and connect until its port accepts."""
        plan = SandboxPlan(ConversationId(f"raw{next(_numbers)}"), 1, self._spec, self._spec.env)
        body = create_body(plan, self._names, self._cores)
        name = self._names.container(plan.conversation, 1)
        container = str(self.client.create_container_from_config(body, name)["Id"])  # type: ignore[no-untyped-call]  # the stubs leave it out
        self.client.start(container)
        networks = self.client.inspect_container(container)["NetworkSettings"]["Networks"]
        await_port(next(iter(networks.values()))["IPAddress"], _PORT)
        return container

    def create_many(self, count: int, threads: int) -> tuple[float, Sequence[str]]:
        """Create that many at once from a plain thread pool; answers with the seconds for all of them."""
        with ThreadPoolExecutor(threads) as pool:
            began = time.perf_counter()
            containers = list(pool.map(lambda _: self.create_until_ready(), range(count)))
            return time.perf_counter() - began, containers

    def remove(self, containers: Sequence[str]) -> None:
        """Remove containers."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda container: self.client.remove_container(container, force=True), containers))

    def clean(self) -> None:
        """Remove everything that this side has made."""
        label = {"label": self._names.owner_filter()}
        self.remove([container["Id"] for container in self.client.containers(all=True, filters=label)])
        for volume in self.client.volumes()["Volumes"] or ():
            if volume["Name"].startswith(f"conversationd-{OWNER[:8]}-"):
                self.client.remove_volume(volume["Name"])
        self.client.close()


def await_port(host: str, port: int) -> None:
    """Connect, early and often, until somebody accepts."""
    deadline, pause = time.monotonic() + _ACCEPTS_WITHIN, 0.002
    while time.monotonic() < deadline:
        try:
            socket.create_connection((host, port), timeout=1.0).close()
        except OSError:
            time.sleep(pause)
            pause = min(2 * pause, 0.25)
        else:
            return
    raise TimeoutError(f"{host}:{port} did not accept in {_ACCEPTS_WITHIN:g} s")
