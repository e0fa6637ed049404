"""What a real daemon that is killed leaves of its process sandboxes, and finds again."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, connect
from supervisor.control.client_views import RemoteError
from supervisor.conversation.lifecycle import Status
from supervisor.sandbox.process.proc import lives
from supervisor.sandbox.process.records import Running, read_running
from tests.daemon.test_survival import until
from tests.daemon_process import DaemonProcess
from tests.process_host import left_on_host

CONFIG: Final = f"""
[sandbox]
provider = "process"
command = ["{sys.executable}", "-m", "http.server", "--bind", "127.0.0.1", "{{port}}"]
[agent]
driver = "none"
[restart]
backoff_initial = "50ms"
"""


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[DaemonProcess]:
    """A daemon that runs, and needs no engine; nothing of it is left."""
    daemon = DaemonProcess(tmp_path, CONFIG, {"DOCKER_HOST": "unix:///nonexistent/docker.sock"})
    daemon.start()
    yield daemon
    daemon.stop()
    assert left_on_host(daemon.instance) == []


def processes_of(daemon: DaemonProcess) -> dict[str, Running]:
    """What is written down of all sandboxes' processes, by name."""
    found = {path.name: read_running(str(path)) for path in (daemon.state_dir / "sandboxes").iterdir()}
    return {name: running for name, running in found.items() if running is not None}


async def delete_all(client: ControlClient) -> None:
    """End and remove every conversation."""
    for one in await client.list_all():
        await client.stop(one.id, force=True)
        await client.archive(one.id)
        await client.delete(one.id)


async def test_kill_9_disturbs_no_process_sandbox(daemon: DaemonProcess) -> None:
    """Running and paused ones are the same processes afterwards, at the same ports; a stopped one stays stopped."""
    async with connect(UnixAddress(daemon.socket)) as client:
        for name in ("runs", "pauses", "stops"):
            await client.start(name)
        await client.pause("pauses")
        await client.stop("stops")
        before = {one.id: (one.status, one.sandbox, one.incarnation) for one in await client.list_all()}
    processes = processes_of(daemon)
    daemon.kill()
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client:
        assert {one.id: (one.status, one.sandbox, one.incarnation) for one in await client.list_all()} == before
        assert processes_of(daemon) == processes
        assert (await client.resume("pauses")).status is Status.RUNNING
        assert sum(lives(running.main) for running in processes.values()) == 2
        await delete_all(client)


async def test_what_died_while_the_daemon_was_away_is_restarted(daemon: DaemonProcess) -> None:
    """Also what died with its keeper, unseen by anybody."""
    async with connect(UnixAddress(daemon.socket)) as client:
        await client.start("dead")
        await client.start("lost")
    processes = processes_of(daemon)
    daemon.kill()
    for name, running in processes.items():
        victim = running.main if "dead" in name else running.keeper
        os.kill(victim.pid, signal.SIGKILL)
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client:
        for name in ("dead", "lost"):
            await until(client, name, Status.RUNNING)
            told = [event.data for event in await client.history(name) if event.kind == "restart_scheduled"]
            assert [data["cause"] for data in told] == ["exited"]
            assert (await client.get(name)).incarnation == 2
        assert not any(lives(running.main) for running in processes.values())
        await delete_all(client)


async def test_the_daemon_says_that_there_are_no_walls(daemon: DaemonProcess) -> None:
    """In its log as it starts, and to whoever asks."""
    async with connect(UnixAddress(daemon.socket)) as client:
        assert "no security boundary" in str(await client.call("daemon.info", {}))
    assert "no security boundary" in daemon.log.read_text()


async def test_auto_runs_processes_where_no_engine_answers(daemon: DaemonProcess) -> None:
    """Decided as the daemon starts, and shown to whoever asks which it is."""
    daemon.stop()
    daemon.config.write_text(daemon.config.read_text().replace('provider = "process"', 'provider = "auto"'))
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client:
        assert (await client.info()).engine.provider == "process"
        started = await client.start("c1")
        assert started.sandbox is not None
        assert started.sandbox.provider == "process"
        await delete_all(client)


async def test_host_without_docker_says_what_else_there_is(daemon: DaemonProcess) -> None:
    """In the log as it serves, and to whoever starts a conversation."""
    daemon.stop()
    daemon.config.write_text(daemon.config.read_text().replace('provider = "process"', 'provider = "docker"'))
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client:
        with pytest.raises(RemoteError, match=r"\[sandbox\] provider"):
            await client.start("c1")
    (line,) = [line for line in daemon.log.read_text().splitlines() if "provider.does_not_answer" in line]
    assert '"auto"' in json.loads(line)["next"]
