"""HTTP against a running daemon over the real engine."""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import pytest
import trio

from supervisor.control.address import UnixAddress
from supervisor.control.client import connect
from supervisor.conversation.lifecycle import Status
from tests.daemon.conftest import config_for
from tests.daemon_process import DaemonProcess
from tests.http.clients import EventSource, SentEvent, event_source, http_client
from tests.http_door import HTTP, http_door

PATHS: Final = ("/conversations", "/api/conversations")
PATIENCE: Final = 60.0


async def live(client: httpx.AsyncClient, prefix: str, name: str) -> None:
    """One conversation through all of its life; each step answers in the words that clients know."""
    one = f"{prefix}/{name}"

    async def command(step: str, **query: str) -> dict[str, Any]:
        answer = await client.post(f"{one}/{step}", params=query)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def status() -> str:
        return str((await client.get(one)).json()["status"])

    started = await command("start")
    assert (started["status"], started["conversation_id"], started["conversation_status"]) == ("ok", name, "RUNNING")
    assert (await command("start"))["conversation_status"] == "RUNNING"
    assert await command("pause") == {"success": True}
    assert await status() == "PAUSED"
    assert (await client.post(f"{one}/pause")).status_code == 409
    assert await command("resume") == {"success": True}
    assert await status() == "RUNNING"
    stopped = {"status": "ok", "conversation_id": name, "conversation_status": "STOPPED"}
    assert await command("stop") == {**stopped, "message": "Conversation stopped successfully"}
    assert await command("stop") == {**stopped, "message": "Conversation was not running"}
    assert (await command("restart"))["conversation_status"] == "RUNNING"
    assert (await command("stop", force="true"))["conversation_status"] == "STOPPED"
    assert (await command("archive"))["conversation_status"] == "ARCHIVED"
    assert (await client.delete(one)).json() == {"success": True}
    assert (await client.get(one)).status_code == 404


def told(event: SentEvent) -> tuple[str, str]:
    """What is the same of an event in every life: no times, names and numbers."""
    data = event.data["data"]
    changing = ("at", "message", "delay")
    return event.data["kind"], json.dumps({key: data[key] for key in sorted(data) if key not in changing})


async def until_deleted(events: EventSource) -> list[SentEvent]:
    """All events up to the conversation's end."""
    await trio.lowlevel.checkpoint()
    seen: list[SentEvent] = []
    while not seen or seen[-1].data["kind"] != "deleted":
        seen.append(await anext(events))
    return seen


async def test_old_and_new_path_give_the_same_events(
    http_daemon: DaemonProcess, daemon_client: httpx.AsyncClient
) -> None:
    """A life over either path is the same life, and a stream that is resumed anywhere tells the rest of it exactly."""
    address, key = http_door(http_daemon)
    async with event_source(address, "?ids=old&ids=new", X_API_Key=key) as events:
        begun = (await anext(events)).id
        async with trio.open_nursery() as nursery:
            for prefix, name in zip(PATHS, ("old", "new"), strict=True):
                nursery.start_soon(live, daemon_client, prefix, name)
    lives = {}
    for name in ("old", "new"):
        async with event_source(address, f"?since={begun}&ids={name}", X_API_Key=key) as events:
            assert (await anext(events)).name == "opened"
            lives[name] = await until_deleted(events)
    assert [told(event) for event in lives["old"]] == [told(event) for event in lives["new"]]
    assert len(lives["old"]) > 15
    for number, event in enumerate(lives["old"][:-1]):
        async with event_source(address, "?ids=old", X_API_Key=key, Last_Event_ID=str(event.id)) as events:
            assert (await anext(events)).id == event.id
            assert await until_deleted(events) == lives["old"][number + 1 :]


async def test_stream_and_channel_tell_the_same(http_daemon: DaemonProcess, daemon_client: httpx.AsyncClient) -> None:
    """Events by HTTP are the events of the control channel, number for number."""
    await daemon_client.post("/api/conversations/c1/start")
    await daemon_client.post("/api/conversations/c1/stop?force=1")
    async with connect(UnixAddress(http_daemon.socket)) as channel:
        expected = [(event.seq, event.kind, dict(event.data)) for event in await channel.history("c1")]
    address, key = http_door(http_daemon)
    async with event_source(address, "?since=0&ids=c1", X_API_Key=key) as events:
        await anext(events)
        seen = [(await anext(events)).data for _ in expected]
    assert [(event["seq"], event["kind"], event["data"]) for event in seen] == expected


async def test_keys_are_made_for_their_owner_and_are_in_no_log(
    http_daemon: DaemonProcess, daemon_client: httpx.AsyncClient
) -> None:
    """Mode 0600 in the state directory; neither the API key nor a session key is logged, whatever is asked."""
    path = http_daemon.state_dir / "api-keys"
    assert path.stat().st_mode & 0o777 == 0o600
    await daemon_client.post("/api/conversations/c1/start", json={"spec": {"port": 80}, "wait": False})
    await daemon_client.get(f"/api/conversations/{path.read_text().strip()}")
    await daemon_client.post("/nothing", headers={"X-API-Key": "wrong"})
    assert path.read_text().strip() not in http_daemon.log.read_text()


async def test_hanging_up_in_the_middle_of_a_start_cancels_nothing(
    http_daemon: DaemonProcess, daemon_client: httpx.AsyncClient
) -> None:
    """The conversation gets to RUNNING all the same."""
    address, key = http_door(http_daemon)
    async with await trio.open_tcp_stream(address.host, address.port) as hasty:
        head = f"POST /api/conversations/c1/start HTTP/1.1\r\nHost: {address.authority}\r\nX-API-Key: {key}\r\n\r\n"
        await hasty.send_all(head.encode())
    async with connect(UnixAddress(http_daemon.socket)) as channel:
        with trio.fail_after(PATIENCE):
            async with channel.subscribe(since=0, ids=["c1"]) as events:
                async for event in events:
                    if event.kind == "status" and event.data["to"] == Status.RUNNING:
                        break
    assert (await daemon_client.get("/conversations/c1")).json()["status"] == "RUNNING"


async def until_alerted(daemon: DaemonProcess, cause: str) -> None:
    """Wait until an alert with this cause is raised."""
    address, key = http_door(daemon)
    async with event_source(address, "?since=0", X_API_Key=key) as events:
        async for event in events:
            if event.data.get("kind") == "alert" and event.data["data"]["cause"] == cause:
                return


async def test_refusals_of_the_real_daemon_have_their_status(
    make_daemon: Callable[[str], DaemonProcess], tiny_image: str
) -> None:
    """Not found, illegal, no room, not allowed, no image, and what ends as 500 with an alert."""
    daemon = make_daemon(config_for(tiny_image, f"{HTTP}[capacity]\nmax_running = 1\n"))
    daemon.start()
    async with http_client(*http_door(daemon)) as client:

        async def refused(target: str, body: dict[str, Any] | None = None) -> tuple[int, str]:
            answer = await client.post(f"/api/conversations{target}", json=body)
            return answer.status_code, answer.json()["error"]["code"]

        assert await refused("/c1/pause") == (404, "not_found")
        assert await refused("/c0/start", {"spec": {"image": "no-such-image:1"}}) == (500, "image_unavailable")
        await until_alerted(daemon, "internal:http: image_unavailable")
        assert await refused("/c2/start", {"spec": {"memory": "1TiB"}}) == (403, "forbidden")
        assert await refused("/c2/start", {"spec": {"memory": 5.5}}) == (400, "invalid_params")
        assert (await client.post("/api/conversations/c1/start")).status_code == 200
        assert await refused("/c1/resume") == (409, "invalid_transition")
        answer = await client.post("/api/conversations/c2/start")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "capacity_exceeded")
        assert int(answer.headers["retry-after"]) >= 1


async def test_without_an_engine_a_start_is_refused_with_503(
    make_daemon: Callable[[str], DaemonProcess], tiny_image: str
) -> None:
    """And what needs no engine is answered."""
    daemon = make_daemon(config_for(tiny_image, f'{HTTP}[docker]\nhost = "unix:///nonexistent/docker.sock"\n'))
    daemon.start()
    async with http_client(*http_door(daemon)) as client:
        answer = await client.post("/conversations/c1/start")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
        assert (await client.get("/conversations")).json() == {"results": [], "next_page_id": None}


def test_daemon_opens_no_port_that_nobody_asked_for(
    make_daemon: Callable[[str], DaemonProcess], tiny_image: str
) -> None:
    """HTTP is off by default, and there is no key then."""
    daemon = make_daemon(config_for(tiny_image))
    daemon.start()
    (ready,) = [line for line in daemon.log.read_text().splitlines() if '"daemon.ready"' in line]
    assert len(json.loads(ready)["listen"]) == 2  # the control channel's own, which every test's config asks for
    assert not (daemon.state_dir / "api-keys").exists()


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_address_that_is_taken_is_told_at_the_start(tmp_path: Path, family: socket.AddressFamily) -> None:
    """Exit code 69 and the address in one line, as for the control channel; nothing is left listening."""
    with socket.socket(family) as listening:
        listening.bind(("127.0.0.1", 0) if family is socket.AF_INET else str(tmp_path / "taken"))
        listening.listen()
        name = listening.getsockname()
        _see_it_refused(tmp_path, f"unix:{name}" if isinstance(name, str) else f"tcp:127.0.0.1:{name[1]}")


def _see_it_refused(tmp_path: Path, taken: str) -> None:
    config = tmp_path / "c.toml"
    config.write_text(
        f'[daemon]\nstate_dir = "{tmp_path}/state"\n[control]\nlisten = ["unix:{tmp_path}/s"]\n'
        f'[docker]\nhost = "unix:///nonexistent"\n[http]\nenabled = true\nlisten = "{taken}"\n'
    )
    command = [sys.executable, "-m", "supervisor.cli.conversationd", "--config", str(config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 69
    assert f"cannot listen on {taken}" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s").exists()


def test_keys_that_others_can_read_are_refused_at_the_start(tmp_path: Path) -> None:
    """Exit code 69, and what to do."""
    keys = tmp_path / "keys"
    keys.write_text("a-key-of-the-tests\n")
    keys.chmod(0o644)
    config = tmp_path / "c.toml"
    config.write_text(
        f'[daemon]\nstate_dir = "{tmp_path}/state"\n[control]\nlisten = ["unix:{tmp_path}/s"]\n'
        f'[http]\nenabled = true\napi_keys_file = "{keys}"\n'
    )
    command = [sys.executable, "-m", "supervisor.cli.conversationd", "--config", str(config)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 69
    assert f"chmod 0600 {keys}" in done.stderr
