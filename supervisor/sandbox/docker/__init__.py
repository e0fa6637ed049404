"""The Docker sandbox provider: `DockerProvider` makes sandboxes on one Docker Engine, through docker-py.

Inside: `lanes` run docker-py's blocking calls in threads, `client` bounds each of its requests, `translation` turns
its errors into ours, `containers` are the calls themselves, `streams` are answers without an end (logs, pulls, events).
"""

from supervisor.sandbox.docker.lanes import Lanes
from supervisor.sandbox.docker.provider import DockerProvider

__all__ = ["DockerProvider", "Lanes"]
