"""The config file: TOML in, frozen classes out, with every error of the file at once.

A key that is not in the file has the default that `config/conversationd.toml` shows and explains.
"""

import ipaddress
import re
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

import attrs
import tomli
from cattrs import BaseValidationError, Converter

from supervisor.actors.settings import ActorSettings, CapacityLimits, Health, Timeouts
from supervisor.alerts.settings import AlertSettings, WebhookSettings
from supervisor.control.address import ControlAddress, TcpAddress, UnixAddress, parse_address
from supervisor.conversation.alerts import AlertKind
from supervisor.conversation.parse import SPEC_READERS, cpu_limit, memory_limit, pids_limit, spec_converter
from supervisor.conversation.restart import RestartPolicy
from supervisor.conversation.spec import Allowance, PullPolicy, SandboxSpec, SpecOverrides, without_empty
from supervisor.conversation.strict import (
    NotAllowed,
    Problem,
    Reader,
    absolute_path,
    duration,
    integer,
    listed,
    name,
    number,
    problems_of,
    register_table,
    shown,
    size,
    text,
)
from supervisor.logs import LogFormat, LogLevel
from supervisor.sandbox.process.commands import DEFAULT_COMMAND
from supervisor.sandbox.remote.address import HostAddress, parse_host_address

ENVIRONMENT_VARIABLE: Final = "CONVERSATIOND_CONFIG"
DEFAULT_PATH: Final = Path("/etc/conversationd/conversationd.toml")
_LONGEST_SOCKET_PATH: Final = 107  # bytes that fit the kernel's sockaddr_un


class OnShutdown(StrEnum):
    """What becomes of the sandboxes when the daemon ends."""

    LEAVE = "leave"
    PAUSE = "pause"
    STOP = "stop"


@attrs.frozen
class DaemonConfig:
    """`[daemon]`."""

    state_dir: Path = Path("/var/lib/conversationd")
    on_shutdown: OnShutdown = OnShutdown.LEAVE


@attrs.frozen
class ControlConfig:
    """`[control]`. `token_file` None is the file `token` in the state directory: see `Config.token_path`."""

    listen: tuple[ControlAddress, ...] = (UnixAddress(Path("/run/conversationd/control.sock")),)
    token_file: Path | None = None
    allowed_origins: tuple[str, ...] = ()
    max_connections: int = 512


@attrs.frozen
class HttpConfig:
    """`[http]`. `api_keys_file` None is the file `api-keys` in the state directory: see `Config.api_keys_path`."""

    enabled: bool = False
    listen: ControlAddress = attrs.field(default=TcpAddress("127.0.0.1", 3000))
    api_keys_file: Path | None = None
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()


@attrs.frozen
class LaneSizes:
    """`[docker.lanes]`: how many engine calls of a kind run at once."""

    control: int = 8
    launch: int = 8
    stop: int = 32
    kill: int = 8
    stream: int = 32
    transfer: int = 8


@attrs.frozen
class DockerConfig:
    """`[docker]`. `host` None is `$DOCKER_HOST`, else the engine's usual socket."""

    host: str | None = None
    lanes: LaneSizes = attrs.field(factory=LaneSizes)


@attrs.frozen
class ProcessConfig:
    """`[process]`: what a process sandbox runs whose spec has no command, and where it works (None: state_dir)."""

    command: tuple[str, ...] = DEFAULT_COMMAND
    workspaces: Path | None = None


@attrs.frozen
class RemoteConfig:
    """`[remote]`: the host of the provider `remote`, None if there is none. `memory` is bytes."""

    url: HostAddress | None = None
    api_key_file: Path | None = None
    memory: int = 4 * 1024**3


@attrs.frozen
class SandboxConfig:
    """`[sandbox]`: what a conversation gets that asks for nothing, and how far it may ask for something else."""

    spec: SandboxSpec = attrs.field(
        default=SandboxSpec(
            provider="docker",
            image="ghcr.io/openhands/agent-server:latest-python",
            pull=PullPolicy.MISSING,
            command=None,
            env={},
            port=8000,
            user=None,
            workspace="/workspace",
            memory=4 * 1024**3,
            cpus=2.0,
            pids_limit=1024,
            network="bridge",
            init=True,
        )
    )
    allow: Allowance = attrs.field(factory=Allowance)


@attrs.frozen
class AgentConfig:
    """`[agent]`: the driver of a conversation that names none, and what starts over the V1 routes begin with."""

    driver: str = "v1"
    request_file: Path | None = None


@attrs.frozen
class ArchiveConfig:
    """`[archive]`: the directory that archived workspaces are exported to; None keeps them in their volumes."""

    export_to: Path | None = None


@attrs.frozen
class AlertsConfig:
    """`[alerts]`. `webhook_secret_file` None is the file `webhook-secret` in the state directory."""

    kinds: tuple[AlertKind, ...] = tuple(AlertKind)
    log: bool = True
    webhook_url: str | None = attrs.field(default=None, repr=False)
    webhook_secret_file: Path | None = None
    command: tuple[str, ...] | None = None
    disk_free: int = 1024**3
    allowance: float = 0.8


@attrs.frozen
class JournalConfig:
    """`[journal]`: how long events are kept, in seconds; 0 is for ever."""

    retention: float = 30 * 86400.0


@attrs.frozen
class LogConfig:
    """`[log]`."""

    level: LogLevel = LogLevel.INFO
    format: LogFormat = LogFormat.AUTO


@attrs.frozen
class Config:
    """The whole config; without arguments it is the built-in one."""

    daemon: DaemonConfig = attrs.field(factory=DaemonConfig)
    control: ControlConfig = attrs.field(factory=ControlConfig)
    http: HttpConfig = attrs.field(factory=HttpConfig)
    docker: DockerConfig = attrs.field(factory=DockerConfig)
    process: ProcessConfig = attrs.field(factory=ProcessConfig)
    remote: RemoteConfig = attrs.field(factory=RemoteConfig)
    sandbox: SandboxConfig = attrs.field(factory=SandboxConfig)
    agent: AgentConfig = attrs.field(factory=AgentConfig)
    timeouts: Timeouts = attrs.field(factory=Timeouts)
    restart: RestartPolicy = attrs.field(factory=RestartPolicy)
    health: Health = attrs.field(factory=Health)
    capacity: CapacityLimits = attrs.field(factory=CapacityLimits)
    archive: ArchiveConfig = attrs.field(factory=ArchiveConfig)
    alerts: AlertsConfig = attrs.field(factory=AlertsConfig)
    journal: JournalConfig = attrs.field(factory=JournalConfig)
    log: LogConfig = attrs.field(factory=LogConfig)

    @property
    def token_path(self) -> Path:
        """Where the control channel's token is."""
        return self.control.token_file or self.daemon.state_dir / "token"

    @property
    def api_keys_path(self) -> Path:
        """Where the API keys of the HTTP routes are."""
        return self.http.api_keys_file or self.daemon.state_dir / "api-keys"

    def alert_settings(self) -> AlertSettings:
        """The part that a reload may change while alerts stand."""
        table, webhook = self.alerts, None
        if table.webhook_url is not None:
            secret_file = table.webhook_secret_file or self.daemon.state_dir / "webhook-secret"
            webhook = WebhookSettings(table.webhook_url, secret_file)
        return AlertSettings(table.kinds, table.log, webhook, table.command, table.disk_free, table.allowance)

    def actor_settings(self) -> ActorSettings:
        """The part that a reload may change while conversations run."""
        return ActorSettings(
            sandbox=self.sandbox.spec,
            allow=self.sandbox.allow,
            agent=self.agent.driver,
            timeouts=self.timeouts,
            restart=self.restart,
            health=self.health,
            capacity=self.capacity,
            archive_to=self.archive.export_to,
        )


@attrs.define(eq=False, slots=False)
class ConfigError(Exception):
    """The config cannot be used. Its text has one line for each problem and is ready for a terminal."""

    path: Path
    problems: tuple[Problem, ...]

    def __str__(self) -> str:
        return "\n".join(": ".join(filter(None, (str(self.path), each.path, each.message))) for each in self.problems)


def load_config(path: Path | None, environ: Mapping[str, str], fallback: Path = DEFAULT_PATH) -> Config:
    """Load the config from `path`, else `$CONVERSATIOND_CONFIG`, else `fallback` if it exists, else the defaults.

    Raises:
        ConfigError: the file cannot be read, is no TOML, or has keys or values that are not allowed.
    """
    variable = environ.get(ENVIRONMENT_VARIABLE)
    chosen = path or (Path(variable) if variable else None)
    try:
        content = (chosen or fallback).read_bytes()
    except FileNotFoundError as error:
        if chosen is None:
            return Config()
        raise ConfigError(chosen, (Problem("", "there is no such file"),)) from error
    except OSError as error:
        raise ConfigError(chosen or fallback, (Problem("", f"cannot be read: {error.strerror}"),)) from error
    return parse_config(content, chosen or fallback)


def parse_config(content: bytes, path: Path) -> Config:
    """Read the content of a config file; `path` is for the errors.

    Raises:
        ConfigError: it is no TOML, or has keys or values that are not allowed.
    """
    try:
        document = tomli.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(path, (Problem("", f"is no TOML: {error}"),)) from error
    problems = list(_disordered_backoff(document))
    try:
        config = _CONVERTER.structure(document, Config)
    except BaseValidationError as error:
        raise ConfigError(path, (*problems_of(error, ""), *problems)) from error
    if problems:
        raise ConfigError(path, tuple(problems))
    return config


def _disordered_backoff(document: Mapping[str, object]) -> Iterator[Problem]:
    """Compare on the raw table, so that this problem shows in the same run as those of other keys."""
    table = document.get("restart")
    given = table if isinstance(table, Mapping) else {}
    backoff = {key: given[key] for key in ("backoff_initial", "backoff_max") if key in given}
    try:
        policy = _CONVERTER.structure(backoff, RestartPolicy)
    except BaseValidationError:  # told with the other keys
        return
    if policy.backoff_max < policy.backoff_initial:
        yield Problem(
            "restart.backoff_max",
            f"{policy.backoff_max:g} s is less than backoff_initial, which is {policy.backoff_initial:g} s",
        )


def _listener(value: object) -> ControlAddress:
    try:
        address = parse_address(text(value))
    except ValueError as error:
        raise NotAllowed(
            f'{shown(value)} is no listener; write it like "unix:/run/x/control.sock" or "tcp:127.0.0.1:8765"'
        ) from error
    if isinstance(address, UnixAddress):
        _check_socket_path(str(address.path))
    elif not _is_loopback(address.host):
        raise NotAllowed(
            f"{shown(value)} could be reached by other machines; only 127.0.0.0/8, [::1] and localhost are allowed"
        )
    return address


def _check_socket_path(path: str) -> None:
    if len(absolute_path(path).encode()) > _LONGEST_SOCKET_PATH:
        raise NotAllowed(f"a Unix socket's path has at most {_LONGEST_SOCKET_PATH} bytes")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listeners(value: object) -> tuple[ControlAddress, ...]:
    listeners = listed(_listener)(value)
    if not listeners or len(set(listeners)) < len(listeners):
        raise NotAllowed("must name at least one listener, and none twice")
    return listeners


def _origin(value: object) -> str:
    origin = text(value)
    if not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/\s*]+", origin):
        raise NotAllowed(f'{shown(origin)} is no origin; write it like "http://localhost:3000"')
    return origin


def _host(value: object) -> str:
    host = text(value)
    if not re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?", host):
        raise NotAllowed(f'{shown(host)} is no host; write it as browsers do, like "conversations.example.org:8443"')
    return host


def _webhook_url(value: object) -> str | None:
    """Its errors never show it: whoever knows the URL of a webhook may post to it."""
    url = text(value)
    if url and not re.fullmatch(r"https?://[^/\s@?#]+(/[^\s#]*)?", url):
        raise NotAllowed('must be like "https://example.org/alerts", without a user, spaces or a "#"')
    return url or None


def _alert_command(value: object) -> tuple[str, ...] | None:
    argv = listed(text)(value)
    if argv:
        absolute_path(argv[0])
    return argv or None


def _process_command(value: object) -> tuple[str, ...]:
    argv = listed(text)(value)
    if not argv or not argv[0]:
        raise NotAllowed("must name a program")
    return argv


def _engine(value: object) -> str | None:
    address = text(value)
    if address and not re.fullmatch(r"(unix:///|tcp://|https?://)\S+", address):
        raise NotAllowed(f'{shown(address)} is no engine; write it like "unix:///var/run/docker.sock"')
    return address or None


def _remote_host(value: object) -> HostAddress | None:
    address = text(value)
    try:
        return parse_host_address(address) if address else None
    except ValueError as error:
        raise NotAllowed(str(error)) from error


def _directory(value: object) -> Path:
    return Path(absolute_path(value))


def _optional_path(value: object) -> Path | None:
    return None if value == "" else _directory(value)


@attrs.frozen
class _SandboxTable(SpecOverrides):
    """`[sandbox]` as it is written: the keys of a caller's `spec`, and the allowance."""

    allow: Allowance = attrs.field(factory=Allowance)


def _sandbox_hook(converter: Converter) -> Callable[[object, object], SandboxConfig]:
    def structure(value: object, _: object) -> SandboxConfig:
        table = converter.structure(value, _SandboxTable)
        given = {field.name: getattr(table, field.name) for field in attrs.fields(SpecOverrides)}
        spec = attrs.evolve(SandboxConfig().spec, **{key: item for key, item in given.items() if item is not None})
        # 0, "" and [] are how the file says "none": TOML has no word for it.
        return SandboxConfig(without_empty(spec), table.allow)

    return structure


def _config_converter() -> Converter:
    converter = spec_converter()
    _register_servers(converter)
    _register_sandboxes(converter)
    _register_conversations(converter)
    register_table(converter, Config)
    return converter


def _register_servers(converter: Converter) -> None:
    """The daemon itself, and where it listens."""
    register_table(converter, DaemonConfig, state_dir=_directory)
    register_table(
        converter,
        ControlConfig,
        listen=_listeners,
        token_file=_optional_path,
        allowed_origins=listed(_origin),
        max_connections=integer(1, 10_000),
    )
    register_table(
        converter,
        HttpConfig,
        listen=_listener,
        api_keys_file=_optional_path,
        allowed_hosts=listed(_host),
        cors_origins=listed(_origin),
    )


def _register_sandboxes(converter: Converter) -> None:
    """The providers, and what sandboxes are made from."""
    register_table(converter, LaneSizes, **_all_keys(LaneSizes, integer(1, 64)))
    register_table(converter, DockerConfig, host=_engine)
    register_table(converter, ProcessConfig, command=_process_command, workspaces=_optional_path)
    register_table(converter, RemoteConfig, url=_remote_host, api_key_file=_optional_path, memory=memory_limit)
    register_table(converter, Allowance, memory=memory_limit, cpus=cpu_limit, pids_limit=pids_limit)
    register_table(converter, _SandboxTable, **SPEC_READERS)
    converter.register_structure_hook(SandboxConfig, _sandbox_hook(converter))


def _register_conversations(converter: Converter) -> None:
    """Agents, deadlines, restarts, and what is kept and told of conversations."""
    register_table(converter, AgentConfig, driver=name, request_file=_optional_path)
    register_table(converter, Timeouts, **{**_all_keys(Timeouts, duration()), "grace": duration("0s")})
    register_table(
        converter,
        RestartPolicy,
        max_restarts=integer(0, 1000),
        window=duration(),
        backoff_initial=duration(),
        backoff_max=duration(),
        jitter=number(0, 1),
        max_oom_restarts=integer(0, 1000),
    )
    register_table(converter, Health, interval=duration(), timeout=duration(), failures=integer(1, 1000))
    register_table(converter, CapacityLimits, **_all_keys(CapacityLimits, integer(0, 1_000_000)))
    register_table(converter, ArchiveConfig, export_to=_optional_path)
    register_table(
        converter,
        AlertsConfig,
        webhook_url=_webhook_url,
        webhook_secret_file=_optional_path,
        command=_alert_command,
        disk_free=size("0B"),
        allowance=number(0.01, 1),
    )
    register_table(converter, JournalConfig, retention=duration("0s"))
    register_table(converter, LogConfig)


def _all_keys(table: type[attrs.AttrsInstance], read: Reader[object]) -> dict[str, Reader[object]]:
    return {field.name: read for field in attrs.fields(table)}


_CONVERTER: Final = _config_converter()
