"""The daemon: everything wired together, brought up, watched over, reloaded, and ended in two phases.

This is the only module that knows every room. A new agent driver is one line in its table; the sandbox providers have
one of their own, in `supervisor.providers`.
"""

import gc
import os
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from random import Random
from typing import Final

import attrs
import structlog
import trio

from supervisor import __version__
from supervisor.actors.clock import SystemClock
from supervisor.actors.settings import ActorSettings
from supervisor.actors.supervision import Parts, Supervision, supervise
from supervisor.agent import NoAgent, open_server_driver, open_v0_driver, open_v1_driver
from supervisor.agent.port import AgentDriver
from supervisor.alerts import (
    AlertParts,
    AlertSettings,
    IncidentBox,
    load_webhook_secret,
    look_at_disks,
    open_sinks,
    run_alerts,
)
from supervisor.alerts.rules import DiskSpace
from supervisor.config import Config, OnShutdown
from supervisor.config_file import ConfigError
from supervisor.control.address import ControlAddress, TcpAddress
from supervisor.control.listener import ControlOptions, ControlServer
from supervisor.control.messages import InvalidParams
from supervisor.control.token import Token, load_token
from supervisor.conversation.events import DaemonChanged
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Command, Status
from supervisor.conversation.parse import InvalidSpec, parse_overrides
from supervisor.conversation.spec import SpecOverrides
from supervisor.http.agent_request import load_agent_request
from supervisor.http.keys import ApiKeys, load_api_keys
from supervisor.incidents import heard_by
from supervisor.journal.changes import JournalError, Note
from supervisor.journal.state_dir import StateDirError, locked_state_dir
from supervisor.journal.store import Store
from supervisor.logs import configure_logging
from supervisor.notify import Notifier, watchdog_interval
from supervisor.providers import Providers, Surroundings, open_providers
from supervisor.secret_file import UnsafeSecret

_log: structlog.stdlib.BoundLogger = structlog.get_logger()

_SWITCH_INTERVAL: Final = 0.0005
"""Seconds for which a thread may keep the interpreter from the event loop: docker-py's threads compute, too."""

_GARBAGE_AFTER: Final = (10_000, 5, 5)
"""When the collector looks for cycles. By the interpreter's own thresholds it walks through all that lives, 250 ms long
with a thousand connections, again and again while objects come that die by themselves."""

_STATUS_EVERY: Final = 1.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PROGRESS_WITHIN: Final = 10.0
_COMMANDS_END_WITHIN: Final = 10.0
"""Seconds that commands under way have to end by themselves at the first signal; a second signal gives them none."""


class Settings:
    """The part of the config that a reload replaces."""

    def __init__(self, config: Config, agent_request: JsonObject, providers: Providers) -> None:
        self.config = config
        self.agent_request = agent_request
        self._providers = providers
        self.actors = self._with_provider(config.actor_settings(), providers.default)
        self.alerts = config.alert_settings()
        self._started_with = config

    def current_alerts(self) -> AlertSettings:
        """What the alerts read whenever they judge or tell."""
        return self.alerts

    def current(self) -> ActorSettings:
        """What every actor reads at each of its steps."""
        return self.actors

    def current_agent_request(self) -> JsonObject:
        """What the V1 routes lay under every start."""
        return self.agent_request

    def replace(self, config: Config, agent_request: JsonObject) -> tuple[str, ...]:
        """Take a new config; names the sections whose change needs a restart of the daemon."""
        fixed = ("daemon", "control", "http", "docker", "process", "remote", "journal")
        waiting = tuple(name for name in fixed if getattr(config, name) != getattr(self.config, name))
        provider = self._providers.default_for(config.sandbox.spec.provider)
        if provider is None:
            waiting = (*waiting, "sandbox.provider")
        self.config = config
        self.agent_request = agent_request
        self.actors = self._with_provider(config.actor_settings(), provider or self.actors.sandbox.provider)
        self.alerts = attrs.evolve(config, daemon=self._started_with.daemon).alert_settings()
        return waiting

    def _with_provider(self, settings: ActorSettings, provider: str) -> ActorSettings:
        return attrs.evolve(settings, sandbox=attrs.evolve(settings.sandbox, provider=provider))


def tune_interpreter() -> None:
    """Have threads and the garbage collector hold up the event loop as little as may be."""
    sys.setswitchinterval(_SWITCH_INTERVAL)
    gc.set_threshold(*_GARBAGE_AFTER)


async def serve(config: Config, read_config: Callable[[], Config], environ: Mapping[str, str]) -> None:
    """Run the daemon until a signal ends it. `read_config` is asked again at SIGHUP.

    Raises:
        StateDirError: the state directory cannot be used, or another daemon does.
        NewerSchemaError: its journal was written by a newer version.
        CannotListen: an address of the control channel cannot be had.
        NoSuchProvider: the config, or a conversation, has a sandbox provider that there is not.
        UnsafeSecret: the file of the token, of the API keys, of the webhook's secret, of the remote host's key, or of
            what agents are handed, cannot be used.
    """
    os.umask(0o077)
    tune_interpreter()
    notifier = Notifier(environ)
    agent_request = load_agent_request(config.agent.request_file)
    with (
        locked_state_dir(config.daemon.state_dir) as state_dir,
        closing(_open_store(state_dir / "journal.db")) as store,
    ):
        token, api_keys = _token(config), _api_keys(config)
        webhook = config.alert_settings().webhook
        if webhook is not None:
            load_webhook_secret(webhook.secret_file)
        incidents = IncidentBox()
        around = Surroundings(config, store.instance, environ)
        async with open_providers(around, store.providers()) as providers, _drivers() as drivers:
            settings = Settings(config, agent_request, providers)
            parts = Parts(
                store=store,
                providers=providers.table,
                drivers=drivers,
                settings=settings.current,
                clock=SystemClock(),
                random=Random(),  # noqa: S311 - it spreads backoffs and probes, and keeps no secret
                retention=config.journal.retention,
            )
            notifier.status("reconciling")
            with trio.open_signal_receiver(*_SIGNALS) as signals, heard_by(incidents.put):
                async with supervise(parts) as supervision, _alerting(settings, supervision, incidents, parts):
                    daemon = _Daemon(settings, read_config, notifier, supervision, token, api_keys)
                    await daemon.run(signals, watchdog_interval(environ))
    _log.info("daemon.stopped")


@attrs.frozen(eq=False)
class _Daemon:
    settings: Settings
    read_config: Callable[[], Config]
    notifier: Notifier
    supervision: Supervision
    token: Token | None
    api_keys: ApiKeys | None = None

    async def run(self, signals: AsyncIterator[int], watchdog: float | None) -> None:
        async with trio.open_nursery() as nursery:
            servers = [await self._serve_control(nursery)]
            if self.api_keys is not None:
                servers.append(await self._serve_http(nursery, self.api_keys))
            addresses = [str(address) for server in servers for address in server.addresses]
            await self._note("started", f"conversationd {__version__} serves {', '.join(addresses)}")
            _log.info("daemon.ready", version=__version__, pid=os.getpid(), listen=addresses)
            self._warn_of_engines()
            nursery.start_soon(self._tell_status)
            if watchdog is not None:
                nursery.start_soon(self._feed_watchdog, watchdog)
            self.notifier.ready()
            await self._until_ended(signals)
            await self._end(servers, signals)
            nursery.cancel_scope.cancel()

    async def _serve_control(self, nursery: trio.Nursery) -> "_Serving":
        control = self.settings.config.control
        server = ControlServer(
            self.supervision.supervisor,
            _parse_spec,
            ControlOptions(self.token, control.allowed_origins, control.max_connections),
        )
        return _Serving(await nursery.start(server.run, control.listen), server.begin_shutdown)

    async def _serve_http(self, nursery: trio.Nursery, keys: ApiKeys) -> "_Serving":
        # Only where it is wanted: its libraries take longer to import than everything else together.
        from supervisor.http.server import HttpOptions, HttpServer  # noqa: PLC0415

        http = self.settings.config.http
        agent_request = self.settings.current_agent_request
        options = HttpOptions(keys, http.allowed_hosts, http.cors_origins, agent_request=agent_request)
        server = HttpServer(self.supervision.supervisor, _parse_spec, options)
        return _Serving((await nursery.start(server.run, http.listen),), server.begin_shutdown)

    async def _until_ended(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            if number != signal.SIGHUP:
                _log.info("daemon.stopping", signal=signal.Signals(number).name)
                return
            await self._reload()

    async def _reload(self) -> None:
        self.notifier.reloading()
        try:
            config = self.read_config()
            waiting = self.settings.replace(config, load_agent_request(config.agent.request_file))
        except (ConfigError, UnsafeSecret) as error:
            _log.error("config.not_reloaded", error=str(error))
            await self._note("reload_failed", str(error))
        else:
            log = self.settings.config.log
            configure_logging(log.level, log.format, sys.stderr)
            _log.info("config.reloaded", needs_restart=list(waiting))
            await self._note("reloaded", f"needs a restart: {', '.join(waiting)}" if waiting else "all of it applies")
        self.notifier.ready()

    async def _end(self, servers: Sequence["_Serving"], signals: AsyncIterator[int]) -> None:
        """What the first signal leaves time for; a second one cuts it short."""
        self.notifier.stopping()
        supervisor, config = self.supervision.supervisor, self.settings.config
        supervisor.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_at_next, signals, nursery.cancel_scope)
            await self._note("stopping", f"sandboxes: {config.daemon.on_shutdown}")
            await supervisor.settle(_COMMANDS_END_WITHIN)
            for server in servers:
                server.begin_shutdown()
            command = _WIND_DOWN.get(config.daemon.on_shutdown)
            if command is not None:
                await supervisor.wind_down(command)
            nursery.cancel_scope.cancel()

    def _warn_of_engines(self) -> None:
        default = self.settings.current().sandbox.provider
        for name, engine in self.supervision.engines.items():
            if engine.provider.caution:
                _log.warning("provider.caution", provider=name, caution=engine.provider.caution)
            if name == default and not engine.answers:
                _log.warning("provider.does_not_answer", provider=name, next=_OTHER_PROVIDERS)

    async def _tell_status(self) -> None:
        told = ""
        while True:
            census = self.supervision.registry.census
            engines = self.supervision.engines.values()
            trouble = "" if all(engine.answers for engine in engines) else "; an engine does not answer"
            cautions = "".join(f"; {engine.provider.caution}" for engine in engines if engine.provider.caution)
            counts = ", ".join(f"{census[status]} {status.lower()}" for status in _COUNTED)
            status = f"conversations: {counts}{trouble}{cautions}"
            if status != told:
                self.notifier.status(status)
            told = status
            await trio.sleep(_STATUS_EVERY)

    async def _feed_watchdog(self, interval: float) -> None:
        """Feed only while the journal answers: a supervisor that cannot commit makes no progress."""
        while True:
            with trio.move_on_after(_PROGRESS_WITHIN) as scope:
                await self.supervision.journal.probe()
            if scope.cancelled_caught:
                _log.error("daemon.no_progress", waited=_PROGRESS_WITHIN)
            else:
                self.notifier.watchdog()
            await trio.sleep(interval)

    async def _note(self, what: str, message: str) -> None:
        await trio.lowlevel.checkpoint()
        try:
            await self.supervision.journal.commit(Note(None, SystemClock().now(), (DaemonChanged(what, message),)))
        except JournalError as error:
            _log.warning("daemon.not_noted", what=what, error=str(error))


@attrs.frozen
class _Serving:
    """A server that listens on `addresses`, and what makes it end."""

    addresses: Sequence[ControlAddress]
    begin_shutdown: Callable[[], None]


@asynccontextmanager
async def _alerting(
    settings: Settings, supervision: Supervision, incidents: IncidentBox, parts: Parts
) -> AsyncIterator[None]:
    """Let alerts be raised and told as long as the context lasts; what is not told by then is told the next time."""
    state_dir = settings.config.daemon.state_dir

    async def look() -> Sequence[DiskSpace]:
        engines = (engine.info for engine in supervision.engines.values())
        roots = (Path(info.data_root) for info in engines if info is not None and info.data_root is not None)
        return await trio.to_thread.run_sync(look_at_disks, (state_dir, *roots), abandon_on_cancel=True)

    async with open_sinks(settings.current_alerts, parts.clock) as sinks, trio.open_nursery() as nursery:
        alert_parts = AlertParts(
            journal=supervision.journal,
            subscribe=lambda since: supervision.supervisor.subscribe(since, None, snapshot=False),
            clock=parts.clock,
            random=parts.random,
            settings=settings.current_alerts,
            incidents=incidents,
            look=look,
            sinks=sinks,
        )
        nursery.start_soon(run_alerts, alert_parts)
        yield
        nursery.cancel_scope.cancel()


_OTHER_PROVIDERS: Final = (
    'start or install it; or run sandboxes as processes of this host, without walls: [sandbox] provider = "process", '
    'or "auto" for Docker where it answers'
)
_COUNTED: Final = (Status.RUNNING, Status.STARTING, Status.PAUSED, Status.ERROR)
_WIND_DOWN: Final = {OnShutdown.PAUSE: Command.PAUSE, OnShutdown.STOP: Command.STOP}


async def _cancel_at_next(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for number in signals:
        if number != signal.SIGHUP:
            scope.cancel()
            return


def _parse_spec(value: JsonObject) -> SpecOverrides:
    try:
        return parse_overrides(value)
    except InvalidSpec as error:
        raise InvalidParams(error.path, error.message) from error


def _open_store(path: Path) -> Store:
    try:
        store = Store(path)
    except sqlite3.Error as error:
        raise StateDirError(
            f"the journal {path} cannot be used: {error}: restore it from a copy, or move it away to begin a new one"
        ) from error
    try:
        store.fill_log()
    except sqlite3.Error as error:
        _log.warning("journal.log_not_filled", error=str(error))
    return store


def _token(config: Config) -> Token | None:
    needed = any(isinstance(address, TcpAddress) for address in config.control.listen)
    return load_token(config.token_path) if needed else None


def _api_keys(config: Config) -> ApiKeys | None:
    return load_api_keys(config.api_keys_path) if config.http.enabled else None


@asynccontextmanager
async def _drivers() -> AsyncIterator[Mapping[str, AgentDriver]]:
    """The table of agent drivers."""
    async with open_v1_driver() as v1, open_v0_driver() as v0, open_server_driver() as server:
        yield {driver.name: driver for driver in (v1, v0, server, NoAgent())}
