"""How a boot comes along, as a value that events are folded into, and its picture."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import attrs
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from supervisor.cli.amounts import amount, span
from supervisor.cli.telling import sentence
from supervisor.control.client_views import Event
from supervisor.conversation.lifecycle import Status
from supervisor.safe_text import one_line

_BAR_WIDTH: Final = 30
_TENTH: Final = 10


@attrs.frozen
class Pull:
    """Bytes of an image. `total` grows while the registry tells of more layers."""

    current: int
    total: int

    @property
    def tenths(self) -> int:
        """How many tenths have come."""
        return self.current * _TENTH // self.total if self.total else 0


@attrs.frozen
class PhasePassed:
    """A phase that is over; `seconds` is how long it took."""

    phase: str
    seconds: float


@attrs.frozen
class BootProgress:
    """A boot's way through its phases. `settled` says that the conversation is no longer STARTING."""

    passed: tuple[PhasePassed, ...] = ()
    phase: str | None = None
    since: datetime | None = None
    pull: Pull | None = None
    settled: bool = False
    failed: bool = False

    @property
    def is_begun(self) -> bool:
        """Whether there is a phase to show."""
        return self.phase is not None or bool(self.passed)

    def after(self, event: Event) -> "BootProgress":
        """The progress once this event is known."""
        match event.kind:
            case "phase":
                return self._enter(str(event.data.get("phase")), event.at)
            case "progress":
                return attrs.evolve(self, pull=_pull_of(event.data))
            case "restart_scheduled":
                return BootProgress()
            case "status" if event.data.get("to") == Status.STARTING:
                return BootProgress()
            case "status":
                failed = event.data.get("to") != Status.RUNNING
                return attrs.evolve(self._leave(event.at, failed=failed), settled=True, failed=failed)
            case _:
                return self

    def _enter(self, phase: str, at: datetime) -> "BootProgress":
        return attrs.evolve(self._leave(at, failed=False), phase=phase, since=at, pull=None)

    def _leave(self, at: datetime, *, failed: bool) -> "BootProgress":
        if self.phase is None or self.since is None or failed:
            return self
        passed = (*self.passed, PhasePassed(self.phase, (at - self.since).total_seconds()))
        return attrs.evolve(self, passed=passed, phase=None, since=None, pull=None)


def plain_line(before: BootProgress, event: Event) -> Text | None:
    """What a log of the boot says about an event: a pull only when another tenth has come."""
    if event.kind in ("phase", "restart_scheduled", "status", "health", "alert"):
        return _told(event)
    if event.kind == "progress":
        pull = _pull_of(event.data)
        if before.pull is None or pull.tenths != before.pull.tenths:
            return _told(event)
    return None


def notice(event: Event) -> Text | None:
    """What is said above the picture, to stay there: whatever the picture cannot show."""
    return _told(event) if event.kind in ("restart_scheduled", "health", "alert") else None


def _told(event: Event) -> Text:
    return Text.assemble((one_line(event.conversation or ""), "bold"), f" {event.kind}: ", sentence(event))


class BootPicture:
    """The picture of a boot: a line for each phase, a bar for the pull. `spinner` turns as long as it is drawn."""

    def __init__(self) -> None:
        self.progress = BootProgress()
        self._spinner: Final = Spinner("dots", style="cyan")

    def draw(self, now: datetime) -> RenderableType:
        """The picture at a moment."""
        grid = Table.grid(padding=(0, 1, 0, 0))
        for column in range(4):
            grid.add_column(no_wrap=True, justify="right" if column == 2 else "left")  # noqa: PLR2004 - times to the right
        for passed in self.progress.passed:
            grid.add_row(Text("\u2713", "green"), passed.phase, Text(span(passed.seconds), "dim"), "")
        if self.progress.phase is not None and self.progress.since is not None:
            elapsed = Text(span((now - self.progress.since).total_seconds()), "dim")
            mark = Text("\u2717", "bold red") if self.progress.failed else self._spinner
            grid.add_row(mark, one_line(self.progress.phase), elapsed, _bar(self.progress.pull))
        return Group(grid)


def _bar(pull: Pull | None) -> RenderableType:
    if pull is None:
        return ""
    grid = Table.grid(padding=(0, 1, 0, 0))
    share = pull.current / pull.total if pull.total else 0.0
    bar = ProgressBar(total=max(pull.total, 1), completed=pull.current, width=_BAR_WIDTH)
    grid.add_row(bar, f"{share:>4.0%}", f"{amount(pull.current)} of {amount(pull.total)}")
    return grid


def _pull_of(data: Mapping[str, Any]) -> Pull:  # Any: events carry JSON that nobody has looked into
    current, total = data.get("current"), data.get("total")
    return Pull(current if isinstance(current, int) else 0, total if isinstance(total, int) else 0)
