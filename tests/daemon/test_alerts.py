"""Alerts of a real daemon, to a real receiver and a real command."""

import base64
import hashlib
import hmac
import json
import shlex
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, EventSubscription, RemoteError, connect
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.json import JsonObject
from tests.agent.stub import Reply, Request, StubAgent, serving
from tests.daemon.conftest import config_for
from tests.daemon.test_readme import blocks
from tests.daemon_fixtures import MakeDaemon
from tests.daemon_process import DaemonError, DaemonProcess

PATIENCE = 60.0
LINE = "POST /conversationd"
FAILS: JsonObject = {"command": ["sh", "-c", "exit 3"], "port": 8000}
"""Without a port it might run long enough to be taken for ready."""


@pytest.fixture
async def receiver() -> AsyncIterator[StubAgent]:
    """A receiver that takes everything."""
    async with serving(StubAgent()) as receiver:
        receiver.on(LINE, Reply(204, b""))
        yield receiver


def url_of(receiver: StubAgent) -> str:
    """Where notices are posted to."""
    return f"http://127.0.0.1:{receiver.port}/conversationd"


def config(image: str, receiver: StubAgent) -> str:
    """A daemon that gives failed conversations up at once, and posts what it raises."""
    return config_for(image, f'mode = "never"\n[alerts]\nlog = false\nwebhook_url = "{url_of(receiver)}"\n')


def check_signature(request: Request, secret_file: Path) -> None:
    """As the receiver's library would."""
    secret = base64.b64decode(secret_file.read_text().strip().removeprefix("whsec_"))
    signed = f"{request.headers['webhook-id']}.{request.headers['webhook-timestamp']}.{request.body.decode()}"
    signature = base64.b64encode(hmac.digest(secret, signed.encode(), hashlib.sha256)).decode()
    assert request.headers["webhook-signature"] == f"v1,{signature}"


def said(requests: list[Request]) -> list[str]:
    """The cause and state of each notice that came."""
    data = [request.json()["data"] for request in requests]
    return [f"{one['cause']} {one['state']}" for one in data]


async def fail(client: ControlClient, conversation: str) -> None:
    """Start a conversation whose sandbox ends at once."""
    with pytest.raises(RemoteError) as caught:
        await client.start(conversation, spec=FAILS)
    assert caught.value.has(ErrorCode.SANDBOX_FAILED)


async def alert(events: EventSubscription) -> dict[str, Any]:
    """Wait for the next alert, and answer with its data."""
    with trio.fail_after(PATIENCE):
        async for event in events:
            if event.kind == "alert":
                return dict(event.data)
    raise AssertionError("the subscription ended")


def log_lines(daemon: DaemonProcess, level: str) -> Iterator[dict[str, Any]]:
    """The daemon's log at one level."""
    for line in daemon.log.read_text().splitlines():
        fields = json.loads(line)
        if fields["level"] == level:
            yield fields


async def test_the_readmes_alerts_reach_everyone(
    make_daemon: MakeDaemon, tiny_image: str, receiver: StubAgent, tmp_path: Path
) -> None:
    """The signed webhook, the command, the log and subscribers, each when it is raised and when it is over."""
    (example,) = [block for block in blocks("toml") if "[alerts]" in block]
    secret_file, taken = tmp_path / "secret", tmp_path / "taken"
    command = ["/bin/sh", "-c", f"cat >> {shlex.quote(str(taken))}"]
    for there, here in (
        ('"https://alerts.example.org/conversationd"', json.dumps(url_of(receiver))),
        ('"/etc/conversationd/webhook-secret"', json.dumps(str(secret_file))),
        ('["/usr/bin/logger", "--tag", "conversationd-alert"]', json.dumps(command)),
    ):
        assert there in example
        example = example.replace(there, here)
    daemon = make_daemon(config_for(tiny_image, f'mode = "never"\n{example}'))
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client, client.subscribe() as events:
        await fail(client, "c1")
        raised = await alert(events)
        await client.stop("c1")
        over = await alert(events)
        with trio.fail_after(PATIENCE):
            await receiver.asked(LINE, 2)
    assert (raised["kind"], raised["cause"], raised["state"]) == ("error", "error:c1", "raised")
    assert over == raised | {"state": "over", "message": "conversation c1 is STOPPED (stop)"}
    assert said(receiver.requests) == ["error:c1 raised", "error:c1 over"]
    for request in receiver.requests:
        check_signature(request, secret_file)
    assert daemon.stop() == 0
    notices = [request.body.decode() for request in receiver.requests]
    assert taken.read_text().splitlines() == notices
    logged = [(line["event"], line["id"]) for line in log_lines(daemon, "critical")]
    assert logged == [("alert.raised", raised["id"]), ("alert.over", raised["id"])]
    secret = secret_file.read_text().strip()
    assert secret_file.stat().st_mode & 0o777 == 0o600
    for told in (daemon.log.read_text(), json.dumps([raised, over]), *notices):
        assert secret not in told
        assert secret.removeprefix("whsec_") not in told
        assert url_of(receiver) not in told


async def test_kill_9_between_raising_and_telling_loses_no_alert(
    make_daemon: MakeDaemon, tiny_image: str, receiver: StubAgent
) -> None:
    """Raised by a daemon that was killed before anybody took it: the next one tells it, with the same id."""
    receiver.on(LINE, Reply(503, b""))
    daemon = make_daemon(config(tiny_image, receiver))
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client, client.subscribe() as events:
        for name in ("c1", "c2", "c3"):
            await fail(client, name)
        raised = [await alert(events) for _ in range(3)]
        with trio.fail_after(PATIENCE):
            await receiver.asked(LINE)
    daemon.kill()
    refused = len(receiver.requests)
    receiver.on(LINE, Reply(204, b""))
    daemon.start()
    with trio.fail_after(PATIENCE):
        await receiver.asked(LINE, refused + 3)
    assert {body["data"]["id"] for body in map(Request.json, receiver.requests[:refused])} == {raised[0]["id"]}
    taken = receiver.requests[refused:]
    assert [request.json()["data"]["id"] for request in taken] == [one["id"] for one in raised]
    assert said(taken) == ["error:c1 raised", "error:c2 raised", "error:c3 raised"]
    async with connect(UnixAddress(daemon.socket)) as client:
        for name in ("c1", "c2", "c3"):
            assert len([event for event in await client.history(name) if event.kind == "alert"]) == 1


async def test_a_flapping_container_raises_each_alert_once(
    make_daemon: MakeDaemon, tiny_image: str, receiver: StubAgent
) -> None:
    """It ends again and again until it is given up, and the daemon is killed in the middle of it."""
    daemon = make_daemon(
        config(tiny_image, receiver).replace('mode = "never"', 'max_restarts = 4\nbackoff_max = "100ms"')
    )
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client, client.subscribe(since=0) as events:
        await client.start("c1", spec={"command": ["sh", "-c", "sleep 0.2; exit 3"]}, wait=False)
        assert (await alert(events))["cause"] == "allowance:c1"
    daemon.kill()
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client, client.subscribe(since=0) as events:
        causes = [(await alert(events))["cause"] for _ in range(2)]
        await client.stop("c1")
        ends = [await alert(events) for _ in range(2)]
        scheduled = [event for event in await client.history("c1") if event.kind == "restart_scheduled"]
    assert len(scheduled) == 4
    assert causes == ["allowance:c1", "error:c1"]
    assert {(one["cause"], one["state"]) for one in ends} == {("allowance:c1", "over"), ("error:c1", "over")}
    with trio.fail_after(PATIENCE):
        await trio.lowlevel.checkpoint()
        while len(set(said(receiver.requests))) < 4:  # what was told just before the kill may be told again
            await receiver.asked(LINE, len(receiver.requests) + 1)


async def test_reload_changes_who_is_told(make_daemon: MakeDaemon, tiny_image: str, receiver: StubAgent) -> None:
    """A webhook that is put into the config hears of what is raised from then on."""
    daemon = make_daemon(config_for(tiny_image, 'mode = "never"\n'))
    daemon.start()
    async with connect(UnixAddress(daemon.socket)) as client, client.subscribe() as events:
        await fail(client, "before")
        await alert(events)
        daemon.config.write_text(daemon.config.read_text() + f'[alerts]\nwebhook_url = "{url_of(receiver)}"\n')
        daemon.send(signal.SIGHUP)
        with trio.fail_after(PATIENCE):
            async for event in events:
                if event.kind == "daemon" and event.data["what"] == "reloaded":
                    assert event.data["message"] == "all of it applies"
                    break
            await fail(client, "after")
            await receiver.asked(LINE)
    assert said(receiver.requests) == ["error:after raised"]
    check_signature(receiver.requests[0], daemon.state_dir / "webhook-secret")


def test_secret_that_others_can_read_is_refused(make_daemon: MakeDaemon, tiny_image: str, tmp_path: Path) -> None:
    """Before anything is served, in words."""
    secret_file = tmp_path / "secret"
    secret_file.write_text("whsec_c2VjcmV0\n")
    secret_file.chmod(0o640)
    alerts = f'[alerts]\nwebhook_url = "http://127.0.0.1:1/"\nwebhook_secret_file = "{secret_file}"\n'
    daemon = make_daemon(config_for(tiny_image, alerts))
    with pytest.raises(DaemonError, match=r"(?s)it ended with 69:.*chmod 0600"):
        daemon.start()
