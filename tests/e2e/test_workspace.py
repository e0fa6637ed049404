"""The runtime API, judged by the client that people have: `openhands-workspace` with the real agent server."""

import io
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import docker
import pytest

from tests.daemon_fixtures import MakeDaemon, owned
from tests.daemon_process import DaemonProcess
from tests.e2e.conftest import config_for
from tests.http_door import HTTP, http_door

ROOT: Final = Path(__file__).parents[2]
KEYS: Final = "/var/lib/conversationd/api-keys"
PATIENCE: Final = 240


def example() -> str:
    """The README's program for `openhands-workspace`."""
    (found,) = re.findall(
        r"```python\n(from pathlib [^`]*APIRemoteWorkspace.*?)```", (ROOT / "README.md").read_text(), re.DOTALL
    )
    return str(found)


@contextmanager
def container_of_judge(raw: docker.APIClient, image: str, files: Mapping[str, str], argv: list[str]) -> Iterator[str]:
    """A container on the host's network that has some files and is to run a Python program."""
    host = raw.create_host_config(network_mode="host", init=True)
    labels = {"conversationd.e2e": "judge"}
    made = raw.create_container(
        image,
        entrypoint=["/opt/agent/bin/python", *argv],
        # As for the agent server: where the list cannot be fetched, every second import ends in a deadlock.
        environment={"LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        host_config=host,
        labels=labels,
    )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(path.removeprefix("/"))
            entry.size = len(text.encode())
            tar.addfile(entry, io.BytesIO(text.encode()))
    try:
        raw.put_archive(made["Id"], "/", buffer.getvalue())
        yield str(made["Id"])
    finally:
        raw.remove_container(made["Id"], v=True, force=True)


@pytest.fixture
def daemon(make_daemon: MakeDaemon, agent_image: str) -> DaemonProcess:
    """A daemon that serves the runtime API."""
    daemon = make_daemon(config_for(agent_image) + HTTP)
    daemon.start()
    return daemon


def test_openhands_workspace_uses_a_runtime_for_its_whole_life(
    daemon: DaemonProcess, agent_image: str, raw: docker.APIClient
) -> None:
    """The README's example, then all that `judge` asks for; afterwards nothing of it is left."""
    address, key = http_door(daemon)
    url = f"http://{address.authority}"
    program = example().replace("http://127.0.0.1:3000", url)
    program = re.sub(r'"ghcr\.io/[^"]*"', f'"{agent_image}"', program)
    files = {KEYS: key, "/judge.py": (Path(__file__).parent / "judge.py").read_text(), "/example.py": program}
    argv = ["/judge.py", url, agent_image, KEYS, "/example.py"]
    with container_of_judge(raw, agent_image, files, argv) as judge:
        raw.start(judge)
        code = raw.wait(judge, timeout=PATIENCE)["StatusCode"]
        said = raw.logs(judge).decode(errors="replace")
    assert code == 0, said[-8000:]
    assert "\nhello\n" in said
    assert said.endswith("judged\n")
    assert owned(raw, daemon) == []
    assert not raw.volumes(filters={"label": f"io.conversationd.owner={daemon.instance}"})["Volumes"]
    log = daemon.log.read_text()
    assert key not in log
    assert '"exc_info"' not in log
