"""The front end's own calls against a running daemon over the real engine."""

import json
import signal
from pathlib import Path
from typing import Any, Final

import httpx2 as httpx
import trio

from supervisor.control.address import UnixAddress
from supervisor.control.client import connect
from tests.daemon.test_refusals import run_conversationd
from tests.daemon_fixtures import MakeDaemon
from tests.daemon_process import DaemonProcess
from tests.http.clients import http_client
from tests.http.v1_front_end import CONVERSATIONS, SANDBOXES, TASKS, the_one, until_ready
from tests.http_door import HTTP, http_door

PATIENCE: Final = 60.0


def config_for(image: str, more: str = "", agent: str = "") -> str:
    """Sandboxes that answer HTTP and have no agent."""
    return (
        f'[sandbox]\nimage = "{image}"\npull = "never"\nport = 8000\nmemory = "64MiB"\n'
        f'command = ["httpd", "-f", "-p", "8000", "-h", "/etc"]\n[agent]\ndriver = "none"\n{agent}{HTTP}{more}'
    )


async def test_front_end_starts_stops_reopens_and_deletes_a_conversation(
    make_daemon: MakeDaemon, tiny_image: str
) -> None:
    """Create, poll, look up, pause the sandbox, see it paused, resume it, also after a stop, and delete it."""
    daemon = make_daemon(config_for(tiny_image))
    daemon.start()
    with trio.fail_after(PATIENCE):
        async with http_client(*http_door(daemon)) as client:
            answer = await client.post(CONVERSATIONS, json={"title": "Mine", "parent_conversation_id": None})
            assert answer.status_code == 200, answer.text
            task = await until_ready(client, answer.json())
            assert task["status"] == "READY"
            one = task["app_conversation_id"]
            conversation = await the_one(client, CONVERSATIONS, "ids", one)
            assert conversation is not None
            assert (conversation["title"], conversation["sandbox_status"]) == ("Mine", "RUNNING")
            await check_access(client, conversation)
            await check_life(client, conversation["sandbox_id"])
            assert await the_one(client, CONVERSATIONS, "ids", one) is None
            assert await the_one(client, TASKS, "ids", task["id"]) is None
            assert (await client.post(f"{SANDBOXES}/{one}/pause", json={})).status_code == 404


async def check_access(client: httpx.AsyncClient, conversation: dict[str, Any]) -> None:
    """What the sandbox exposes is there, and is what the conversation's URL begins with; REST knows the same id."""
    sandbox = await the_one(client, SANDBOXES, "id", conversation["sandbox_id"])
    assert sandbox is not None
    (exposed,) = sandbox["exposed_urls"]
    assert (exposed["name"], sandbox["status"]) == ("AGENT_SERVER", "RUNNING")
    assert conversation["conversation_url"] == f"{exposed['url']}/api/conversations/{conversation['id']}"
    assert conversation["session_api_key"] == sandbox["session_api_key"] is not None
    legacy = (await client.get(f"/api/conversations/{conversation['id']}")).json()
    assert (legacy["status"], legacy["url"], legacy["title"]) == ("RUNNING", exposed["url"], "Mine")
    assert [one["id"] for one in (await client.get(f"{SANDBOXES}/search")).json()["items"]] == [sandbox["id"]]


async def check_life(client: httpx.AsyncClient, sandbox: str) -> None:
    """Each command answers success, and the sandbox is in the state that was asked for."""

    async def command(method: str, path: str) -> None:
        answer = await client.request(method, f"{SANDBOXES}/{sandbox}{path}", json={} if method == "POST" else None)
        assert (answer.status_code, answer.json()) == (200, {"success": True})

    async def status() -> tuple[str, bool]:
        found = await the_one(client, SANDBOXES, "id", sandbox)
        assert found is not None
        return found["status"], found["exposed_urls"] is not None

    for _ in range(2):
        await command("POST", "/pause")
        assert await status() == ("PAUSED", False)
    for _ in range(2):
        await command("POST", "/resume")
        assert await status() == ("RUNNING", True)
    assert (await client.post(f"/api/conversations/{sandbox}/stop")).status_code == 200
    assert await status() == ("PAUSED", False)
    await command("POST", "/resume")
    assert await status() == ("RUNNING", True)
    await command("DELETE", "")
    assert await the_one(client, SANDBOXES, "id", sandbox) is None


async def test_start_that_fails_says_why(make_daemon: MakeDaemon, tiny_image: str) -> None:
    """The task ends as ERROR with the reason, and the sandbox can be deleted."""
    daemon = make_daemon(config_for("conversationd-tests/there-is-none:1"))
    daemon.start()
    with trio.fail_after(PATIENCE):
        async with http_client(*http_door(daemon)) as client:
            task = await until_ready(client, (await client.post(CONVERSATIONS, json={})).json())
            assert (task["status"], task["app_conversation_id"]) == ("ERROR", None)
            assert "there-is-none:1" in task["detail"]
            assert (await client.delete(f"{SANDBOXES}/{task['sandbox_id']}")).json() == {"success": True}


async def test_pausing_what_starts_keeps_it_from_running(make_daemon: MakeDaemon, tiny_image: str) -> None:
    """Whoever stops it while its sandbox boots has it stopped, and a resume starts it again."""
    never = config_for(tiny_image).replace('"-p", "8000"', '"-p", "8001"')
    daemon = make_daemon(never)
    daemon.start()
    with trio.fail_after(PATIENCE):
        async with http_client(*http_door(daemon)) as client:
            task = (await client.post(CONVERSATIONS, json={})).json()
            while task["status"] != "WAITING_FOR_SANDBOX":
                task = await the_one(client, TASKS, "ids", task["id"])
                assert task is not None
            assert (await client.post(f"{SANDBOXES}/{task['id']}/pause", json={})).json() == {"success": True}
            found = await the_one(client, SANDBOXES, "id", task["id"])
            assert found is not None
            assert found["status"] == "PAUSED"


def write_request(path: Path, model: str, mode: int = 0o600) -> None:
    """The file of `[agent] request_file`."""
    path.touch(mode=mode)
    path.chmod(mode)
    path.write_text(json.dumps({"agent_settings": {"llm": {"model": model, "api_key": "very-secret"}}}))


async def model_of_a_new_one(client: httpx.AsyncClient) -> str:
    """The model that the next conversation has which names none."""
    return str((await client.post(CONVERSATIONS, json={})).json()["request"]["llm_model"])


async def test_request_file_is_read_again_at_each_reload(
    make_daemon: MakeDaemon, tiny_image: str, tmp_path: Path
) -> None:
    """A file that became readable by others is refused and the one before stays; no log has what is in it."""
    path = tmp_path / "request.json"
    write_request(path, "first")
    daemon = make_daemon(config_for(tiny_image, agent=f'request_file = "{path}"\n'))
    daemon.start()
    with trio.fail_after(PATIENCE):
        async with http_client(*http_door(daemon)) as client:
            assert await model_of_a_new_one(client) == "first"
            write_request(path, "second")
            assert await reload(daemon) == "reloaded"
            assert await model_of_a_new_one(client) == "second"
            write_request(path, "third", mode=0o644)
            assert await reload(daemon) == "reload_failed"
            assert await model_of_a_new_one(client) == "second"
    assert "very-secret" not in daemon.log.read_text()
    assert "others may read it" in daemon.log.read_text()
    checked = run_conversationd("check-config", "--config", str(daemon.config))
    assert (checked.returncode, checked.stdout) == (78, "")
    assert checked.stderr.startswith(f"agent.request_file: the agent request file {path} has mode 0644")
    path.chmod(0o600)
    assert run_conversationd("check-config", "--config", str(daemon.config)).returncode == 0
    path.chmod(0o644)
    assert run_conversationd("serve", "--config", str(daemon.config)).returncode == 69


async def reload(daemon: DaemonProcess) -> str:
    """Tell the daemon to; answers with what became of it."""
    async with connect(UnixAddress(daemon.socket)) as channel, channel.subscribe() as events:
        daemon.send(signal.SIGHUP)
        async for event in events:
            if event.kind == "daemon":
                return str(event.data["what"])
    raise AssertionError("the events ended")
