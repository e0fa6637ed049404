"""Carries out what a command line asks for: connects, asks, shows the answer or the error, and says how it ended."""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, TypeAlias

import trio
from rich.console import RenderableType

from supervisor.cli import tables
from supervisor.cli.asks import (
    Ask,
    Boot,
    FollowEvents,
    FollowLogs,
    ListConversations,
    ReadEvents,
    ReadHistory,
    Request,
    Settings,
    Watch,
)
from supervisor.cli.booting import boot
from supervisor.cli.calls import call, dial, history_all, list_all
from supervisor.cli.exit_codes import ExitCode
from supervisor.cli.failures import Trouble, as_json, as_text, trouble_of
from supervisor.cli.screen import Screen
from supervisor.cli.streaming import follow_events, follow_logs, read_events, show_event
from supervisor.cli.tokens import NoToken, with_token
from supervisor.cli.watching import watch
from supervisor.control.client import ControlClient
from supervisor.control.client_transport import beside
from supervisor.control.client_views import (
    Access,
    ControlClientError,
    Conversation,
    Daemon,
    Event,
    UnexpectedAnswer,
    read_view,
)
from supervisor.conversation.json import JsonObject, JsonValue
from supervisor.conversation.lifecycle import Status

_SIGNAL_BASE: Final = 128
_CHANGES_NOTHING: Final = frozenset({"daemon.info", "conversation.get", "conversation.connect", "conversation.logs"})


def perform(ask: Ask, settings: Settings) -> int:
    """Carry it out; returns the exit code, after everything that is to be said was said."""
    screen = Screen(as_json=settings.as_json, no_color=settings.no_color)
    unwritten: list[OSError] = []
    try:
        return _perform(ask, settings, screen)
    except* OSError as group:
        unwritten.append(_first(group))
    return _leave_unwritten(unwritten[0], ask)


def _perform(ask: Ask, settings: Settings, screen: Screen) -> int:
    try:
        caught = trio.run(_until_signal, ask, with_token(settings), screen)
    except NoToken as error:
        return _fail(Trouble(ExitCode.USAGE, "no_token", str(error)), ask, screen)
    except ControlClientError as error:
        return _fail(trouble_of(error), ask, screen)
    if caught is not None:
        _say_interrupted(ask, screen)
        return _SIGNAL_BASE + caught
    return ExitCode.OK


async def _until_signal(ask: Ask, settings: Settings, screen: Screen) -> int | None:
    """Carry it out until it is done, or until a signal, which is returned: the terminal is left as it was."""
    caught: list[int] = []
    scope = trio.CancelScope()

    async def listen() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            async for number in signals:
                caught.append(number)
                scope.cancel()

    async with beside(listen):
        with scope:
            await _dispatch(ask, settings, screen)
    return caught[0] if caught else None


async def _dispatch(ask: Ask, settings: Settings, screen: Screen) -> None:
    match ask:
        case FollowLogs():
            await follow_logs(ask, settings, screen)
        case FollowEvents():
            await follow_events(ask, settings, screen)
        case ReadEvents():
            await read_events(ask, settings, screen)
        case Watch():
            await watch(ask, settings, screen)
        case _:
            async with dial(settings) as client:
                answer = await _answer(ask, client, screen)
            _show(ask, answer, screen)


async def _answer(ask: Request | ListConversations | ReadHistory, client: ControlClient, screen: Screen) -> JsonValue:
    match ask:
        case ListConversations():
            return await _list(ask, client)
        case ReadHistory():
            return await _history(ask, client)
        case _ if isinstance(ask, Boot):
            return await boot(ask, client, screen)
    return await call(client, ask.method, ask.params)


async def _list(ask: ListConversations, client: ControlClient) -> JsonValue:
    params: JsonObject = {"status": list(ask.statuses), "labels": dict(ask.labels)}
    if ask.limit is None and ask.cursor is None:
        return {"items": await list_all(client, params), "next_cursor": None}
    return await call(client, "conversation.list", {**params, "limit": ask.limit, "cursor": ask.cursor})


async def _history(ask: ReadHistory, client: ControlClient) -> JsonValue:
    if ask.limit is None:
        return {"events": await history_all(client, ask.target, ask.since)}
    return await call(client, "conversation.history", {"id": ask.target, "since": ask.since, "limit": ask.limit})


def _show(ask: Request | ListConversations | ReadHistory, answer: JsonValue, screen: Screen) -> None:
    if screen.as_json:
        screen.show_json(answer)
        return
    match ask:
        case ListConversations():
            _show_list(answer, screen)
        case ReadHistory():
            for event in read_view(_member(answer, "events"), tuple[Event, ...]):
                show_event(event, screen)
        case _:
            _SHOWN[ask.method](ask, answer, screen)


_Show: TypeAlias = Callable[[Request, JsonValue, Screen], None]


def _show_list(answer: JsonValue, screen: Screen) -> None:
    conversations = read_view(_member(answer, "items"), tuple[Conversation, ...])
    if conversations:
        screen.show(tables.ConversationTable(conversations, datetime.now(UTC)))
    else:
        screen.note("There are no such conversations.")
    cursor = _member(answer, "next_cursor")
    if cursor is not None:
        screen.note(f"There are more: --cursor {cursor}")


def _show_sentence(_: Request, answer: JsonValue, screen: Screen) -> None:
    screen.show(tables.conversation_sentence(read_view(answer, Conversation)))


def _show_started(ask: Request, answer: JsonValue, screen: Screen) -> None:
    _show_sentence(ask, answer, screen)
    conversation = read_view(answer, Conversation)
    if conversation.status is Status.ERROR:
        screen.note(f"It was there already. To start it again: conversationctl restart {conversation.id}")
    elif conversation.status is Status.STARTING:
        screen.note(f"To follow it: conversationctl events -f {conversation.id}")


def _show_stopped(_: Request, answer: JsonValue, screen: Screen) -> None:
    was_running = _member(answer, "was_running") is True
    screen.show(tables.stopped_sentence(read_view(answer, Conversation), was_running=was_running))


def _show_deleted(ask: Request, _: JsonValue, screen: Screen) -> None:
    screen.show(f"{ask.target} is deleted")


def _show_lines(_: Request, answer: JsonValue, screen: Screen) -> None:
    for line in read_view(_member(answer, "lines"), tuple[str, ...]):
        screen.show_log_line(line)


def _details(draw: Callable[[JsonValue], RenderableType]) -> _Show:
    def show(_: Request, answer: JsonValue, screen: Screen) -> None:
        screen.show(draw(answer))

    return show


_SHOWN: Final[Mapping[str, _Show]] = {
    "daemon.info": _details(lambda answer: tables.daemon_details(read_view(answer, Daemon))),
    "conversation.start": _show_started,
    "conversation.pause": _show_sentence,
    "conversation.resume": _show_sentence,
    "conversation.stop": _show_stopped,
    "conversation.restart": _show_started,
    "conversation.archive": _show_sentence,
    "conversation.delete": _show_deleted,
    "conversation.get": _details(
        lambda answer: tables.conversation_details(read_view(answer, Conversation), datetime.now(UTC))
    ),
    "conversation.connect": _details(lambda answer: tables.access_details(read_view(answer, Access))),
    "conversation.logs": _show_lines,
}


def _member(answer: JsonValue, name: str) -> JsonValue:
    if not isinstance(answer, dict):
        raise UnexpectedAnswer(f"the daemon's answer has no {name!r}")
    return answer.get(name)


def _fail(trouble: Trouble, ask: Ask, screen: Screen) -> int:
    if screen.as_json:
        screen.complain_json(as_json(trouble))
    else:
        screen.complain(as_text(trouble, ask.title, getattr(ask, "target", None)))
    return trouble.exit_code


def _say_interrupted(ask: Ask, screen: Screen) -> None:
    if isinstance(ask, Request) and ask.method not in _CHANGES_NOTHING:
        look = f": conversationctl get {ask.target}" if ask.target else ""
        screen.note(f"conversationctl: interrupted; {ask.title} goes on in the daemon{look}")


def _leave_unwritten(error: OSError, ask: Ask) -> int:
    """Our output cannot be written. That its reader has gone is nothing to speak of; a full disk is."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        os.dup2(nowhere, sys.stderr.fileno())
        return ExitCode.BROKEN_PIPE
    print(f"conversationctl: the output of {ask.title} cannot be written: {error.strerror}", file=sys.stderr)  # noqa: T201 - rich may be what failed
    return ExitCode.FAILED


def _first(group: BaseExceptionGroup[OSError]) -> OSError:
    first: OSError | BaseExceptionGroup[OSError] = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
