"""Start, pause, resume and stop of the same small server in each kind of sandbox, by one daemon, interleaved."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import attrs

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, connect
from supervisor.conversation.json import JsonObject
from tests.benchmarks.report import Finding, ratio_of, timed
from tests.benchmarks.sandboxes import SERVE, end, serving_config
from tests.daemon_process import DaemonProcess, running_daemon
from tests.http_door import HTTP, http_door

GOALS: Final[Mapping[str, Mapping[str, float]]] = {
    "process": {"start": 0.5, "pause": 0.75, "resume": 0.75, "stop": 0.5},
    "remote": {"start": 1.5, "pause": 3.0, "resume": 3.0, "stop": 2.5},
}
"""How many times what it costs with Docker. A remote stop removes the sandbox and its workspace."""

_HOSTED: Final = ("sh", "-c", f"cd /tmp; touch ready alive; exec {' '.join(SERVE[:-1])} .", "--port", "8000")
"""The server as a host of sandboxes wants it: it says that it is ready, and its command says its port."""


@contextmanager
def daemon_of_all_kinds(image: str, environ: Mapping[str, str]) -> Iterator[DaemonProcess]:
    """A daemon that has Docker, processes, and another daemon that hosts sandboxes for it."""
    config = serving_config(image)
    with running_daemon(config + HTTP, environ) as host:
        address, _ = http_door(host)
        remote = f'[remote]\nurl = "http://{address.authority}"\napi_key_file = "{host.state_dir / "api-keys"}"\n'
        with running_daemon(f'{config}[sandbox.allow]\nproviders = ["*"]\n{remote}', environ) as daemon:
            yield daemon


def specs(busybox: Path) -> Mapping[str, JsonObject]:
    """The spec of the server for each kind of sandbox."""
    local = [str(busybox), "httpd", "-f", "-p", "127.0.0.1:{port}", "-h", "/etc"]
    return {
        "docker": {"provider": "docker"},
        "process": {"provider": "process", "command": local},
        "remote": {"provider": "remote", "command": list(_HOSTED)},
    }


async def measure_kinds(socket: Path, busybox: Path, rounds: int) -> Sequence[Finding]:
    """What the others cost beside Docker, each through the same daemon."""
    async with connect(UnixAddress(socket)) as client:
        lives = {kind: _Lives(client, kind, spec) for kind, spec in specs(busybox).items()}
        for number in range(rounds):
            for each in lives.values():
                await each.live(number)
    docker = lives["docker"].taken
    return [
        ratio_of(f"{what} of a {kind} sandbox, beside Docker's", lives[kind].taken[what], docker[what], goal)
        for kind, goals in GOALS.items()
        for what, goal in goals.items()
    ]


@attrs.define
class _Lives:
    """Conversations of one kind, one after the other, and the seconds that each step of them has taken."""

    client: ControlClient
    kind: str
    spec: JsonObject
    taken: dict[str, list[float]] = attrs.field(factory=lambda: {"start": [], "pause": [], "resume": [], "stop": []})

    async def live(self, number: int) -> None:
        name = f"{self.kind}{number}"
        await self._take("start", partial(self.client.start, name, spec=self.spec))
        await self._take("pause", partial(self.client.pause, name))
        await self._take("resume", partial(self.client.resume, name))
        await self._take("stop", partial(self.client.stop, name))
        await end(self.client, name)

    async def _take(self, step: str, work: Callable[[], Awaitable[object]]) -> None:
        seconds, _ = await timed(work)
        self.taken[step].append(seconds)
