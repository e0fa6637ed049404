"""The service under a real systemd, on a machine of its own."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import docker
import pytest

from tests.daemon_fixtures import raw, remove_owned
from tests.engine_host import NoEngine
from tests.service.machine import Machine, NoSystemd
from tests.service.service import CONFIG, Service

__all__ = ["raw", "service"]

PROCESSES = """
[sandbox]
provider = "process"
[process]
command = ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", "{port}"]
[agent]
driver = "none"
[restart]
backoff_initial = "50ms"
"""


@pytest.fixture(scope="package")
def machine(engine_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine that is up, which reaches the engine of this run."""
    if not engine_url.startswith("unix://"):
        pytest.fail(f"these tests need a Docker Engine on a Unix socket, not {engine_url}", pytrace=False)
    machine = Machine(tmp_path_factory.mktemp("machine"), Path(engine_url.removeprefix("unix://")))
    try:
        machine.boot()
        yield machine
    except NoSystemd as error:
        pytest.fail(f"these tests need a systemd: {error}", pytrace=False)
    except NoEngine:
        pytest.fail("these tests boot a systemd, which takes root or sudo: be root", pytrace=False)
    finally:
        machine.end()


@pytest.fixture(scope="package")
def service(machine: Machine, engine_url: str) -> Iterator[Service]:
    """conversationd, installed and started as the README says; what its sandboxes left is removed at the end."""
    service = Service(machine)
    service.install()
    yield service
    machine.end()
    with closing(docker.APIClient(base_url=engine_url, version="auto")) as client:
        remove_owned(client, service.instance)


@pytest.fixture(scope="module")
def processes(service: Service) -> Iterator[Service]:
    """The service with process sandboxes, under the drop-in for them; afterwards it is again what it was."""
    config = service.machine.run("cat", CONFIG)
    service.write(CONFIG, PROCESSES)
    service.install_drop_in()
    yield service
    service.write(CONFIG, config)
    service.remove_drop_in()
