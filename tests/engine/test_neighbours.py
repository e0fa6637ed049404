"""What a sandbox can do to others: to the host and its daemon, and to another conversation's sandbox."""

import fcntl
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import attrs
import docker
import pytest
import trio

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, connect
from supervisor.conversation.ids import ConversationId
from supervisor.conversation.lifecycle import Status
from supervisor.sandbox.port import Endpoint, SandboxView
from tests.daemon_fixtures import remove_leftovers
from tests.daemon_process import DaemonProcess
from tests.e2e.llm_stub import bridge_gateway
from tests.engine.sandboxes import PATIENCE, SERVE, Workbench, get_when_ready
from tests.http_door import HTTP, http_door

C2: Final = ConversationId("c2")
TICKS: Final = "n=0; while :; do n=$((n+1)); echo tick $n; sleep 0.05; done"
BOMB: Final = "(while :; do (while :; do :; done) & done); exec sleep 1000"
HOG: Final = "sleep 0.3; x=a; while :; do x=$x$x$x$x; done"
CONFIG: Final = (
    '[sandbox]\nimage = "{}"\npull = "never"\nport = 0\nmemory = "64MiB"\npids_limit = 32\ncpus = 0.5\n'
    '[agent]\ndriver = "none"\n[restart]\nmode = "never"\n'
)
ANSWER_WITHIN: Final = 5.0

_ADDRESS_OF_INTERFACE: Final = 0x8915  # SIOCGIFADDR


@pytest.fixture
def daemon(engine_url: str, raw: docker.APIClient, tiny_image: str, tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon that runs, with all the ports that it can have; what its sandboxes leave is removed at the end."""
    daemon = DaemonProcess(tmp_path, CONFIG.format(tiny_image) + HTTP, {"DOCKER_HOST": engine_url})
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()
        remove_leftovers(raw, daemon)


def host_addresses() -> set[str]:
    """Every IPv4 address of this host."""
    addresses = set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            with suppress(OSError):  # an interface without an address
                answer = fcntl.ioctl(probe, _ADDRESS_OF_INTERFACE, struct.pack("256s", name.encode()))
                addresses.add(socket.inet_ntoa(answer[20:24]))
    return addresses


def reach(port: int, *hosts: str) -> str:
    """A script that prints those of the hosts that speak HTTP on a port."""
    ask = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 5 nc -w 2 {0} {1} 2>/dev/null | grep -q HTTP/1 && echo {0}:{1}"
    return "; ".join(ask.format(host, port) for host in hosts)


@asynccontextmanager
async def http_server(host: str) -> AsyncIterator[int]:
    """Something of the host's own that speaks HTTP; yields its port."""

    async def refuse(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.0 404 Not Found\r\n\r\n")

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, refuse, 0, host=host))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def launch_neighbour(bench: Workbench, network: str) -> SandboxView:
    """Launch a sandbox of conversation c2 that serves HTTP on port 8000, and wait until it does."""
    plan = bench.plan(*SERVE, port=8000, network=network)
    view = await bench.provider.launch(attrs.evolve(plan, conversation=C2))
    assert view.published is not None
    await get_when_ready(view.published)
    return view


async def test_ports_of_the_daemon_are_out_of_reach(bench: Workbench, daemon: DaemonProcess) -> None:
    """For control and for HTTP: the host's loopback, which no way leads to. Other services are there to reach."""
    gateway = bridge_gateway(bench.raw)
    hosts = ("127.0.0.1", "::1", *sorted(host_addresses() | {gateway}))
    ports = (daemon.tcp_port, http_door(daemon)[0].port)
    for port in ports:
        assert (await get_when_ready(Endpoint("127.0.0.1", port))).startswith(b"HTTP/1.1 ")
    tried = "; ".join(reach(port, *hosts) for port in ports)
    async with http_server(gateway) as port:
        assert await bench.run(f"{tried}; {reach(port, gateway)}", network="bridge") == [f"{gateway}:{port}"]


async def test_published_port_answers_on_loopback_only(bench: Workbench) -> None:
    """A sandbox's port has no address of the host but 127.0.0.1, neither for the host nor for another sandbox."""
    view = await launch_neighbour(bench, "bridge")
    assert view.published is not None
    assert view.published.host == "127.0.0.1"
    outward = sorted(host_addresses() - {"127.0.0.1"})
    assert bridge_gateway(bench.raw) in outward
    for host in outward:
        with pytest.raises(OSError, match=r"refused|connect"):
            await trio.open_tcp_stream(host, view.published.port)
    assert await bench.run(reach(view.published.port, "127.0.0.1", *outward), network="bridge") == []


@pytest.mark.parametrize("allowed", [True, False])
async def test_sandboxes_of_one_bridge_reach_each_other_unless_it_forbids(
    bench: Workbench, raw: docker.APIClient, owner: str, allowed: bool
) -> None:
    """On the engine's usual bridge they do; a network with `enable_icc` off keeps them apart, as SECURITY.md says."""
    options = {"com.docker.network.bridge.enable_icc": str(allowed).lower()}
    network = raw.create_network(f"conversationd-tests-{owner}", options=options)["Id"]
    try:
        view = await launch_neighbour(bench, network)
        assert view.direct is not None
        reached = await bench.run(reach(view.direct.port, view.direct.host), network=network)
        assert reached == ([f"{view.direct.host}:{view.direct.port}"] if allowed else [])
    finally:
        for container in raw.inspect_network(network)["Containers"]:
            raw.remove_container(container, force=True)
        raw.remove_network(network)


async def test_fork_bomb_and_memory_hog_end_only_themselves(daemon: DaemonProcess) -> None:
    """The daemon answers, another conversation goes on in its sandbox, and what ran out of memory says so."""
    async with connect(UnixAddress(daemon.socket)) as client:
        good = await client.start("good", spec={"command": ["sh", "-c", TICKS]})
        await client.start("bomb", spec={"command": ["sh", "-c", BOMB]})
        await told(client, "bomb", "can't fork")
        await goes_on(client)
        assert (await client.stop("bomb", force=True)).was_running
        await client.start("hog", spec={"command": ["sh", "-c", HOG], "memory": "16MiB"})
        await failed(client, "hog")
        error = (await client.get("hog")).error
        assert error is not None
        assert (error.code, error.oom_killed) == ("oom_killed", True)
        await goes_on(client)
        assert attrs.evolve(await client.get("good"), updated_at=good.updated_at) == good


async def told(client: ControlClient, conversation: str, words: str) -> None:
    """Wait until a sandbox has printed some words."""
    with trio.fail_after(PATIENCE):
        async with client.follow_logs(conversation) as lines:
            async for line in lines:
                if words in line:
                    return
    raise AssertionError(f"{conversation} ended without saying {words!r}")


async def goes_on(client: ControlClient) -> None:
    """The daemon answers soon, and conversation "good" prints its next lines."""
    with trio.fail_after(ANSWER_WITHIN):
        assert (await client.info()).engine.reachable
        (last,) = await client.logs("good", tail=1)
    number = int(last.removeprefix("tick "))
    await told(client, "good", f"tick {number + 3}")


async def failed(client: ControlClient, conversation: str) -> None:
    """Wait until a conversation is in ERROR."""
    with trio.fail_after(PATIENCE):
        async with client.subscribe(ids=[conversation], since=0) as events:
            async for event in events:
                if event.kind == "status" and event.data["to"] == Status.ERROR:
                    return
