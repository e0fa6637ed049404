"""What `watch` knows: the conversations as they are, and their picture."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.text import Text

from supervisor.cli.progress import BootProgress
from supervisor.cli.tables import ConversationTable
from supervisor.control.client_views import Conversation, Event
from supervisor.conversation.lifecycle import Status
from supervisor.safe_text import one_line

_BESIDE_ROWS: Final = 6
_ORDER: Final = {
    Status.ERROR: 0,
    Status.STARTING: 1,
    Status.RUNNING: 2,
    Status.PAUSED: 3,
    Status.STOPPED: 4,
    Status.ARCHIVED: 5,
}


class Board:
    """The conversations that are known, and whether they can still be believed. `lost` says why not."""

    def __init__(self, address: str, statuses: tuple[Status, ...] = ()) -> None:
        self.lost: str | None = None
        self._address = address
        self._statuses = statuses
        self._known: dict[str, Conversation] = {}
        self._boots: dict[str, BootProgress] = {}

    def begin(self, conversations: Sequence[Conversation]) -> None:
        """Forget what was known: these are all."""
        self.lost = None
        self._known = {each.id: each for each in conversations}
        self._boots = {}

    def put(self, conversation: Conversation) -> None:
        """Know this one as it is now."""
        self._known[conversation.id] = conversation

    def drop(self, conversation: str) -> None:
        """This one is gone."""
        self._known.pop(conversation, None)
        self._boots.pop(conversation, None)

    def note(self, conversation: str, event: Event) -> None:
        """Fold an event for what the conversation itself does not say: how far a pull is."""
        self._boots[conversation] = self._boots.get(conversation, BootProgress()).after(event)

    def shown(self) -> list[Conversation]:
        """What is to be seen: what needs a look first, then what runs, each oldest first."""
        chosen = [each for each in self._known.values() if not self._statuses or each.status in self._statuses]
        return sorted(chosen, key=lambda each: (_ORDER[each.status], each.created_at, each.id))

    def picture(self, now: datetime) -> "BoardPicture":
        """The board at a moment."""
        return BoardPicture(self._title(now), self.shown(), now, self._pulls())

    def table(self, now: datetime) -> ConversationTable:
        """The conversations alone, all of them."""
        return ConversationTable(self.shown(), now, self._pulls())

    def _title(self, now: datetime) -> Text:
        counts = {status: sum(each.status is status for each in self._known.values()) for status in _ORDER}
        words = ", ".join(f"{count} {status.lower()}" for status, count in counts.items() if count)
        title = Text(no_wrap=True, overflow="ellipsis")
        title.append(now.astimezone().strftime("%H:%M:%S  "), "dim")
        title.append(f"{words or 'no conversations'}  ", "bold").append(self._address, "dim")
        if self.lost is not None:
            title.append(f"\n{one_line(self.lost)}; connecting again, this is how it was", "bold red")
        return title

    def _pulls(self) -> Mapping[str, str]:
        pulls = {name: boot.pull for name, boot in self._boots.items()}
        return {name: f"{pull.current / pull.total:.0%}" for name, pull in pulls.items() if pull and pull.total}


class BoardPicture:
    """The board, cut to the height of the terminal."""

    def __init__(self, title: Text, conversations: list[Conversation], now: datetime, pulls: Mapping[str, str]) -> None:
        self._title = title
        self._conversations = conversations
        self._now = now
        self._pulls = pulls

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Title, table, and how many more there are."""
        room = max(options.size.height - _BESIDE_ROWS, 1)
        table = ConversationTable(self._conversations[:room], self._now, self._pulls)
        yield self._title
        yield Text()
        for line in console.render_lines(table, options.update(height=None), pad=False)[: room + 2]:
            yield from line
            yield Segment.line()
        if len(self._conversations) > room:
            yield Text(f"... and {len(self._conversations) - room} more", "dim")
