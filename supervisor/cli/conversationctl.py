"""`conversationctl`: the command line of people and scripts.

This module only reads command lines; Trio, rich and the client are loaded when a command is carried out.
"""

import sys
from pathlib import Path
from typing import Final, NoReturn

import click

from supervisor import __version__
from supervisor.cli.asks import (
    Ask,
    Boot,
    FollowEvents,
    FollowLogs,
    ListConversations,
    ReadEvents,
    ReadHistory,
    Request,
    Watch,
)
from supervisor.cli.exit_codes import EXIT_CODES_HELP, ExitCode
from supervisor.cli.options import (
    DEFAULT_ADDRESS,
    AddressType,
    Id,
    JsonArgument,
    id_argument,
    json_option,
    label_option,
    read_pairs,
    settings_of,
    status_option,
    timeout_option,
)
from supervisor.cli.starting import PULL_POLICIES, SpecOptions, make_spec, make_start
from supervisor.conversation.json import JsonObject
from supervisor.conversation.lifecycle import Command, Status

_NAME: Final = "conversationctl"
_SHELLS: Final = ("bash", "zsh", "fish")


def main() -> NoReturn:
    """Run as a program: read the command line, carry it out, and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        # What sandboxes say may hold characters that the terminal's encoding does not know.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = conversationctl.main(prog_name=_NAME, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.Abort:  # Ctrl-C before anything was asked
        code = ExitCode.INTERRUPTED
    sys.exit(code)


def _perform(ask: Ask) -> NoReturn:
    # Loaded here, so that help, usage errors and completion are instant.
    from supervisor.cli.performing import perform  # noqa: PLC0415

    context = click.get_current_context()
    context.exit(perform(ask, context.obj))


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=f"{EXIT_CODES_HELP}\nExample: conversationctl start --image agent:latest",
)
@click.version_option(__version__, prog_name=_NAME, message="%(prog)s %(version)s")
@click.option(
    "--address",
    type=AddressType(),
    envvar="CONVERSATIOND_ADDRESS",
    default=DEFAULT_ADDRESS,
    show_default=True,
    metavar="ADDRESS",
    help="Where conversationd listens: unix:/PATH or tcp:HOST:PORT; else $CONVERSATIOND_ADDRESS.",
)
@click.option(
    "--token-file",
    type=click.Path(path_type=Path),
    envvar="CONVERSATIOND_TOKEN_FILE",
    metavar="FILE",
    help="The token for TCP; else $CONVERSATIOND_TOKEN_FILE, else the token itself in $CONVERSATIOND_TOKEN.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the protocol's JSON, errors too; also after a command.")
@click.option("--no-color", is_flag=True, help="Print without colours; as does $NO_COLOR.")
@click.pass_context
def conversationctl(context: click.Context, /, **_: object) -> None:
    """Start, pause, resume, stop and watch the agent conversations of a running conversationd."""
    context.obj = settings_of(context)


@conversationctl.command(epilog="Example: conversationctl info --json")
@json_option
def info() -> None:
    """Show the daemon, its engine and its capacity."""
    _perform(Request("daemon.info"))


@conversationctl.command(
    epilog="Example: conversationctl start c1 --image agent:latest --env LLM_KEY --request @request.json --timeout 2m"
)
@click.argument("conversation", metavar="[ID]", required=False, type=Id(Command.START))
@click.option("--agent", metavar="DRIVER", help="How its agent server is spoken to: v1, v0, server, none.")
@click.option("--provider", metavar="NAME", help="What runs its sandbox: docker, process, remote.")
@click.option("--image", metavar="IMAGE", help="The sandbox's image.")
@click.option("--command", multiple=True, metavar="WORDS", help="Split as a shell does; if repeated, a word each.")
@click.option("--env", multiple=True, metavar="KEY[=VALUE]", help="May be repeated; without a value, our own.")
@click.option("--port", type=click.IntRange(0, 65535), help="The agent server's port inside; 0 for none.")
@click.option("--memory", metavar="SIZE", help="The memory limit: 2GiB, 512MiB.")
@click.option("--cpus", type=float, metavar="CORES", help="The CPU limit: 1.5.")
@click.option("--user", metavar="USER", help="NAME or UID:GID.")
@click.option("--network", metavar="NAME", help="The engine's network.")
@click.option("--mount", "mounts", multiple=True, metavar="SOURCE:TARGET[:rw]", help="May be repeated.")
@click.option("--pull", type=click.Choice(PULL_POLICIES), help="When the image is fetched.")
@click.option("--spec", type=JsonArgument(), metavar="JSON|@FILE", help="Any keys of [sandbox]; other options win.")
@click.option("--request", type=JsonArgument(), metavar="JSON|@FILE|-", help="The body of the agent's start call.")
@label_option
@click.option("--no-wait", is_flag=True, help="Return as soon as the start is recorded.")
@timeout_option
@click.option("--idempotency-key", metavar="KEY", help="Repeated within 24 h: the conversation of the first time.")
@json_option
def start(
    *,
    conversation: str | None,
    agent: str | None,
    spec: JsonObject | None,
    request: JsonObject | None,
    labels: tuple[str, ...],
    no_wait: bool,
    timeout: float | None,
    idempotency_key: str | None,
    **options: object,
) -> None:
    """Start a conversation, or resume a paused one.

    Without an ID one is made. On a terminal the phases and the image's pull are drawn as they go on.
    """
    ask = make_start(
        conversation,
        agent=agent,
        spec=make_spec(spec, SpecOptions(**options)),  # type: ignore[arg-type]  # click has made them of these types
        request=request,
        labels=labels,
        wait=not no_wait,
        timeout=timeout,
        idempotency_key=idempotency_key,
    )
    _perform(ask)


@conversationctl.command(epilog="Example: conversationctl pause c1 --timeout 30s")
@id_argument(Command.PAUSE)
@timeout_option
@json_option
def pause(conversation: str, timeout: float | None) -> None:
    """Let the agent end its step, then freeze its sandbox."""
    _perform(Request("conversation.pause", {"id": conversation, "timeout": timeout}, conversation))


@conversationctl.command(epilog="Example: conversationctl resume c1")
@id_argument(Command.RESUME)
@timeout_option
@json_option
def resume(conversation: str, timeout: float | None) -> None:
    """Let a paused conversation go on.

    A sandbox that is gone is booted again over its workspace.
    """
    _perform(Boot("conversation.resume", {"id": conversation, "timeout": timeout}, conversation))


@conversationctl.command(epilog="Example: conversationctl stop c1 --force")
@id_argument(Command.STOP)
@click.option("--force", is_flag=True, help="At once, whatever is going on; nothing is asked to end by itself.")
@timeout_option
@json_option
def stop(conversation: str, force: bool, timeout: float | None) -> None:
    """End the sandbox; the workspace and the record stay."""
    params: JsonObject = {"id": conversation, "force": force, "timeout": timeout}
    _perform(Request("conversation.stop", params, conversation))


@conversationctl.command(epilog="Example: conversationctl restart c1 --force")
@id_argument(Command.RESTART)
@click.option("--force", is_flag=True, help="Also one that runs or is paused: it is stopped first.")
@timeout_option
@json_option
def restart(conversation: str, force: bool, timeout: float | None) -> None:
    """Start a stopped or failed conversation again.

    It keeps its workspace.
    """
    params: JsonObject = {"id": conversation, "force": force, "timeout": timeout}
    _perform(Boot("conversation.restart", params, conversation))


@conversationctl.command(epilog="Example: conversationctl archive c1")
@id_argument(Command.ARCHIVE)
@timeout_option
@json_option
def archive(conversation: str, timeout: float | None) -> None:
    """Remove a stopped conversation's sandbox.

    Its record stays.
    """
    _perform(Request("conversation.archive", {"id": conversation, "timeout": timeout}, conversation))


@conversationctl.command(epilog="Example: conversationctl delete c1")
@id_argument(Command.DELETE)
@json_option
def delete(conversation: str) -> None:
    """Remove a stopped conversation for ever.

    Its record, its workspace and its sandbox go; its events stay until their retention ends.
    """
    _perform(Request("conversation.delete", {"id": conversation}, conversation))


@conversationctl.command(epilog="Example: conversationctl get c1 --json")
@id_argument()
@json_option
def get(conversation: str) -> None:
    """Show everything about one conversation."""
    _perform(Request("conversation.get", {"id": conversation}, conversation))


@conversationctl.command("list", epilog="Example: conversationctl list --status RUNNING --label team=blue")
@status_option
@label_option
@click.option("--limit", type=click.IntRange(1, 1000), help="One page of so many; else all.")
@click.option("--cursor", metavar="CURSOR", help="Where the next page begins, as the last one said.")
@json_option
def list_conversations(
    statuses: tuple[Status, ...], labels: tuple[str, ...], limit: int | None, cursor: str | None
) -> None:
    """Show the conversations, oldest first."""
    chosen = tuple(Status(status) for status in statuses)
    _perform(ListConversations(chosen, read_pairs(labels, "--label"), limit, cursor))


@conversationctl.command(epilog="Example: conversationctl connect c1 --json")
@id_argument(Command.CONNECT)
@json_option
def connect(conversation: str) -> None:
    """Show the URL and the key of an agent server."""
    _perform(Request("conversation.connect", {"id": conversation}, conversation))


@conversationctl.command(epilog="Example: conversationctl logs c1 -f --tail 20")
@id_argument()
@click.option("-f", "--follow", is_flag=True, help="Print new lines as they come, until the sandbox ends.")
@click.option("--tail", type=click.IntRange(0, 10_000), default=100, show_default=True, help="How many lines back.")
@json_option
def logs(conversation: str, follow: bool, tail: int) -> None:
    """Print the sandbox's output."""
    if follow:
        _perform(FollowLogs(conversation, tail))
    _perform(Request("conversation.logs", {"id": conversation, "tail": tail}, conversation))


@conversationctl.command(epilog="Example: conversationctl history c1")
@id_argument()
@click.option("--since", type=click.IntRange(0), default=0, metavar="SEQ", help="Only what came after this event.")
@click.option("--limit", type=click.IntRange(1, 1000), help="The first so many; else all.")
@json_option
def history(conversation: str, since: int, limit: int | None) -> None:
    """Show what happened to one conversation.

    Also after it was deleted, as long as events are kept.
    """
    _perform(ReadHistory(conversation, since, limit))


@conversationctl.command(epilog="Example: conversationctl events -f --since 42 c1 c2")
@click.argument("conversations", metavar="[ID]...", nargs=-1, type=Id())
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens; without --since begin now.")
@click.option("--since", type=click.IntRange(0), metavar="SEQ", help="Only what came after this event.")
@json_option
def events(conversations: tuple[str, ...], follow: bool, since: int | None) -> None:
    """Print the events of all or of some conversations.

    With -f a connection that is lost is made again, with no event lost or repeated.
    """
    _perform((FollowEvents if follow else ReadEvents)(since, conversations))


@conversationctl.command(epilog="Example: conversationctl watch --status RUNNING --status ERROR")
@status_option
@json_option
def watch(statuses: tuple[Status, ...]) -> None:
    """Show all conversations live until interrupted.

    With --json: a conversation a line, all of them first, then each one that changes; its `deleted` event when it is
    gone.
    """
    _perform(Watch(tuple(Status(status) for status in statuses)))


@conversationctl.command(epilog='Example: eval "$(conversationctl completion bash)"')
@click.argument("shell", type=click.Choice(_SHELLS))
def completion(shell: str) -> None:
    """Print the script for completion in your shell."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - used by nothing else

    known = get_completion_class(shell)
    if known is None:
        raise AssertionError(f"click knows no completion for {shell}")
    click.echo(known(conversationctl, {}, _NAME, "_CONVERSATIONCTL_COMPLETE").source())


if __name__ == "__main__":
    main()
