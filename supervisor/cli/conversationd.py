"""`conversationd`: the daemon's command line."""

import os
import sys
from enum import IntEnum
from pathlib import Path

import click
import structlog
import trio

from supervisor import __version__
from supervisor.config import Config
from supervisor.config_file import ConfigError, load_config
from supervisor.control.sockets import CannotListen
from supervisor.daemon import serve as serve_daemon
from supervisor.http.agent_request import load_agent_request
from supervisor.journal.schema import NewerSchemaError
from supervisor.journal.state_dir import StateDirError
from supervisor.logs import configure_logging
from supervisor.providers import NoSuchProvider
from supervisor.secret_file import UnsafeSecret


class ExitCode(IntEnum):
    """How the daemon ends; the numbers are those of sysexits.h."""

    OK = 0
    UNAVAILABLE = 69
    CANNOT_CREATE = 73
    CONFIG = 78


_config_option = click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The config file; else $CONVERSATIOND_CONFIG, else /etc/conversationd/conversationd.toml, else the defaults.",
)


@click.group(
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: conversationd serve --config /etc/conversationd/conversationd.toml",
)
@click.version_option(__version__, prog_name="conversationd", message="%(prog)s %(version)s")
@_config_option
@click.pass_context
def main(context: click.Context, path: Path | None) -> None:
    """Supervise AI-agent conversations, each in a sandbox container of its own.

    Without a command it serves.
    """
    context.obj = path
    if context.invoked_subcommand is None:
        context.invoke(serve, path=None)


@main.command(epilog="Example: conversationd serve --config ./conversationd.toml")
@_config_option
@click.pass_obj
def serve(outer_path: Path | None, path: Path | None) -> None:
    """Run the daemon in the foreground until SIGTERM or SIGINT; a second one ends it at once.

    Exits with 78 if the config is wrong, 73 if the state directory cannot be used, 69 if it cannot listen.
    """
    chosen = path or outer_path
    config = _read(chosen)
    configure_logging(config.log.level, config.log.format, sys.stderr)
    code = ExitCode.OK
    # The exit stands outside: what `except*` raises is wrapped into a group.
    try:
        trio.run(serve_daemon, config, lambda: load_config(chosen, os.environ), os.environ)
    except* (StateDirError, NewerSchemaError) as group:
        code = _explain(group, ExitCode.CANNOT_CREATE)
    except* NoSuchProvider as group:
        code = _explain(group, ExitCode.CONFIG)
    except* (CannotListen, UnsafeSecret) as group:
        code = _explain(group, ExitCode.UNAVAILABLE)
    sys.exit(code)


@main.command("check-config", epilog="Example: conversationd check-config --config ./conversationd.toml")
@_config_option
@click.pass_obj
def check_config(outer_path: Path | None, path: Path | None) -> None:
    """Check the config file and say what is wrong with it; exits with 78 if anything is.

    Run it as the user that the daemon runs as: a file with secrets has to be that user's.
    """
    config = _read(path or outer_path)
    try:
        load_agent_request(config.agent.request_file)
    except UnsafeSecret as error:
        click.echo(f"agent.request_file: {error}", err=True)
        sys.exit(ExitCode.CONFIG)
    click.echo("The config is good.")


def _read(path: Path | None) -> Config:
    try:
        return load_config(path, os.environ)
    except ConfigError as error:
        click.echo(str(error), err=True)
        sys.exit(ExitCode.CONFIG)


def _explain(group: BaseExceptionGroup[Exception], code: ExitCode) -> ExitCode:
    """Say in one line why the daemon cannot run."""
    cause: BaseException = group
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    structlog.get_logger().error("daemon.cannot_run", error=str(cause), exit_code=code.value)
    return code


if __name__ == "__main__":
    main()
