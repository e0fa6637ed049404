"""Bad input and bad surroundings, against a real daemon: each gets a clear error, and nothing is lost."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import docker
import pytest
import trio

from supervisor.control.address import TcpAddress, UnixAddress
from supervisor.control.client import ConnectionLost, ControlClient, NotAuthenticated, RemoteError, connect
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Status
from tests.daemon.conftest import config_for, owned
from tests.daemon_process import DaemonProcess

PATIENCE = 60.0


def run_conversationd(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, "-m", "supervisor.cli.conversationd", *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("spec", "code", "path"),
    [
        ({"mounts": ["/etc:/host"]}, "forbidden", "spec.mounts[0]"),
        ({"mounts": ["/var/run/docker.sock:/var/run/docker.sock"]}, "forbidden", "spec.mounts[0]"),
        ({"network": "host"}, "forbidden", "spec.network"),
        ({"memory": "64GiB"}, "forbidden", "spec.memory"),
        ({"provider": "chroot"}, "forbidden", "spec.provider"),
        ({"memory": "a lot"}, "invalid_params", "spec.memory"),
        ({"image": "conversationd-tests/there-is-none:1"}, "image_unavailable", None),
        # With a port: without one a sandbox that ends is taken for ready, if it has lived for a moment.
        ({"command": ["/no/such/program"], "init": False, "port": 8000}, "sandbox_failed", None),
        ({"command": ["/no/such/program"], "init": True, "port": 8000}, "sandbox_failed", None),
        ({"command": ["sh", "-c", "echo too bad; exit 127"], "port": 8000}, "sandbox_failed", None),
    ],
)
async def test_a_spec_that_cannot_be_is_refused_at_once(
    client: ControlClient, daemon: DaemonProcess, spec: JsonObject, code: str, path: str | None
) -> None:
    """What is forbidden leaves no conversation behind, what fails leaves one in ERROR; neither waits for a deadline."""
    with trio.fail_after(PATIENCE), pytest.raises(RemoteError) as caught:
        await client.start("c1", spec=spec)
    assert caught.value.code == code
    assert caught.value.data.get("path") == path
    statuses = [one.status for one in await client.list_all()]
    assert statuses == ([] if code in ("forbidden", "invalid_params") else [Status.ERROR])


async def test_a_failed_start_tells_code_and_output(client: ControlClient) -> None:
    """An exit while starting is told with its code and the last lines, in the answer and in the record."""
    with pytest.raises(RemoteError) as caught:
        await client.start("c1", spec={"command": ["sh", "-c", "echo too bad; exit 127"]})
    assert caught.value.data["exit_code"] == 127
    assert caught.value.data["log_tail"] == ["too bad"]
    error = (await client.get("c1")).error
    assert error is not None
    assert (error.code, error.exit_code, error.log_tail) == ("exited", 127, ("too bad",))


async def test_running_out_of_memory_is_told_apart(client: ControlClient) -> None:
    """A sandbox over its memory limit is restarted once, and then ERROR says that memory was the cause."""
    hog = "sleep 0.3; x=a; while :; do x=$x$x$x$x; done"
    await client.start("c1", spec={"command": ["sh", "-c", hog], "memory": "16MiB"})
    with trio.fail_after(PATIENCE):
        async with client.subscribe(ids=["c1"], since=0) as events:
            async for event in events:
                if event.kind == "status" and event.data["to"] == "ERROR":
                    break
    error = (await client.get("c1")).error
    assert error is not None
    assert (error.code, error.oom_killed) == ("oom_killed", True)
    restarts = [event.data["cause"] for event in await client.history("c1") if event.kind == "restart_scheduled"]
    assert restarts == ["oom_killed"]


async def test_a_second_daemon_on_the_same_state_directory_is_refused(daemon: DaemonProcess) -> None:
    """It ends with 73 and says which directory is taken; the first one does not notice."""
    done = await trio.to_thread.run_sync(run_conversationd, "serve", "--config", str(daemon.config))
    assert done.returncode == 73
    assert str(daemon.state_dir) in done.stderr
    assert "another conversationd" in done.stderr
    async with connect(UnixAddress(daemon.socket)) as client:
        await client.info()


def test_a_state_directory_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """It ends with 73 and says what to do."""
    blocked = tmp_path / "file"
    blocked.touch()
    config = tmp_path / "c.toml"
    config.write_text(f'[daemon]\nstate_dir = "{blocked}/state"\n[control]\nlisten = ["unix:{tmp_path}/s"]\n')
    done = run_conversationd("--config", str(config))
    assert done.returncode == 73
    assert f"{blocked}/state" in done.stderr


def test_an_address_that_is_taken_is_told(tmp_path: Path, daemon: DaemonProcess) -> None:
    """A socket on which another daemon answers is left to it: 69."""
    config = tmp_path / "c.toml"
    config.write_text(
        f'[daemon]\nstate_dir = "{tmp_path}/state"\n[control]\nlisten = ["unix:{daemon.socket}"]\n'
        '[docker]\nhost = "unix:///nonexistent"\n'
    )
    done = run_conversationd("--config", str(config))
    assert done.returncode == 69
    assert str(daemon.socket) in done.stderr


@pytest.mark.parametrize("command", [["check-config"], ["serve"], []])
def test_a_wrong_config_is_told_with_file_and_key(tmp_path: Path, command: list[str]) -> None:
    """Every command exits with 78 and names what is wrong."""
    config = tmp_path / "c.toml"
    config.write_text('[timeouts]\nstart = "soon"\n[sandbox]\nimagine = "x"\n')
    done = run_conversationd(*command, "--config", str(config))
    assert done.returncode == 78
    assert f"{config}: timeouts.start: 'soon'" in done.stderr.replace('"soon"', "'soon'")
    assert "sandbox.imagine" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_command_line_says_its_version_and_helps() -> None:
    """`--version` and `--help` answer, and a good config is called good."""
    assert run_conversationd("--version").stdout.startswith("conversationd ")
    assert "Example:" in run_conversationd("serve", "--help").stdout
    done = run_conversationd("check-config", "--config", "config/conversationd.toml")
    assert (done.returncode, done.stdout) == (0, "The config is good.\n")


def test_the_control_files_are_private(daemon: DaemonProcess) -> None:
    """Socket 0660 in a directory 0750; token, journal and state directory for nobody else."""
    modes = {
        path: path.stat().st_mode & 0o777
        for path in (daemon.socket, daemon.socket.parent, daemon.state_dir, *daemon.state_dir.iterdir())
    }
    assert modes.pop(daemon.socket) == 0o660
    assert modes.pop(daemon.socket.parent) == 0o750
    assert modes.pop(daemon.state_dir) == 0o700
    assert {mode & 0o077 for mode in modes.values()} == {0}


async def test_tcp_wants_the_token(daemon: DaemonProcess) -> None:
    """With the token of the file a client is let in, with another or none it is not."""
    address = TcpAddress("127.0.0.1", daemon.tcp_port)
    token = (daemon.state_dir / "token").read_text().strip()
    async with connect(address, token) as client:
        assert (await client.info()).name == "conversationd"
    for wrong in ("wrong", None):
        with pytest.raises((NotAuthenticated, ConnectionLost)):
            async with connect(address, wrong) as client:
                await client.info()


async def test_secrets_are_in_no_log_event_or_command_line(
    daemon: DaemonProcess, client: ControlClient, raw: docker.APIClient
) -> None:
    """The token, the session key and what a request carries are nowhere but where they belong."""
    await client.start("c1", request={"agent": {"api_key": "request-secret-1"}}, spec={"env": {"A": "env-secret-2"}})
    await client.stop("c1", force=True)
    await client.restart("c1")
    (row,) = owned(raw, daemon)
    inspected = raw.inspect_container(row["Id"])
    events = json.dumps([event.data for event in await client.history("c1")])
    argv = await trio.Path(f"/proc/{daemon.pid}/cmdline").read_text() + json.dumps(inspected["Config"]["Cmd"])
    token = (daemon.state_dir / "token").read_text().strip()
    for secret in (token, "request-secret-1", "env-secret-2"):
        for place in (daemon.log.read_text(), events, argv):
            assert secret not in place


async def test_a_caller_that_hangs_up_cancels_nothing(client: ControlClient, daemon: DaemonProcess) -> None:
    """A caller that goes away in the middle of its command cancels nothing."""
    with trio.move_on_after(0.05):
        async with connect(UnixAddress(daemon.socket)) as hasty:
            await hasty.start("c1")
    with trio.fail_after(PATIENCE):
        async with client.subscribe(ids=["c1"], since=0) as events:
            async for event in events:
                if event.kind == "status" and event.data["to"] == "RUNNING":
                    break
    assert (await client.get("c1")).status is Status.RUNNING


def test_the_daemon_does_not_run_twice_by_a_symlinked_lock(
    make_daemon: Callable[[str], DaemonProcess], tiny_image: str, tmp_path: Path
) -> None:
    """A lock that is a symbolic link is not followed."""
    daemon = make_daemon(config_for(tiny_image))
    daemon.state_dir.mkdir(0o700)
    target = tmp_path / "target"
    (daemon.state_dir / "lock").symlink_to(target)
    done = run_conversationd("--config", str(daemon.config))
    assert done.returncode == 73
    assert not target.exists()
