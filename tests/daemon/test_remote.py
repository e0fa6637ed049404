"""A real daemon whose sandboxes are at a second real daemon: what happens to the host happens to no conversation."""

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Final

import docker
import httpx2
import pytest
import trio

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, Conversation, connect
from supervisor.conversation.lifecycle import Status
from tests.daemon.conftest import owned
from tests.daemon_fixtures import MakeDaemon
from tests.daemon_process import DaemonError, DaemonProcess

PATIENCE: Final = 90.0
SERVE: Final = (
    "mkdir -p /tmp/www; cd /tmp/www; touch ready alive health; echo $OH_SESSION_API_KEYS_0 >key; "
    "exec httpd -f -p 8000 -h ."
)
"""An agent server as far as a host, and we, ask it, which shows the key that it was given."""


@pytest.fixture
def port() -> Iterator[int]:
    """A port that stays the host's while it is away: bound and never listened on, so that nobody else is given it."""
    with closing(socket.socket()) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture
def host(make_daemon: MakeDaemon, tiny_image: str, port: int) -> DaemonProcess:
    """A daemon that hosts sandboxes, and gives up on one at its second death."""
    daemon = make_daemon(
        f'[sandbox]\nimage = "{tiny_image}"\npull = "never"\nmemory = "64MiB"\n'
        f'[restart]\nbackoff_initial = "50ms"\nmax_restarts = 1\n'
        f'[http]\nenabled = true\nlisten = "tcp:127.0.0.1:{port}"\n'
    )
    daemon.start()
    return daemon


@pytest.fixture
def daemon(make_daemon: MakeDaemon, host: DaemonProcess, tiny_image: str, port: int) -> DaemonProcess:
    """A daemon that has its sandboxes there."""
    command = json.dumps(["sh", "-c", SERVE, "--port", "8000"])
    daemon = make_daemon(
        f'[sandbox]\nprovider = "remote"\nimage = "{tiny_image}"\npull = "never"\ncommand = {command}\n'
        f'memory = "64MiB"\n[agent]\ndriver = "server"\n[restart]\nbackoff_initial = "50ms"\n'
        f'[remote]\nurl = "http://127.0.0.1:{port}"\napi_key_file = "{host.state_dir / "api-keys"}"\nmemory = "64MiB"\n'
    )
    daemon.start()
    return daemon


async def until(client: ControlClient, so: Callable[[Conversation], bool]) -> Conversation:
    """Follow c1 until it is so."""
    with trio.fail_after(PATIENCE):
        async with client.subscribe(ids=["c1"]) as events:
            conversation = await client.get("c1")
            while not so(conversation):
                with trio.move_on_after(1.0):  # a sandbox that has moved is told by no event
                    await anext(aiter(events))
                conversation = await client.get("c1")
    return conversation


async def answers(client: ControlClient) -> str:
    """That the agent server is where `connect` says, and has the key that it says, which this answers with."""
    access = await client.connect("c1")
    async with httpx2.AsyncClient(trust_env=False) as http:
        assert (await http.get(f"{access.url}/key")).text.strip() == access.session_api_key
    return access.session_api_key


async def test_hosts_death_is_no_conversations(
    daemon: DaemonProcess, host: DaemonProcess, raw: docker.APIClient
) -> None:
    """Running and paused, it is `unknown` while its host is away, and goes on as the same one when that is back."""
    async with connect(UnixAddress(daemon.socket)) as client:
        await client.start("c1")
        key = await answers(client)
        for command, status in ((None, Status.RUNNING), (client.pause, Status.PAUSED)):
            if command is not None:
                await command("c1")
                assert [row["State"] for row in owned(raw, host)] == ["paused"]
            await trio.to_thread.run_sync(host.kill)
            away = await until(client, lambda each: each.observed == "unknown")
            assert (away.status, away.error) == (status, None)
            await trio.to_thread.run_sync(host.start)
            back = await until(client, lambda each: each.observed == "live")
            assert (back.status, back.incarnation, back.restarts) == (status, 1, 0)
        await client.resume("c1")
        assert await answers(client) == key
        await client.stop("c1")
        assert owned(raw, host) == []
        assert not (await client.stop("c1")).was_running
        await client.delete("c1")


async def test_what_a_host_restarts_is_followed_and_what_it_gives_up_on_is_started_anew(
    daemon: DaemonProcess, host: DaemonProcess, raw: docker.APIClient
) -> None:
    """A restart by it is another address and key of the same incarnation; its giving up is a death like any other."""
    async with connect(UnixAddress(daemon.socket)) as client:
        url = (await client.start("c1")).sandbox
        assert url is not None
        key = await answers(client)
        raw.kill(owned(raw, host)[0]["Id"])
        moved = await until(client, lambda each: each.sandbox is not None and each.sandbox.url not in (None, url.url))
        assert (moved.status, moved.incarnation, moved.restarts) == (Status.RUNNING, 1, 0)
        assert await answers(client) != key
        raw.kill(next(row["Id"] for row in owned(raw, host) if row["State"] == "running"))
        anew = await until(client, lambda each: each.incarnation == 2 and each.status == Status.RUNNING)
        assert anew.restarts == 1
        await answers(client)
        await client.stop("c1", force=True)
        assert owned(raw, host) == []
        await client.delete("c1")


def test_remote_without_a_host_is_told_in_words(make_daemon: MakeDaemon) -> None:
    """The daemon does not start, and says which keys of the config are missing."""
    with pytest.raises(DaemonError, match=r"it ended with 78:(.|\n)*\[remote\] url"):
        make_daemon('[sandbox]\nprovider = "remote"\n').start()
