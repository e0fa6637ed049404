"""The config: a frozen class for each table of the file, and the whole of them.

A key that is not in the file has the default that `config/conversationd.toml` shows and explains.
"""

from enum import StrEnum
from pathlib import Path

import attrs

from supervisor.actors.settings import ActorSettings, CapacityLimits, Health, Timeouts
from supervisor.alerts.settings import AlertSettings, WebhookSettings
from supervisor.control.address import ControlAddress, TcpAddress, UnixAddress
from supervisor.conversation.alerts import AlertKind
from supervisor.conversation.restart import RestartPolicy
from supervisor.conversation.spec import Allowance, PullPolicy, SandboxSpec
from supervisor.logs import LogFormat, LogLevel
from supervisor.sandbox.process.commands import DEFAULT_COMMAND
from supervisor.sandbox.remote.address import HostAddress


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
