"""The options and arguments that commands share, and how their values are written."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
import click
from click.shell_completion import CompletionItem

from supervisor.cli.asks import Settings
from supervisor.control.address import ControlAddress, parse_address
from supervisor.conversation.ids import parse_conversation_id
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Act, Command, Status, decide
from supervisor.conversation.units import parse_duration

_F = TypeVar("_F", bound=Callable[..., Any])  # Any: what click's own decorators take and return

DEFAULT_ADDRESS: Final = "unix:/run/conversationd/control.sock"
TOKEN_VARIABLE: Final = "CONVERSATIOND_TOKEN"  # noqa: S105 - the name of a variable, not a token


class AddressType(click.ParamType[ControlAddress]):
    """`unix:/PATH` or `tcp:HOST:PORT`."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> ControlAddress:
        """Read an address."""
        try:
            return parse_address(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Seconds(click.ParamType[float]):
    """A number of seconds, or a duration like `30s` or `1m30s`."""

    name = "seconds"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read a time."""
        seconds = self._read(value, param, ctx)
        if not 0 < seconds < float("inf"):
            self.fail(f"{value!r} is not more than 0 seconds", param, ctx)
        return seconds

    def _read(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            return float(value)
        except ValueError:
            pass
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(f"{error}; a bare number is seconds", param, ctx)


class Id(click.ParamType[str]):
    """A conversation's id, completed from the running daemon: those that `command` is possible for."""

    name = "id"

    def __init__(self, command: Command | None = None) -> None:
        self._command = command

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Read an id."""
        try:
            return parse_conversation_id(value)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)

    def shell_complete(self, ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The ids that fit; none if the daemon does not answer at once."""
        # Loaded here, because only this needs Trio and the client: the other completions stay instant.
        from supervisor.cli.completing import complete_ids  # noqa: PLC0415

        return complete_ids(settings_of(ctx), self.statuses(), incomplete)

    def statuses(self) -> tuple[Status, ...]:
        """The statuses in which the command does something; all of them without a command."""
        if self._command is None:
            return ()
        if self._command is Command.CONNECT:
            return (Status.RUNNING,)
        return tuple(status for status in Status if isinstance(decide(self._command, status, force=True), Act))


class JsonArgument(click.ParamType[JsonObject]):
    """A JSON object: as it is, from a file as `@FILE`, or from standard input as `-`."""

    name = "json"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> JsonObject:
        """Read JSON."""
        try:
            read = json.loads(_text_of(value))
        except (OSError, ValueError) as error:
            self.fail(f"{_shortened(value)}: {error}", param, ctx)
        if not isinstance(read, dict):
            self.fail(f"{_shortened(value)} is no JSON object", param, ctx)
        return read


def _text_of(value: str) -> str:
    if value == "-":
        return sys.stdin.read()
    return Path(value[1:]).read_text() if value.startswith("@") else value


def _shortened(value: str) -> str:
    """Name what was given without showing JSON, which may hold secrets."""
    return {"-": "standard input", "@": value[1:]}.get(value[:1], "this")


def settings_of(context: click.Context) -> Settings:
    """The global options as the outermost command line gives them; complete also while the shell completes."""
    given = context.find_root().params
    return Settings(
        given.get("address") or parse_address(DEFAULT_ADDRESS),
        given.get("token_file"),
        os.environ.get(TOKEN_VARIABLE) or None,
        bool(given.get("as_json")),
        bool(given.get("no_color")),
    )


def read_pairs(pairs: Sequence[str], option: str) -> dict[str, str]:
    """Read `KEY=VALUE` options.

    Raises:
        UsageError: one of them has no `=`, or no key.
    """
    read = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise click.UsageError(f"{option} {pair!r}: write it as KEY=VALUE")
        read[key] = value
    return read


def read_environment(pairs: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Read `--env`: `KEY=VALUE`, or `KEY` alone for this process's own value, which keeps secrets out of argv.

    Raises:
        UsageError: one of them has no key, or names a variable that is not set here.
    """
    read = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or (not equals and key not in environ):
            raise click.UsageError(f"--env {key!r}: write it as KEY=VALUE, or as KEY for a variable that is set here")
        read[key] = value if equals else environ[key]
    return read


def read_command(words: Sequence[str]) -> list[str] | None:
    """Read `--command`: given once it is split as a shell splits, given more often each one is a word.

    Raises:
        UsageError: a quote is not closed.
    """
    if len(words) != 1:
        return list(words) or None
    try:
        return shlex.split(words[0])
    except ValueError as error:
        raise click.UsageError(f"--command {words[0]!r}: {error}") from error


def _choose_json(context: click.Context, _: click.Parameter, chosen: bool) -> None:
    if chosen and not context.resilient_parsing:
        context.obj = attrs.evolve(context.obj, as_json=True)


json_option: Final = click.option(
    "--json",
    "as_json",
    is_flag=True,
    expose_value=False,
    callback=_choose_json,
    help="Print the protocol's JSON.",
)

timeout_option: Final = click.option(
    "--timeout",
    type=Seconds(),
    metavar="SECONDS",
    help="The command's deadline: 90, 30s, 1m30s. Else the config's.",
)

status_option: Final = click.option(
    "--status",
    "statuses",
    multiple=True,
    type=click.Choice(list(Status), case_sensitive=False),
    help="Only those with this status; may be repeated.",
)

label_option: Final = click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="May be repeated.")


def id_argument(command: Command | None = None) -> Callable[[_F], _F]:
    """The argument ID of a command, completed with the ids that it is possible for."""
    return click.argument("conversation", metavar="ID", type=Id(command))
