"""The README, tried out: each of its commands and examples does what it says."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import docker
import pytest
import trio

from supervisor.config_file import parse_config
from supervisor.control.client import ControlClient
from tests.daemon.conftest import config_for
from tests.daemon_fixtures import MakeDaemon
from tests.daemon_process import DaemonProcess
from tests.http.conftest import http_daemon
from tests.http_door import HTTP, http_door
from tests.process_host import command_lines
from tests.service.service import install_commands

__all__ = ["http_daemon"]

ROOT: Final = Path(__file__).parents[2]
PATIENCE: Final = 300.0


def blocks(language: str) -> list[str]:
    """The README's code blocks in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def run(command: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the README where its reader would."""
    return subprocess.run(
        command.split(),
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | environ,
    )


def everything(raw: docker.APIClient) -> tuple[set[str], ...]:
    """All containers, images and volumes of the engine."""
    return (
        {row["Id"] for row in raw.containers(all=True)},
        {row["Id"] for row in raw.images(all=True)},
        {row["Name"] for row in raw.volumes()["Volumes"] or ()},
    )


def test_the_readme_has_no_command_that_is_not_tried() -> None:
    """Each command of the README is one of those below, or what `tests/service` installs by; `make test` runs this."""
    commands = {line for block in blocks("sh") for line in block.splitlines()}
    assert commands - set(install_commands()) == {
        "make demo",
        "make test",
        "make serve",
        ".venv/bin/conversationctl info",
        ".venv/bin/conversationd check-config --config config/conversationd.toml",
    }


def test_make_demo_walks_a_conversation_and_leaves_nothing(engine_url: str, raw: docker.APIClient) -> None:
    """It ends with 0, having shown every step that the README shows, and the engine has what it had before."""
    before = everything(raw)
    done = run("make demo", DOCKER_HOST=engine_url)
    assert done.returncode == 0, done.stderr
    (shown,) = blocks("console")
    steps = re.compile(r"^(?:# .*|\$ conversationctl .*)$", re.MULTILINE)
    assert steps.findall(done.stdout) == steps.findall(shown)
    assert "RUNNING -> STARTING (exited)" in done.stdout
    assert everything(raw) == before


def test_make_demo_needs_no_engine() -> None:
    """With `PROVIDER=process` it shows the same steps where no engine answers, and leaves nothing on the host."""
    before = {path.name for path in Path("/sys/fs/cgroup").glob("*/conversationd-*")}
    done = run("make demo PROVIDER=process", DOCKER_HOST="unix:///nonexistent/docker.sock")
    assert done.returncode == 0, done.stderr
    (shown,) = blocks("console")
    steps = re.compile(r"^(?:# .*|\$ conversationctl .*)$", re.MULTILINE)
    assert steps.findall(done.stdout) == steps.findall(shown)
    assert "RUNNING -> STARTING (exited)" in done.stdout
    directory = re.search(r"listens on (/\S+)/run/control.sock", done.stdout)
    assert directory is not None
    assert not [line for line in command_lines() if directory[1] in line]
    assert {path.name for path in Path("/sys/fs/cgroup").glob("*/conversationd-*")} <= before


def test_make_serve_runs_a_daemon_that_conversationctl_finds(daemon: DaemonProcess, engine_url: str) -> None:
    """It serves in the foreground with the config of the environment, and ends well when it is told to."""
    daemon.stop()
    environ = {"CONVERSATIOND_CONFIG": str(daemon.config), "DOCKER_HOST": engine_url}
    command = ["make", "serve"]
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | environ, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stderr is not None
        ready = next(line for line in serving.stderr if "daemon.ready" in line)
        told = run(".venv/bin/conversationctl info", CONVERSATIOND_ADDRESS=f"unix:{daemon.socket}")
        assert told.returncode == 0, told.stderr
        os.kill(json.loads(ready)["pid"], 15)
        assert serving.wait(PATIENCE) == 0


def test_check_config_accepts_the_shipped_config() -> None:
    """The command of the README says that the config is good."""
    done = run(".venv/bin/conversationd check-config --config config/conversationd.toml")
    assert (done.returncode, done.stdout) == (0, "The config is good.\n")


async def test_the_curl_examples_run(http_daemon: DaemonProcess, tmp_path: Path) -> None:
    """Each line for curl is carried out by a running daemon, and the events show all of it."""
    life, events = blocks("bash")[:2]
    said = await run_curl(f"{life}{events.rstrip()} || test $? = 28\n", http_daemon, tmp_path)
    assert said.count('"status":"ok"') == 5
    assert said.count('"success":true') == 3
    assert '"title":"My first"' in said
    assert '"results":[{"conversation_id":"c1"' in said
    assert "event: opened\nid: 0\n" in said
    assert '"kind":"deleted"' in said
    assert (tmp_path / "key.header").stat().st_mode & 0o777 == 0o600


async def test_a_front_ends_calls_run(http_daemon: DaemonProcess, tmp_path: Path) -> None:
    """Each line for the V1 routes is carried out by a running daemon."""
    (calls,) = [block for block in blocks("bash") if "app-conversations" in block]
    functions, _, _ = blocks("bash")[0].partition("\n\n")
    said = await run_curl(f"{functions}\n{calls}", http_daemon, tmp_path)
    assert '"READY"' in said
    assert said.count('"success":true') == 3
    assert [said.count(f'"sandbox_status":"{status}"') for status in ("RUNNING", "PAUSED")] == [1, 1]
    assert '"title":"My second"' in said
    assert '"status":"RUNNING","session_api_key":null,"exposed_urls":[]' in said


async def run_curl(script: str, daemon: DaemonProcess, directory: Path) -> str:
    """What a script of the README says, once each of its lines has succeeded."""
    address, _ = http_door(daemon)
    script = script.replace("/var/lib/conversationd", str(daemon.state_dir))
    script = script.replace("http://127.0.0.1:3000", f"http://{address.authority}")
    command = ["bash", "-c", f"set -eu\n{script}"]
    done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, cwd=directory)
    return done.stdout.decode()


async def test_the_runtime_api_examples_run(make_daemon: MakeDaemon, tiny_image: str, tmp_path: Path) -> None:
    """Each line for curl, with a server that is asked for no more than whether it lives."""
    serve = "cd /tmp; touch ready alive; exec httpd -f -p 8000 -h ."
    sleeps, serves = '["sleep", "1000"]\nport = 0', f'["sh", "-c", "{serve}"]\nport = 8000'
    daemon = make_daemon(config_for(tiny_image, HTTP).replace(sleeps, serves))
    daemon.start()
    (calls,) = [block for block in blocks("bash") if "/image_exists" in block]
    functions, _, _ = blocks("bash")[0].partition("\n\n")
    script = f"{functions}\n{calls}".replace("ghcr.io/openhands/agent-server:latest-python", tiny_image)
    said = await run_curl(script, daemon, tmp_path)
    assert '"exists":true' in said
    assert [said.count(f'"status":"{status}"') for status in ("running", "paused", "stopped")] == [3, 2, 1]


def test_the_example_configs_are_good() -> None:
    """The small one and that of a remote host can be read; `test_alerts` tries the one of the alerts."""
    small, remote, _ = (parse_config(example.encode(), Path("README.md")) for example in blocks("toml"))
    assert small.capacity.max_running == 20
    assert str(remote.remote.url) == "https://runtimes.example.org"
    assert remote.sandbox.allow.providers == ("remote",)


async def test_the_example_requests_are_answered(client: ControlClient) -> None:
    """Each line of JSON is a request that the daemon carries out."""
    await trio.lowlevel.checkpoint()
    (example,) = blocks("json")
    for line in example.splitlines():
        request = json.loads(line)
        assert request["jsonrpc"] == "2.0"
        assert await client.call(request["method"], request["params"]) is not None


@pytest.mark.usefixtures("client")
async def test_the_example_program_runs(daemon: DaemonProcess) -> None:
    """The Python example starts a conversation and follows it until it runs."""
    example, _ = blocks("python")  # the other one is the client's of the runtime API, see tests/e2e/test_workspace
    program = example.replace("/run/conversationd/control.sock", str(daemon.socket))
    done = await trio.run_process([sys.executable, "-c", program], capture_stdout=True, cwd=ROOT)
    assert "'to': 'RUNNING'" in done.stdout.decode()
