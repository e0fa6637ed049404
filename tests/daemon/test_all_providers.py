"""One daemon with every kind of sandbox at once."""

from functools import partial
from pathlib import Path

import docker
import pytest
import trio

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, connect
from supervisor.control.client_views import RemoteError
from tests.benchmarks.kinds import daemon_of_all_kinds, specs
from tests.daemon.conftest import owned
from tests.daemon_process import DaemonProcess
from tests.tiny_image import static_busybox

PATIENCE = 120.0


async def statuses(client: ControlClient) -> dict[str, tuple[str, str]]:
    """Each conversation's provider and status."""
    page = await client.list()
    return {each.id: (each.sandbox.provider if each.sandbox else "", each.status) for each in page.items}


async def on_all(client: ControlClient, command: str) -> None:
    """Do the same with all conversations at once."""
    async with trio.open_nursery() as nursery:
        for conversation in await statuses(client):
            nursery.start_soon(getattr(client, command), conversation)


def all_of(status: str) -> dict[str, tuple[str, str]]:
    """One conversation of each kind, with this status."""
    return {kind: (kind, status) for kind in ("docker", "process", "remote")}


async def lead_a_life(daemon: DaemonProcess, busybox: Path) -> None:
    """Start, pause, resume, survive the daemon, stop and delete: one of each kind, at once."""
    async with connect(UnixAddress(daemon.socket)) as client:
        async with trio.open_nursery() as nursery:
            for kind, spec in specs(busybox).items():
                nursery.start_soon(partial(client.start, kind, spec=spec))
        assert await statuses(client) == all_of("RUNNING")
        await on_all(client, "pause")
        assert await statuses(client) == all_of("PAUSED")
    await trio.to_thread.run_sync(daemon.kill)
    await trio.to_thread.run_sync(daemon.start)
    async with connect(UnixAddress(daemon.socket)) as client:
        assert await statuses(client) == all_of("PAUSED")
        await on_all(client, "resume")
        assert await statuses(client) == all_of("RUNNING")
        urls = {(await client.connect(kind)).url for kind in all_of("")}
        assert len(urls) == 3
        for url in urls:
            host, _, port = url.removeprefix("http://").rpartition(":")
            await (await trio.open_tcp_stream(host, int(port))).aclose()
        await on_all(client, "stop")
        assert await statuses(client) == {kind: (kind, "STOPPED") for kind in all_of("")}
        await on_all(client, "delete")
        assert await statuses(client) == {}


async def test_one_daemon_runs_conversations_of_all_providers_at_once(
    engine_url: str, tiny_image: str, tmp_path: Path, raw: docker.APIClient
) -> None:
    """Each start chooses its own; a killed daemon disturbs none of them, and nothing of any is left."""
    busybox = await trio.to_thread.run_sync(static_busybox, tmp_path)
    with trio.fail_after(PATIENCE), daemon_of_all_kinds(tiny_image, {"DOCKER_HOST": engine_url}) as daemon:
        await lead_a_life(daemon, busybox)
        assert owned(raw, daemon) == []
        assert list((daemon.state_dir / "workspaces").iterdir()) == []


async def test_a_provider_that_the_config_does_not_allow_is_refused(daemon: DaemonProcess) -> None:
    """In words that name the key."""
    async with connect(UnixAddress(daemon.socket)) as client:
        with pytest.raises(RemoteError, match=r"\[sandbox.allow\]"):
            await client.start("c1", spec={"provider": "process"})
