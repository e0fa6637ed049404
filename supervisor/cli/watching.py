"""`watch`: all conversations as they are, over as many connections as it takes."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

import trio
from rich.live import Live

from supervisor.cli.asks import Settings, Watch
from supervisor.cli.board import Board
from supervisor.cli.calls import call, dial, list_all
from supervisor.cli.screen import Screen
from supervisor.cli.streaming import show_event
from supervisor.cli.telling import event_json
from supervisor.control.client import ControlClient, EventSubscription
from supervisor.control.client_transport import beside
from supervisor.control.client_views import (
    ControlClientError,
    Conversation,
    Event,
    NotAuthenticated,
    RemoteError,
    UnexpectedAnswer,
    read_view,
)
from supervisor.conversation.errors import ErrorCode
from supervisor.conversation.json import JsonValue

_BACKOFF_FIRST: Final = 0.25
_BACKOFF_MOST: Final = 5.0
_FRAME: Final = 0.1
_SECOND: Final = 1.0
_LATER: Final = (ErrorCode.BUSY, ErrorCode.SHUTTING_DOWN)


class Viewer(Protocol):
    """Who sees the conversations; they are given as the daemon wrote them."""

    def begin(self, conversations: Sequence[JsonValue]) -> None:
        """These are all that there are now."""

    def change(self, event: Event, conversation: JsonValue, /) -> None:
        """This happened, and the conversation is like that since; None if it is gone or it was not about one."""

    def lose(self, reason: str) -> None:
        """The connection is lost, and will be made again."""


async def watch(ask: Watch, settings: Settings, screen: Screen) -> None:
    """Show the conversations until interrupted: live on a terminal, else the table once and then events."""
    board = Board(str(settings.address), ask.statuses)
    if screen.as_json:
        await _keep_watching(settings, ask, JsonLines(screen))
    elif screen.shows_live:
        await _watch_live(board, ask, settings, screen)
    else:
        await _keep_watching(settings, ask, PlainLines(board, screen))


class JsonLines:
    """One JSON a line: each conversation at the start and after each of its changes; the event if it is gone."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def begin(self, conversations: Sequence[JsonValue]) -> None:
        """Print them all."""
        for conversation in conversations:
            self._screen.show_json(conversation)

    def change(self, event: Event, conversation: JsonValue) -> None:
        """Print the one that changed."""
        if conversation is not None:
            self._screen.show_json(conversation)
        elif event.kind == "deleted":
            self._screen.show_json(event_json(event))

    def lose(self, reason: str) -> None:
        """Nothing to a program: every conversation is printed again as soon as there is a connection."""


class PlainLines:
    """The table at the start and after each new connection, and a line for each event."""

    def __init__(self, board: Board, screen: Screen) -> None:
        self._board = board
        self._screen = screen

    def begin(self, conversations: Sequence[JsonValue]) -> None:
        """Print the table."""
        self._board.begin(_views(conversations))
        self._screen.show(self._board.table(datetime.now(UTC)))

    def change(self, event: Event, _: JsonValue) -> None:
        """Print the event."""
        show_event(event, self._screen)

    def lose(self, reason: str) -> None:
        """Say so, beside."""
        self._screen.note(f"{reason}; connecting again")


class Drawing:
    """The board, drawn anew when it changed, ten times a second at most, and once a second for the times."""

    def __init__(self, board: Board, live: Live) -> None:
        self._board = board
        self._live = live
        self._changed = trio.Event()

    def begin(self, conversations: Sequence[JsonValue]) -> None:
        """Put them all on the board."""
        self._board.begin(_views(conversations))
        self._changed.set()

    def change(self, event: Event, conversation: JsonValue) -> None:
        """Put the change on the board."""
        if event.conversation is not None:
            self._board.note(event.conversation, event)
            if conversation is not None:
                self._board.put(read_view(conversation, Conversation))
            elif event.kind != "progress":
                self._board.drop(event.conversation)
        self._changed.set()

    def lose(self, reason: str) -> None:
        """Say on the board that it is old."""
        self._board.lost = reason
        self._changed.set()

    async def draw(self) -> None:
        """Draw until cancelled."""
        await self._changed.wait()
        while True:
            self._changed = trio.Event()
            self._live.update(self._board.picture(datetime.now(UTC)), refresh=True)
            await trio.sleep(_FRAME)
            with trio.move_on_after(_SECOND - _FRAME):
                await self._changed.wait()


async def _watch_live(board: Board, ask: Watch, settings: Settings, screen: Screen) -> None:
    # The first connection comes before the screen is taken, so that an error is seen where errors are.
    async with dial(settings) as client:
        await client.info()
    live = Live(console=screen.out, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
    with live:
        drawing = Drawing(board, live)
        async with beside(drawing.draw):
            await _keep_watching(settings, ask, drawing)


async def _keep_watching(settings: Settings, ask: Watch, viewer: Viewer) -> None:
    """Show what happens until an error that a new connection does not heal."""
    watching = _Watching(settings, ask, viewer)
    backoff = _BACKOFF_FIRST
    while True:
        try:
            await watching.run()
        except ControlClientError as error:
            if not watching.begun or _is_final(error):
                raise
            if watching.came_far:
                backoff = _BACKOFF_FIRST
            viewer.lose(str(error))
        await trio.sleep(backoff)
        backoff = min(2 * backoff, _BACKOFF_MOST)


class _Watching:
    """Watches over one connection at a time. `begun` says that there was one, `came_far` that the last one worked."""

    def __init__(self, settings: Settings, ask: Watch, viewer: Viewer) -> None:
        self.begun = False
        self.came_far = False
        self._settings = settings
        self._params = {"status": list(ask.statuses)} if ask.statuses else {}
        self._viewer = viewer
        self._since: int | None = None

    async def run(self) -> None:
        """Watch until the connection ends, which is an error."""
        self.came_far = False
        async with dial(self._settings) as client:
            try:
                await self._watch(client)
            except RemoteError as error:
                if not error.has(ErrorCode.HISTORY_GONE):
                    raise
                self._since = None
                await self._watch(client)

    async def _watch(self, client: ControlClient) -> None:
        # The subscription comes first: whatever changes while the list is read is read again.
        async with client.subscribe(since=self._since) as events:
            self._viewer.begin(await list_all(client, self._params))
            self.begun = self.came_far = True
            await self._follow(client, events)

    async def _follow(self, client: ControlClient, events: EventSubscription) -> None:
        self._since = events.seq
        async for event in events:
            self._viewer.change(event, await _conversation_after(event, client))
            self._since = event.seq


async def _conversation_after(event: Event, client: ControlClient) -> JsonValue:
    await trio.lowlevel.checkpoint()
    if event.conversation is None or event.kind == "progress":
        return None
    try:
        return await call(client, "conversation.get", {"id": event.conversation})
    except RemoteError as error:
        if error.has(ErrorCode.NOT_FOUND):
            return None
        raise


def _views(conversations: Sequence[JsonValue]) -> list[Conversation]:
    return [read_view(each, Conversation) for each in conversations]


def _is_final(error: ControlClientError) -> bool:
    if isinstance(error, RemoteError):
        return not any(error.has(code) for code in _LATER)
    return isinstance(error, NotAuthenticated | UnexpectedAnswer)
