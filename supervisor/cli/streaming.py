"""Streams: a sandbox's output, and events as they are recorded or happen."""

import trio

from supervisor.cli.asks import FollowEvents, FollowLogs, ReadEvents, Settings
from supervisor.cli.calls import dial, history_all
from supervisor.cli.screen import Screen
from supervisor.cli.telling import event_json, event_line
from supervisor.control.client import ControlClient, resumable_events
from supervisor.control.client_views import Event, RemoteError, read_view
from supervisor.conversation.errors import ErrorCode


async def follow_logs(ask: FollowLogs, settings: Settings, screen: Screen) -> None:
    """Print the lines of a sandbox's output until it ends."""
    async with dial(settings) as client, client.follow_logs(ask.target, tail=ask.tail) as lines:
        async for line in lines:
            if screen.as_json:
                screen.show_json(line)
            else:
                screen.show_log_line(line)


async def follow_events(ask: FollowEvents, settings: Settings, screen: Screen) -> None:
    """Print events as they happen; a connection that is lost is made again."""
    async with dial(settings) as client:
        # The first connection has to succeed, and fixes where the events begin.
        since = (await client.info()).seq if ask.since is None else ask.since
    ids = ask.targets or None
    async with resumable_events(settings.address, settings.token, since=since, ids=ids) as events:
        async for event in events:
            show_event(event, screen)


async def read_events(ask: ReadEvents, settings: Settings, screen: Screen) -> None:
    """Print the events that are recorded."""
    async with dial(settings) as client:
        if ask.targets:
            await _read_histories(ask, client, screen)
        else:
            await _read_all(ask.since, client, screen)


def show_event(event: Event, screen: Screen) -> None:
    """Print one event."""
    if screen.as_json:
        screen.show_json(event_json(event))
    else:
        screen.show(event_line(event))


async def _read_histories(ask: ReadEvents, client: ControlClient, screen: Screen) -> None:
    await trio.lowlevel.checkpoint()
    events = []
    for target in ask.targets:
        events += [read_view(event, Event) for event in await history_all(client, target, ask.since or 0)]
    for event in sorted(events, key=lambda event: event.seq):
        show_event(event, screen)


async def _read_all(since: int | None, client: ControlClient, screen: Screen) -> None:
    last = (await client.info()).seq
    try:
        await _read_up_to(last, since or 0, client, screen)
    except RemoteError as error:
        oldest = error.data.get("oldest")
        if since is not None or not error.has(ErrorCode.HISTORY_GONE) or not isinstance(oldest, int):
            raise
        await _read_up_to(last, oldest - 1, client, screen)


async def _read_up_to(last: int, since: int, client: ControlClient, screen: Screen) -> None:
    await trio.lowlevel.checkpoint()
    if since >= last:
        return
    async with client.subscribe(since=since) as events:
        seq = since
        while seq < last:
            event = await anext(events)
            show_event(event, screen)
            seq = event.seq
