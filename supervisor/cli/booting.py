"""Commands that may boot a sandbox: its phases are shown while the answer is waited for."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

import trio
from rich.live import Live

from supervisor.cli.asks import Boot
from supervisor.cli.calls import call
from supervisor.cli.progress import BootPicture, BootProgress, notice, plain_line
from supervisor.cli.screen import Screen
from supervisor.control.client import ControlClient, EventSubscription
from supervisor.control.client_transport import beside
from supervisor.control.client_views import ControlClientError, Event
from supervisor.conversation.json import JsonValue

_LAST_WORDS: Final = 0.5
_FRAME: Final = 0.1


async def boot(ask: Boot, client: ControlClient, screen: Screen) -> JsonValue:
    """Carry out the command and show the phases: drawn on a terminal, else as lines; not at all beside JSON."""
    if screen.as_json:
        return await call(client, ask.method, ask.params)
    ids = [] if ask.target is None else [ask.target]
    # Subscribed before it is asked, so that no phase is missed.
    async with client.subscribe(ids=ids) as events:
        show = _Drawing(screen) if screen.shows_progress else _Lines(screen)
        follower = _Follower(events, show.tell)
        with show:
            async with beside(follower.run), beside(show.animate):
                try:
                    return await call(client, ask.method, ask.params)
                finally:
                    with trio.move_on_after(_LAST_WORDS, shield=True):
                        await follower.caught_up()


class _Follower:
    """Folds the events of one conversation, one after the other, while its command is carried out."""

    def __init__(self, events: EventSubscription, tell: Callable[[BootProgress, Event, BootProgress], None]) -> None:
        self._events = events
        self._tell = tell
        self._progress = BootProgress()
        self._settled = trio.Event()

    async def run(self) -> None:
        """Follow until the subscription ends; why it ended is told by the command, which fails with it."""
        await trio.lowlevel.checkpoint()
        with suppress(ControlClientError):
            while True:
                self._take(await anext(self._events))
        self._settled.set()

    def _take(self, event: Event) -> None:
        before, self._progress = self._progress, self._progress.after(event)
        self._tell(before, event, self._progress)
        if self._progress.settled:
            self._settled.set()

    async def caught_up(self) -> None:
        """Wait for the events that are still on their way when the answer is there, if a boot was seen at all."""
        await trio.lowlevel.checkpoint()
        if self._progress.is_begun:
            await self._settled.wait()


class _Lines:
    """Tells a boot in lines on standard error."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen

    def __enter__(self) -> None:
        """Nothing has to be set up."""

    def __exit__(self, *_: object) -> None:
        """Nothing has to be taken down."""

    def tell(self, before: BootProgress, event: Event, _: BootProgress) -> None:
        """Print what the event says."""
        line = plain_line(before, event)
        if line is not None:
            self._screen.complain(line)

    async def animate(self) -> None:
        """Lines do not move."""
        await trio.lowlevel.checkpoint()


class _Drawing:
    """Draws a boot on the terminal behind standard error, from its first phase on."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._picture = BootPicture()
        self._live = Live(console=screen.err, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> None:
        """Begin with nothing: what follows may need no boot."""

    def __exit__(self, *_: object) -> None:
        self._draw()
        self._live.stop()

    def tell(self, _: BootProgress, event: Event, progress: BootProgress) -> None:
        """Draw what the event changed; print above it what the picture cannot show."""
        self._picture.progress = progress
        said = notice(event)
        if said is not None:
            self._screen.err.print(said)
        self._draw()

    async def animate(self) -> None:
        """Let the spinner turn and the times grow."""
        while True:
            await trio.sleep(_FRAME)
            self._draw()

    def _draw(self) -> None:
        if not (self._picture.progress.is_begun or self._live.is_started):
            return
        self._live.start()
        self._live.update(self._picture.draw(datetime.now(UTC)), refresh=True)
