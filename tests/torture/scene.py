"""The scene of a trial: a real daemon over the engine of the run, watched from outside, and audited at the end."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from random import Random
from signal import SIGKILL
from typing import Final

import attrs
import docker
import trio

from supervisor.control.address import UnixAddress
from supervisor.control.client import ControlClient, Conversation, connect
from supervisor.conversation.lifecycle import Status
from supervisor.conversation.record import FailureCode, Observed
from supervisor.sandbox.docker.names import CONVERSATION_LABEL
from tests.daemon_fixtures import remove_leftovers
from tests.daemon_process import DaemonError, DaemonProcess
from tests.torture.churn import Churn, Pace, check
from tests.torture.daemon_log import incidents
from tests.torture.engine_watch import EngineWatch
from tests.torture.ledger import Ledger, Steadiness
from tests.torture.trial import Bench
from tests.torture.waiting import comes_true
from tests.torture.witness import Witness, hear_witness, read_journal
from tests.torture.workspaces import COMMAND, Workspaces, start_with_token

_CONFIG: Final = """
max_connections = 4096
[sandbox]
image = "{image}"
pull = "never"
command = {command}
port = 0
memory = "16MiB"
cpus = 1.0
[agent]
driver = "none"
[timeouts]
grace = "1s"
[restart]
max_restarts = 1000
backoff_initial = "50ms"
backoff_max = "1s"
[capacity]
max_running = 0
max_starting = 0
"""
_BEGUN_WITHIN: Final = 10.0
_SETTLE_WITHIN: Final = 120.0
_LOOK_AGAIN_AFTER: Final = 0.1
_ENDED: Final = ("exited", "created", "dead")


@attrs.define(eq=False)
class Scene:
    """A daemon that may be killed and started again, what is known of it, and the engine behind it."""

    bench: Bench
    daemon: DaemonProcess
    raw: docker.APIClient
    ledger: Ledger
    watch: EngineWatch
    witness: Witness
    workspaces: Workspaces

    @property
    def address(self) -> UnixAddress:
        """Where it listens."""
        return UnixAddress(self.daemon.socket)

    def churn(self, count: int, pace: Pace | None = None) -> Churn:
        """Clients for so many conversations."""
        names = [f"c{number}" for number in range(count)]
        return Churn(self.address, self.ledger, names, self.bench.random, pace or Pace())

    async def kill_daemon(self) -> None:
        """End it as a power cut would; until then it has to have lived."""
        code = await trio.to_thread.run_sync(self.daemon.kill)
        if code != -SIGKILL:
            self.ledger.lose(f"the daemon had ended by itself with {code}: {self.daemon.tail()}")

    async def start_daemon(self) -> float:
        """Start it again; how many seconds that took."""
        return await trio.to_thread.run_sync(self.daemon.start)

    async def kill_daemon_while_it_starts(self, after: float) -> None:
        """Start it, and kill it some seconds later, ready or not."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._start_until_killed)
            if await comes_true(lambda: self.daemon.is_begun, _BEGUN_WITHIN):
                await trio.sleep(after)
                self.daemon.send(SIGKILL)
        await self.kill_daemon()

    async def audit(self) -> tuple[str, ...]:
        """Wait until everything has settled and end the daemon; then a sentence for all that is not as it should be."""
        async with connect(self.address) as client:
            losses = await self._settle(client)
            await self.check_all(client)
            losses += await self._finish_one(client)
            losses += (await read_journal(client, self.ledger)).losses
            losses += await hear_witness(self.witness, client, _SETTLE_WITHIN)
        losses += await self._end_daemon()
        return (*self.ledger.losses, *self.watch.doubles, *self.workspaces.losses, *losses)

    async def check_all(self, client: ControlClient) -> None:
        """Hold the daemon to everything that it told."""
        await trio.lowlevel.checkpoint()
        for account in self.ledger.accounts.values():
            await check(client, account)

    async def settled(self) -> list[str]:
        """Wait until the daemon and the engine agree on everything; what they do not agree on in the end."""
        await trio.lowlevel.checkpoint()
        async with connect(self.address) as client:
            return await self._settle(client)

    def tell(self, *more: str) -> str:
        """The figures for the table."""
        return "; ".join((self.ledger.tell(), self._tell_seen(), *more))

    def _tell_seen(self) -> str:
        return f"{len(self.watch.made)} containers, {self.workspaces.boots} signed boots, {self.witness.last} events"

    async def _start_until_killed(self) -> None:
        await trio.lowlevel.checkpoint()
        try:
            await self.start_daemon()
        except DaemonError:
            return  # it was killed before it was ready

    async def _settle(self, client: ControlClient) -> list[str]:
        deadline = trio.current_time() + _SETTLE_WITHIN
        losses = await self._compare(client)
        while losses and trio.current_time() < deadline:
            await trio.sleep(_LOOK_AGAIN_AFTER)
            losses = await self._compare(client)
        return losses

    async def _compare(self, client: ControlClient) -> list[str]:
        """The records beside the engine's own lists. Nothing else uses this engine: all that is on it is looked at."""
        conversations = {one.id: one for one in await client.list_all()}
        rows = await trio.to_thread.run_sync(lambda: self.raw.containers(all=True))
        volumes = await trio.to_thread.run_sync(lambda: self.raw.volumes()["Volumes"] or ())
        states = {row["Names"][0].removeprefix("/"): row["State"] for row in rows}
        wanted = {one.sandbox.name for one in conversations.values() if one.sandbox is not None}
        losses = [f"container {name} is wanted by no record" for name in states.keys() - wanted]
        losses += [
            f"volume {volume['Name']} belongs to no conversation"
            for volume in volumes
            if (volume["Labels"] or {}).get(CONVERSATION_LABEL) not in conversations
        ]
        losses += [wrong for one in conversations.values() if (wrong := wrong_with(one, states))]
        return losses + await self.workspaces.compare(conversations.values())

    async def _finish_one(self, client: ControlClient) -> list[str]:
        """It still does its job: one more conversation through its life."""
        await start_with_token(client, "last")
        await client.pause("last")
        await client.resume("last")
        stopped = await client.stop("last")
        await client.delete("last")
        return [] if stopped.conversation.status is Status.STOPPED else ["the last conversation did not stop"]

    async def _end_daemon(self) -> list[str]:
        """It ends when it is asked to, and has met nothing that its log would know and we would not."""
        code = await trio.to_thread.run_sync(self.daemon.stop)
        losses = [f"the daemon ended with {code}"] if code else []
        return losses + list(incidents(self.daemon.log, self.ledger.steadiness.trouble))


def wrong_with(conversation: Conversation, states: Mapping[str, str]) -> str | None:
    """Say what does not fit between a conversation and its container, by the states of all containers."""
    state = states.get(conversation.sandbox.name, "gone") if conversation.sandbox is not None else "gone"
    cold = conversation.observed is Observed.COLD
    fits = {
        Status.STARTING: False,
        Status.RUNNING: state == "running",
        Status.PAUSED: state == "paused" or (cold and (state in _ENDED or state == "gone")),
        Status.STOPPED: state in _ENDED or state == "gone",
        Status.ARCHIVED: state == "gone",
        Status.ERROR: state in _ENDED or state == "gone" or _is_kept(conversation),
    }[conversation.status]
    if fits and conversation.observed is not Observed.UNKNOWN:
        return None
    return f"{conversation.id} is {conversation.status} ({conversation.observed}) and its container is {state}"


def _is_kept(conversation: Conversation) -> bool:
    """A sandbox that could not be resumed in time is kept as it is, for whoever wants to know why."""
    return conversation.error is not None and conversation.error.code == FailureCode.RESUME_TIMEOUT


@asynccontextmanager
async def open_scene(
    bench: Bench,
    *,
    steadiness: Steadiness | None = None,
    config: str = "",
    environ: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    directory: Path | None = None,
) -> AsyncIterator[Scene]:
    """A daemon that runs, under watch; everything of it is gone at the end. `config` is further TOML."""
    url = bench.engine.base_url
    place = directory or bench.directory
    daemon = DaemonProcess(
        place,
        _CONFIG.format(image=bench.image, command=COMMAND) + config,
        {"DOCKER_HOST": url, **(environ or {})},
        prefix,
    )
    witness = Witness()
    await trio.to_thread.run_sync(daemon.start)
    with closing(docker.APIClient(base_url=url, version="1.41")) as raw:
        try:
            with EngineWatch(url, daemon.instance) as watch:
                workspaces = Workspaces(raw.info()["DockerRootDir"], daemon.instance)
                scene = Scene(bench, daemon, raw, Ledger(steadiness or Steadiness()), watch, witness, workspaces)
                async with witness.watching(scene.address), workspaces.watching():
                    yield scene
        finally:
            with trio.CancelScope(shield=True):  # bounded by the time limits of both
                await trio.to_thread.run_sync(daemon.stop)
                await trio.to_thread.run_sync(remove_leftovers, raw, daemon)


def moment(random: Random, most: float) -> float:
    """A random moment, often an early one: most of what can be cut happens soon."""
    return most * random.random() ** 2
