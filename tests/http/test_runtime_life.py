"""The runtime API against a running daemon over the real engine; `tests/e2e/test_workspace` has the real client."""

import io
import tarfile
from typing import Any, Final

import docker
import httpx2 as httpx
import trio

from tests.daemon.conftest import config_for
from tests.daemon_fixtures import MakeDaemon, owned
from tests.daemon_process import DaemonProcess
from tests.http.clients import PATIENCE, http_client
from tests.http_door import HTTP, http_door

SERVE: Final = (
    "mkdir /tmp/www; cd /tmp/www; touch ready alive; httpd -p $1 -h .; "
    "(echo $FACT; id -u; id -g; ls /workspace) >facts; touch /workspace/kept; "
    "while [ ! -e /workspace/hog ]; do sleep 0.05; done; x=a; while :; do x=$x$x; done"
)
"""An agent server as far as anybody asks it here, which runs out of memory once it finds a file."""


def body(image: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    """A start of it."""
    command = ["sh", "-c", f"pwd >/tmp/pwd; {SERVE}", "--port", "8000"]
    return {"image": image, "command": command, "session_id": "s1", **more}


async def ask(client: httpx.AsyncClient, target: str, given: Any = None) -> Any:  # noqa: ANN401 - JSON
    """The answer to a request that is carried out."""
    answer = await (client.get(target) if given is None else client.post(target, json=given))
    assert answer.status_code == 200, answer.text
    return answer.json()


async def until(client: httpx.AsyncClient, **wanted: object) -> dict[str, Any]:
    """Ask for the session until it is so, as its clients do."""
    with trio.fail_after(PATIENCE):
        while True:
            told: dict[str, Any] = await ask(client, "/sessions/s1")
            if wanted.items() <= told.items():
                return told
            await trio.sleep(0.05)


def touch(raw: docker.APIClient, container: str, directory: str, name: str) -> None:
    """Make a file in a sandbox."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    raw.put_archive(container, directory, buffer.getvalue())


async def test_runtime_lives_a_whole_life(
    http_daemon: DaemonProcess, daemon_client: httpx.AsyncClient, raw: docker.APIClient, tiny_image: str
) -> None:
    """Started as asked, paused, resumed, restarted by us with its files kept, and gone without a trace."""
    client = daemon_client
    assert (await client.get("/sessions/s1")).status_code == 404
    assert await ask(client, "/image_exists?image=" + tiny_image) != {"exists": False, "image": None}
    given = body(tiny_image, environment={"FACT": "given"}, working_dir="/tmp", run_as_user=10001, fs_group=10001)
    started = await ask(client, "/start", given)
    assert (started["status"], started["pod_status"]) == ("running", "ready")
    assert await ask(client, "/start", given) == started
    async with httpx.AsyncClient(trust_env=False) as sandbox:
        assert (await sandbox.get(f"{started['url']}/facts")).text == "given\n10001\n10001\n"
        command = {"runtime_id": started["runtime_id"]}
        paused = await ask(client, "/pause", command)
        assert paused == {**started, "status": "paused", "pod_status": "not found"}
        assert [paused] == (await ask(client, "/list"))["runtimes"] == await ask(client, "/sessions/batch?ids=s1&ids=x")
        assert (await client.post("/pause", json=command)).status_code == 409
        assert (
            await ask(client, "/resume", command) == started == await ask(client, f"/runtime/{command['runtime_id']}")
        )
        raw.kill(owned(raw, http_daemon)[0]["Id"])
        again = await until(client, status="running", restart_count=1, restart_reasons=["Error"])
        assert again["session_api_key"] != started["session_api_key"]
        assert (await sandbox.get(f"{again['url']}/facts")).text.endswith("kept\n")
    assert (await ask(client, "/stop", command))["status"] == "stopped"
    assert (await client.get("/sessions/s1")).status_code == 404
    assert owned(raw, http_daemon) == []
    assert not raw.volumes(filters={"label": f"io.conversationd.owner={http_daemon.instance}"})["Volumes"]


async def test_runtime_that_runs_out_of_memory_says_so(
    http_daemon: DaemonProcess, daemon_client: httpx.AsyncClient, raw: docker.APIClient, tiny_image: str
) -> None:
    """While it is restarted, and when it was restarted in vain; a start heals it as far as it can."""
    await ask(daemon_client, "/start", body(tiny_image))
    touch(raw, owned(raw, http_daemon)[0]["Id"], "/workspace", "hog")
    told = await until(daemon_client, status="error", pod_status="crashloopbackoff")
    assert (told["restart_count"], told["restart_reasons"]) == (1, ["OOMKilled", "OOMKilled"])
    assert "memory" in told["pod_logs"]
    again = await ask(daemon_client, "/start", body(tiny_image, image_pull_policy="Never"))
    assert again["runtime_id"] == told["runtime_id"]


async def test_runtime_class_is_what_the_config_allows(
    make_daemon: MakeDaemon, tiny_image: str, raw: docker.APIClient
) -> None:
    """Refused in words that say what an operator can do, told to the engine, or refused by that at once."""
    daemon = make_daemon(config_for(tiny_image, HTTP + '[sandbox.allow]\nruntimes = ["run*", "no-such"]\n'))
    daemon.start()
    async with http_client(*http_door(daemon)) as client:
        refused = await client.post("/start", json=body(tiny_image, runtime_class="sysbox-runc"))
        assert (refused.status_code, refused.json()["error"]["path"]) == (403, "runtime_class")
        assert "[sandbox.allow] runtimes" in refused.json()["detail"]
        assert owned(raw, daemon) == []
        unknown = await client.post("/start", json=body(tiny_image, runtime_class="no-such"))
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (500, "sandbox_failed")
        assert "daemon.json" in unknown.json()["detail"]
        assert (await ask(client, "/start", body(tiny_image, runtime_class="runc")))["status"] == "running"
        (container,) = owned(raw, daemon)
        assert raw.inspect_container(container["Id"])["HostConfig"]["Runtime"] == "runc"


async def test_start_beyond_what_the_config_allows_is_refused(
    make_daemon: MakeDaemon, tiny_image: str, raw: docker.APIClient
) -> None:
    """In words, by the client's own names; and nothing is made."""
    daemon = make_daemon(config_for(tiny_image, HTTP + '[sandbox.allow]\nmemory = "256MiB"\nenv = ["[A-Z]*"]\n'))
    daemon.start()
    async with http_client(*http_door(daemon)) as client:
        asked: list[tuple[dict[str, Any], str]] = [
            ({"resource_factor": 8}, "resource_factor"),
            ({"environment": {"ld_preload": "x"}}, "environment.ld_preload"),
            ({"image_pull_policy": "Always"}, "image_pull_policy"),
        ]
        for more, path in asked:
            refused = await client.post("/start", json=body(tiny_image, **more))
            assert (refused.status_code, refused.json()["error"]["path"]) == (403, path)
            assert "[sandbox.allow]" in refused.json()["detail"]
        assert owned(raw, daemon) == []
        assert (await client.get("/list")).json() == {"runtimes": []}
        assert (await ask(client, "/start", body(tiny_image, resource_factor=4)))["status"] == "running"
        (container,) = owned(raw, daemon)
        assert raw.inspect_container(container["Id"])["HostConfig"]["Memory"] == 256 * 1024**2
