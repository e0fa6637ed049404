"""The config file: TOML in, the config's frozen classes out, with every error of the file at once."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import attrs
import tomli
from cattrs import BaseValidationError, Converter

from supervisor.actors.settings import CapacityLimits, Health, Timeouts
from supervisor.config import (
    AgentConfig,
    AlertsConfig,
    ArchiveConfig,
    Config,
    ControlConfig,
    DaemonConfig,
    DockerConfig,
    HttpConfig,
    JournalConfig,
    LaneSizes,
    LogConfig,
    ProcessConfig,
    RemoteConfig,
    SandboxConfig,
)
from supervisor.config_values import (
    alert_command,
    directory,
    engine_address,
    host,
    listener,
    listeners,
    optional_path,
    origin,
    process_command,
    remote_host,
    webhook_url,
)
from supervisor.conversation.parse import SPEC_READERS, cpu_limit, memory_limit, pids_limit, spec_converter
from supervisor.conversation.restart import RestartPolicy
from supervisor.conversation.spec import Allowance, SpecOverrides, without_empty
from supervisor.conversation.strict import (
    Problem,
    Reader,
    duration,
    integer,
    listed,
    name,
    number,
    problems_of,
    register_table,
    size,
)

ENVIRONMENT_VARIABLE: Final = "CONVERSATIOND_CONFIG"
DEFAULT_PATH: Final = Path("/etc/conversationd/conversationd.toml")


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
    register_table(converter, DaemonConfig, state_dir=directory)
    register_table(
        converter,
        ControlConfig,
        listen=listeners,
        token_file=optional_path,
        allowed_origins=listed(origin),
        max_connections=integer(1, 10_000),
    )
    register_table(
        converter,
        HttpConfig,
        listen=listener,
        api_keys_file=optional_path,
        allowed_hosts=listed(host),
        cors_origins=listed(origin),
    )


def _register_sandboxes(converter: Converter) -> None:
    """The providers, and what sandboxes are made from."""
    register_table(converter, LaneSizes, **_all_keys(LaneSizes, integer(1, 64)))
    register_table(converter, DockerConfig, host=engine_address)
    register_table(converter, ProcessConfig, command=process_command, workspaces=optional_path)
    register_table(converter, RemoteConfig, url=remote_host, api_key_file=optional_path, memory=memory_limit)
    register_table(converter, Allowance, memory=memory_limit, cpus=cpu_limit, pids_limit=pids_limit)
    register_table(converter, _SandboxTable, **SPEC_READERS)
    converter.register_structure_hook(SandboxConfig, _sandbox_hook(converter))


def _register_conversations(converter: Converter) -> None:
    """Agents, deadlines, restarts, and what is kept and told of conversations."""
    register_table(converter, AgentConfig, driver=name, request_file=optional_path)
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
    register_table(converter, ArchiveConfig, export_to=optional_path)
    register_table(
        converter,
        AlertsConfig,
        webhook_url=webhook_url,
        webhook_secret_file=optional_path,
        command=alert_command,
        disk_free=size("0B"),
        allowance=number(0.01, 1),
    )
    register_table(converter, JournalConfig, retention=duration("0s"))
    register_table(converter, LogConfig)


def _all_keys(table: type[attrs.AttrsInstance], read: Reader[object]) -> dict[str, Reader[object]]:
    return {field.name: read for field in attrs.fields(table)}


_CONVERTER: Final = _config_converter()
