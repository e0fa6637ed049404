"""The bench of a remote host: a second daemon, which serves its runtime API, over the real Docker Engine."""

import socket
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import attrs
import docker
import httpx2
import pytest
import trio

from supervisor.sandbox.port import SandboxPlan, SandboxProvider
from supervisor.sandbox.remote import Host, RemoteProvider
from supervisor.sandbox.remote.address import parse_host_address
from tests.conformance.benches.bench import Bench, Promises, plan_of
from tests.daemon_fixtures import remove_leftovers
from tests.daemon_process import DaemonProcess, running_daemon
from tests.http_door import HTTP, http_door

SERVE = "mkdir /tmp/www; cd /tmp/www; touch ready alive health; httpd -p 8000 -h .; echo hello; "
"""An agent server as far as anybody asks it here; what it does then follows."""


PATIENCE = 30.0
RESTARTS_NONE = '[restart]\nmode = "never"\n'

_PROMISES = Promises(
    keeps_what_ended=False,
    keeps_workspaces=False,
    tells_exit_codes=False,
    tells_output=False,
    exports=False,
    knows_foreign=False,
)


def host_config(image: str, restart: str = RESTARTS_NONE) -> str:
    """A host of small sandboxes; `restart` is its table of that name."""
    return (
        f'[sandbox]\nimage = "{image}"\npull = "never"\nmemory = "64MiB"\n{restart}[health]\ninterval = "200ms"\n{HTTP}'
    )


@contextmanager
def running_host(engine_url: str, image: str) -> Iterator[DaemonProcess]:
    """A daemon that is the host, and nothing of it left on the engine at the end."""
    raw = docker.APIClient(base_url=engine_url, version="auto")
    try:
        with running_daemon(host_config(image), {"DOCKER_HOST": engine_url}) as daemon:
            try:
                yield daemon
            finally:
                remove_leftovers(raw, daemon)
    finally:
        raw.close()


@attrs.define
class RemoteBench:
    """A host that is a daemon like ours."""

    provider: RemoteProvider
    raw: docker.APIClient
    image: str
    host: DaemonProcess
    owner: str
    promises: Promises = _PROMISES

    def plan(self, incarnation: int = 1) -> SandboxPlan:
        """See `Bench`."""
        return plan_of("remote", self.image, ("sh", "-c", f"{SERVE} exec sleep 1000"), incarnation)

    def plan_ending(self, exit_code: int) -> SandboxPlan:
        """See `Bench`."""
        return plan_of("remote", self.image, ("sh", "-c", f"exit {exit_code}"), 1)

    def take_name(self, name: str) -> None:
        """See `Bench`."""
        command = ["sh", "-c", f"{SERVE} exec sleep 1000"]
        body = {"image": self.image, "command": command, "session_id": name}
        self._post("/start", body)

    def kill_from_outside(self, name: str) -> None:
        """See `Bench`."""
        self.raw.kill(self._container(name))

    @asynccontextmanager
    async def away(self) -> AsyncIterator[SandboxProvider]:
        """See `Bench`: a port that nobody listens on."""
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            host = Host(parse_host_address(f"http://127.0.0.1:{nobody.getsockname()[1]}"), "key")
            yield RemoteProvider(host, self.owner, 64 * 1024**2)
            await host.aclose()

    def _container(self, name: str) -> str:
        door, key = http_door(self.host)
        told = httpx2.get(f"http://{door.authority}/sessions/{name}", headers={"X-API-Key": key}, trust_env=False)
        return f"conversationd-{self.host.instance[:8]}-{told.json()['runtime_id']}-1"

    def _post(self, target: str, body: Mapping[str, object]) -> None:
        door, key = http_door(self.host)
        url = f"http://{door.authority}{target}"
        httpx2.post(url, headers={"X-API-Key": key}, json=body, timeout=30, trust_env=False).raise_for_status()


@asynccontextmanager
async def open_remote_bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """An owner of its own on the host that all tests of the module share; nothing of it is left."""
    daemon: DaemonProcess = request.getfixturevalue("remote_host")
    engine_url, image = request.getfixturevalue("engine_url"), request.getfixturevalue("tiny_image")
    door, key = http_door(daemon)
    host = Host(parse_host_address(f"http://{door.authority}"), key)
    owner = uuid.uuid4().hex
    provider = RemoteProvider(host, owner, 64 * 1024**2)
    raw = docker.APIClient(base_url=engine_url, version="auto")
    try:
        yield RemoteBench(provider, raw, image, daemon, owner)
    finally:
        with trio.move_on_after(PATIENCE, shield=True):
            for owned in await provider.list_owned():
                await provider.remove(owned.name)
            await host.aclose()
        raw.close()
